"""Weights that PyTorch stores in parts, put together: what its forward pass multiplies with.

    weight norm      W = g ⊙ V / ‖V‖         X_g, X_v;  parametrizations.X.original0, original1
    spectral norm    W = V / (uᵀ V v)        X_orig, X_u, X_v;  parametrizations.X.original, X.0._u, X.0._v
    pruning          W = V ⊙ M               X_orig, X_mask
    weight drop      W, of which the module keeps a thinned copy        X_raw;  beside it module.X

The norm is taken over all axes but those along which g has more than one entry. u and v are used as they are
stored, as in PyTorch's evaluation mode. A parametrization of another kind is left as it is.

Sources: Salimans & Kingma 2016; Miyato et al. 2018; Merity et al. 2017.
"""

import re
from typing import Any

import numpy as np

from lstm_jax.validation import ShapeError, show_shape
from lstm_jax.weights.arrays import to_numpy

PARAMETRIZED = re.compile(r"(?:(.*)\.)?parametrizations\.([^.]+)\.original(0?)")


def effective_weights(arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Put stored parts together.

    Args:
        arrays: by their names, as from `flat_arrays`.

    Returns:
        The arrays with the weights in place of their parts, and by the name of each such weight what it was
        made of, in words.

    Raises:
        ShapeError: parts that do not fit each other.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.weights.effective_weights import effective_weights
        >>> parts = {"weight_hh_l0_g": np.full((1, 1), 10.0), "weight_hh_l0_v": np.array([[3.0, 4.0]])}
        >>> effective_weights(parts)
        ({'weight_hh_l0': array([[6., 8.]])}, {'weight_hh_l0': 'weight norm'})
    """
    found, made = dict(arrays), {}
    places = {name: place for place, name in enumerate(arrays)}

    def put(target: str, value: Any, used: list[str], words: str) -> None:
        for part in used:
            del found[part]
        places[target] = places[used[0]]
        found[target], made[target] = value, words

    for name in arrays:
        for read in (_parametrized, _weight_norm, _spectral_norm, _pruned):
            result = read(name, found) if name in found else None
            if result is not None:
                put(*result)
    for name in [name for name in found if name.endswith("_raw")]:
        target = _dropped(name.removesuffix("_raw"), found)
        if target is not None:
            put(target, found[name], [name], "weight drop, without its noise")
    # In the order of the file.
    return {name: found[name] for name in sorted(found, key=places.__getitem__)}, made


Result = tuple[str, Any, list[str], str] | None
"""Name of the weight, its value, the names that it replaces, and what it is in words."""


def _parametrized(name: str, arrays: dict[str, Any]) -> Result:
    match = PARAMETRIZED.fullmatch(name)
    if not match:
        return None
    target = f"{match[1]}.{match[2]}" if match[1] else match[2]
    if match[3]:
        other = name[:-1] + "1"
        if other not in arrays:
            return None
        value = _normed(target, arrays[name], arrays[other])
        return target, value, [name, other], "weight norm"
    parts = [name.removesuffix("original") + part for part in ("0._u", "0._v")]
    if not all(part in arrays for part in parts):
        return None
    value = _spectral(target, arrays[name], *(arrays[part] for part in parts))
    return target, value, [name, *parts], "spectral norm"


def _weight_norm(name: str, arrays: dict[str, Any]) -> Result:
    target = name.removesuffix("_g")
    other = f"{target}_v"
    if target == name or other not in arrays or f"{target}_orig" in arrays:
        return None
    return target, _normed(target, arrays[name], arrays[other]), [name, other], "weight norm"


def _spectral_norm(name: str, arrays: dict[str, Any]) -> Result:
    target = name.removesuffix("_orig")
    parts = [f"{target}_u", f"{target}_v"]
    if target == name or not all(part in arrays for part in parts):
        return None
    value = _spectral(target, arrays[name], *(arrays[part] for part in parts))
    return target, value, [name, *parts], "spectral norm"


def _pruned(name: str, arrays: dict[str, Any]) -> Result:
    target = name.removesuffix("_orig")
    mask = f"{target}_mask"
    if target == name or mask not in arrays or arrays[mask].shape != arrays[name].shape:
        return None
    value = to_numpy(name, arrays[name])
    value = value * to_numpy(mask, arrays[mask]).astype(value.dtype)
    return target, value, [name, mask], "pruning"


def _normed(name: str, g: Any, v: Any) -> np.ndarray:
    g, v = to_numpy(f"{name}, its lengths", g), to_numpy(f"{name}, its directions", v)
    fits = g.ndim in (0, v.ndim) and all(
        size in (1, full) for size, full in zip(g.shape, v.shape, strict=False)
    )
    if not fits:
        raise ShapeError(
            f"Shape mismatch: expected lengths of {name} for directions {show_shape(v.shape)}, got "
            f"{show_shape(g.shape)}."
        )
    axes = tuple(axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1)
    wide = v.astype(np.float64)
    norm = np.sqrt((wide**2).sum(axes, keepdims=True))
    return (g.astype(np.float64) * wide / norm).astype(v.dtype)


def _spectral(name: str, weight: Any, u: Any, v: Any) -> np.ndarray:
    weight, u, v = (to_numpy(name, part) for part in (weight, u, v))
    if weight.ndim != 2 or weight.shape != u.shape + v.shape:
        raise ShapeError(
            f"Shape mismatch: expected {name} [m, n] with its vectors [m] and [n], got "
            f"{', '.join(show_shape(part.shape) for part in (weight, u, v))}."
        )
    wide = weight.astype(np.float64)
    return (wide / (u.astype(np.float64) @ wide @ v.astype(np.float64))).astype(weight.dtype)


def _dropped(name: str, arrays: dict[str, Any]) -> str | None:
    """The name of the weight that a raw one stands for: here, or in the module that is wrapped."""
    place, _, leaf = name.rpartition(".")
    sibling = leaf.replace("weight_hh", "weight_ih")
    for inner in (place, f"{place}.module" if place else "module"):
        dot = f"{inner}." if inner else ""
        if dot + sibling in arrays or f"{dot}{sibling}_raw" in arrays:
            return dot + leaf
    return None
