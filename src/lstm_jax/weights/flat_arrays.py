"""A nested mapping of arrays as one flat mapping, with dots between the parts of a name.

What is not an array is left out, and so is what belongs to an optimizer: its moments have the names and
shapes of weights, and are none. ``lstm/kernel:0`` is ``lstm.kernel``.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

CONTAINERS = {
    *("state_dict", "model_state_dict", "model_state", "model_dict", "model", "net", "network"),
    *("weights", "params", "variables", "state"),
}
"""Names that checkpoints give to the whole model; they are not part of a layer's name."""
OPTIMIZER = re.compile(
    r"(optim(?!izedlstm).*|opt|opt_state|(lr_)?schedulers?.*|grad_scaler|scaler)", re.IGNORECASE
)
DEEPEST = 40
"""Levels of mappings that are looked into."""


def flat_arrays(source: Mapping[Any, Any]) -> dict[str, Any]:
    """``{"encoder.rnn.weight_ih_l0": array, …}`` of a mapping, however nested; arrays are not copied.

    Names of whole models in front are left out where the others stay different from each other.

    Raises:
        ValueError: mappings that are nested without an end.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.weights.flat_arrays import flat_arrays
        >>> list(flat_arrays({"step": 3, "model_state": {"lstm.weight_ih_l0": np.ones((4, 1))}}))
        ['lstm.weight_ih_l0']
    """
    pairs = list(_leaves(source, (), ()))
    short = [".".join(_without_containers(parts)) for parts, _ in pairs]
    full = [".".join(parts) for parts, _ in pairs]
    names = short if len(set(short)) == len(short) else full
    return {name: leaf for name, (_, leaf) in zip(names, pairs, strict=True)}


def _leaves(
    value: Any, parts: tuple[str, ...], above: tuple[int, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if id(value) in above or len(above) > DEEPEST:
        raise ValueError(
            f"Structure mismatch: expected at most {DEEPEST} levels of mappings, got more at "
            f"{'.'.join(parts)[:200]!r}."
        )
    if isinstance(value, Mapping):
        for key, inner in value.items():
            # A path of parts may be the key, as in flattened parameters of Flax.
            key = ".".join(map(str, key)) if isinstance(key, tuple) else str(key)
            nested = isinstance(inner, (Mapping, list, tuple))
            if not (nested and OPTIMIZER.fullmatch(key)):
                name = key.replace("/", ".").removesuffix(":0")
                yield from _leaves(inner, (*parts, name), (*above, id(value)))
    elif hasattr(value, "_asdict"):
        yield from _leaves(value._asdict(), parts, (*above, id(value)))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            if isinstance(inner, (Mapping, list, tuple)) or _is_array(inner):
                yield from _leaves(inner, (*parts, str(number)), (*above, id(value)))
    elif _is_array(value):
        yield parts, value


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _without_containers(parts: tuple[str, ...]) -> tuple[str, ...]:
    while len(parts) > 1 and parts[0] in CONTAINERS:
        parts = parts[1:]
    return parts
