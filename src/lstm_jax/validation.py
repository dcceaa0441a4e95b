"""Checks of arguments: each raises an error that names the expected and the actual value.

Shapes and dtypes are static, so they are checked while tracing, at no run-time cost. Values (a NaN, an
infinity) are known only where they are concrete: `require_finite` checks those and skips traced
values.
"""

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from lstm_jax.array_types import PyTree

AnyPath = str | os.PathLike[str]
"""A path as a text or as a `pathlib.Path`."""

LARGEST = 2**31 - 1
"""The largest size: JAX counts in int32."""

LONGEST_SHOWN = 200
"""Characters of a value that a message shows, at most."""

NAMED_SAMPLES = 8
"""Samples that a message names, at most."""


class ShapeError(ValueError):
    """An array has the wrong rank or size."""


class DtypeError(TypeError):
    """An array has the wrong dtype."""


class NonFiniteError(ValueError):
    """An array holds a NaN or an infinity."""


def leaf_name(path: tuple[Any, ...]) -> str:
    """The path of a pytree's leaf as a user would write it: ``h``, ``0.w_x``, ``layers.1.b``."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def show_shape(shape: Sequence[int | str]) -> str:
    """Print a shape as ``[T, 5, 64]``."""
    return "[" + ", ".join(str(size) for size in shape) + "]"


def in_one_line(value: Any) -> str:
    """Print a value in one line: an array of several numbers by its dtype and shape."""
    if isinstance(value, (jax.Array, np.ndarray)) and (np.size(value) > 4 or value.ndim > 1):
        return f"an array {value.dtype}{show_shape(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def is_symbolic(size: Any) -> bool:
    """Whether a size is a variable of `jax.export.symbolic_shape`, known only when the export is called."""
    return bool(export.is_symbolic_dim(size))


def require_positive_int(name: str, value: Any) -> None:
    """Refuse anything but a positive whole number that an int32 holds."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(
            f"Size mismatch: expected {name} to be a positive integer, got {in_one_line(value)}."
        )
    if value > LARGEST:
        raise ValueError(f"Size mismatch: expected {name} of at most {LARGEST}, got {value}.")


def require_int(name: str, value: Any, *, least: int = 0, most: int = LARGEST) -> None:
    """Refuse anything but a whole number in a range; a traced one is not checked."""
    if isinstance(value, (jax.Array, np.ndarray)) and jnp.issubdtype(value.dtype, jnp.integer):
        if isinstance(value, jax.core.Tracer) and value.shape == ():
            return
        value = np.asarray(value)[()]
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not least <= value <= most:
        raise ValueError(
            f"Range mismatch: expected {name} as a whole number from {least} to {most}, got "
            f"{in_one_line(value)}."
        )


def require_text(name: str, value: Any) -> None:
    """Refuse anything but a text."""
    if not isinstance(value, str):
        raise TypeError(f"Type mismatch: expected {name} as a text, got {in_one_line(value)}.")


def require_array(name: str, value: Any) -> None:
    """Refuse anything but an array of JAX or NumPy, or a number of theirs."""
    if isinstance(value, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "OSUM":
            return
        got = f"a NumPy array of {value.dtype}"
    else:
        got = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    more = f" Do jnp.asarray({name}.numpy())." if got == "torch.Tensor" else ""
    raise TypeError(f"Type mismatch: expected {name} as an array of JAX or NumPy, got {got}.{more}")


def as_array(name: str, value: Any) -> np.ndarray | Any:
    """An array, or nested lists of numbers, as an array that keeps its values: nothing is cast."""
    if not isinstance(value, (list, tuple)):
        require_array(name, value)
        return value
    try:
        array = np.asarray(value)
    except ValueError:
        raise ShapeError(
            f"Shape mismatch: expected {name} with rows of one length, got rows of several."
        ) from None
    require_array(name, array)
    return array


def require_floating_dtype(dtype: Any, name: str = "dtype") -> Any:
    """The floating dtype that is named, as JAX holds it; refuse any other."""
    try:
        found = jax.dtypes.canonicalize_dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise DtypeError(
            f"Dtype mismatch: expected {name} as a floating one, got {in_one_line(dtype)}."
        )
    return found


def require_parameters(name: str, function: Any, names: str) -> None:
    """Refuse anything but a function that takes as many arguments as ``names`` lists.

    Raises:
        TypeError: with the arguments that are expected.
    """
    if not callable(function):
        raise TypeError(f"Type mismatch: expected {name}({names}), got {in_one_line(function)}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in function need not tell
        return
    try:
        signature.bind(*filter(None, names.split(", ")))
    except TypeError:
        shown = f"{getattr(function, '__name__', name)}{signature}"
        raise TypeError(f"Type mismatch: expected {name}({names}), got {shown}.") from None


def require_bool(name: str, value: Any) -> None:
    """Refuse anything but True and False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(
            f"Option mismatch: expected {name} as True or False, got {in_one_line(value)}."
        )


def require_type(name: str, value: Any, expected: type) -> None:
    """Refuse a value that is not of the expected type."""
    if not isinstance(value, expected):
        raise TypeError(
            f"Type mismatch: expected {name} as {expected.__name__}(...), got "
            f"{type(value).__name__}."
        )


def require_path(name: str, value: Any) -> Path:
    """The path that a text or a `pathlib.Path` names; refuse anything else, and an empty text."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(
            f"Type mismatch: expected {name} as a path, a text or a pathlib.Path, got {in_one_line(value)}."
        )
    if not os.fspath(value) or "\0" in os.fspath(value):
        raise ValueError(f"Path mismatch: expected {name} as a path, got {os.fspath(value)!r}.")
    return Path(value)


def require_one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a name that is not among the known ones."""
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"Unknown {name}: expected one of {known}, got {in_one_line(value)}.")


def require_number(
    name: str, value: Any, *, above: float | None = None, least: float | None = None
) -> None:
    """Refuse anything but a finite number, above a bound or of at least one."""
    kinds = (int, float, np.integer, np.floating)
    number = isinstance(value, kinds) and not isinstance(value, bool)
    if number and float("-inf") < value < float("inf"):
        if (above is None or value > above) and (least is None or value >= least):
            return
    bound = "" if above is None or np.isinf(above) else f" above {above:g}"
    bound += "" if least is None else f" of at least {least:g}"
    raise ValueError(
        f"Range mismatch: expected {name} as a finite number{bound}, got {in_one_line(value)}."
    )


def require_names(name: str, values: Any, choices: Sequence[str]) -> tuple[str, ...]:
    """Refuse anything but a sequence of known names; drop repetitions."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"Type mismatch: expected {name} as a list of names, got {values!r}.")
    for value in values:
        require_one_of(name.removesuffix("s"), value, choices)
    return tuple(dict.fromkeys(values))


def require_key(key: Any) -> None:
    """Refuse anything but one JAX random key (new style, or a raw uint32[2])."""
    if isinstance(key, (jax.Array, np.ndarray)):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
            return
        if key.dtype == np.uint32 and key.shape == (2,):
            return
        got = f"{key.dtype}{show_shape(key.shape)}"
    else:
        got = f"{type(key).__name__} {key!r}"
    raise TypeError(f"Key mismatch: expected one key from jax.random.key(seed), got {got}.")


def require_same_structure(name: str, value: PyTree, like: PyTree) -> None:
    """Refuse a pytree whose containers differ from those of ``like``."""
    got: Any = jax.tree.structure(value)
    expected: Any = jax.tree.structure(like)
    if got != expected:
        raise TypeError(f"Structure mismatch: expected {name} as {expected}, got {got}.")


def require_arrays(
    name: str, value: PyTree, shapes: PyTree, dtype: Any, *, legend: str = ""
) -> None:
    """Refuse a pytree of arrays whose structure, shapes or dtype are not the expected ones.

    Args:
        name: of the value in the message.
        value: pytree of arrays.
        shapes: pytree of the same structure whose leaves have a ``shape``.
        dtype: the dtype of every leaf.
        legend: named sizes, appended to a shape message.
    """
    require_same_structure(name, value, shapes)
    leaves, _ = jax.tree_util.tree_flatten_with_path(value)
    for (path, leaf), expected in zip(leaves, jax.tree.leaves(shapes), strict=True):
        label = f"{name}.{leaf_name(path)}" if path else name
        require_array(label, leaf)
        if jnp.shape(leaf) != tuple(expected.shape):
            raise ShapeError(
                f"Shape mismatch: expected {label} {show_shape(expected.shape)}"
                f"{f' ({legend})' if legend else ''}, got {show_shape(jnp.shape(leaf))}."
            )
        require_dtype(label, leaf, dtype)


def require_dtype(name: str, value: Any, dtype: Any, *, why: str = "the parameters'") -> None:
    """Refuse an array of another dtype."""
    got = jnp.result_type(value)
    if got != dtype:
        raise DtypeError(
            f"Dtype mismatch: expected {name} {jnp.dtype(dtype).name} ({why} dtype), "
            f"got {got.name}."
        )


def require_tree_of_arrays(name: str, value: PyTree) -> None:
    """Refuse a pytree with a leaf that is neither an array nor a number."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        if not isinstance(leaf, (bool, int, float)):
            require_array(f"{name}.{leaf_name(path)}" if path else name, leaf)


def require_finite(
    name: str, value: PyTree, *, time_axis: bool = False, batched: bool = False
) -> None:
    """Refuse a concrete array with a NaN or an infinity, naming where it first appears.

    Args:
        name: of the value in the message.
        value: pytree of arrays; traced ones are not checked.
        time_axis: whether the leading axis is time, so that the step can be named (from 1).
        batched: whether a batch axis follows the time axis, so that the samples can be named (from 0).
    """
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        if isinstance(leaf, jax.core.Tracer) or not jnp.issubdtype(
            jnp.result_type(leaf), jnp.inexact
        ):
            continue
        # NumPy, not JAX: under jit a constant array is concrete, but JAX would trace its isfinite.
        array = np.asarray(leaf)
        bad = ~np.isfinite(array)
        if bad.any():
            first = np.unravel_index(int(np.argmax(bad)), bad.shape)
            found.append((tuple(int(n) for n in first), path, array))
    if not found:
        return
    # Of several leaves, name the one that is wrong at the earliest step.
    where_first, path, array = min(found, key=lambda leaf: leaf[0][:1]) if time_axis else found[0]
    what = "NaN" if np.isnan(array[where_first]) else "an infinity"
    label = f"{name}.{leaf_name(path)}" if path else name
    where = f"at index {show_shape(where_first)}"
    if time_axis and where_first:
        where = f"first at step {where_first[0] + 1} of {array.shape[0]}"
        if batched and array.ndim > 1 and array.shape[1] > 1:
            where += f", in {named_samples(array)}"
    raise NonFiniteError(f"Non-finite value: expected finite {label}, got {what} {where}.")


def named_samples(array: np.ndarray) -> str:
    """Which samples of [T, B, ...] have a NaN or an infinity: ``sample 2 of 8``, counted from 0."""
    bad = ~np.isfinite(array).all(axis=(0, *range(2, array.ndim)))
    which = [str(n) for n in np.flatnonzero(bad)]
    shown = ", ".join(which[:NAMED_SAMPLES]) + (", …" if len(which) > NAMED_SAMPLES else "")
    return f"{'sample' if len(which) == 1 else 'samples'} {shown} of {array.shape[1]}"


def require_finite_arguments(
    params: PyTree, state0: PyTree, xs: PyTree, *, batched: bool = False
) -> None:
    """Refuse a NaN or an infinity in the inputs of a run; for xs, the message names step and samples."""
    require_finite("params", params)
    require_finite("state0", state0)
    require_finite("xs", xs, time_axis=True, batched=batched)
