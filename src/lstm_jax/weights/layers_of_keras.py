"""Recognise Keras's recurrent layers by the names and shapes of their arrays, with what a configuration says.

encoder.kernel  encoder.recurrent_kernel  encoder.bias                      a layer, or a cell inside of it
both.forward_lstm.kernel  …  both.backward_lstm.kernel  …                   Bidirectional
"""

import re
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.layers.stack import Backward, Bidirectional, Both
from lstm_jax.validation import show_shape
from lstm_jax.weights.arrays import to_numpy
from lstm_jax.weights.cell_specification import KINDS
from lstm_jax.weights.gate_order import gates_of, reorder
from lstm_jax.weights.keras import from_keras
from lstm_jax.weights.keras_configuration import Settings
from lstm_jax.weights.recurrent_layer import Choices, RecurrentLayer

PARTS = ("kernel", "recurrent_kernel", "bias")
CELL = re.compile(r"(.*[^.])\.(?:cell|(?:cu_dnn_)?(?:lstm|gru|simple_rnn)_cell(?:_\d+)?)")
SIDE = re.compile(r"(?:(.*)\.)?(forward|backward)_([^.]+)")


class _Side(NamedTuple):
    """One direction: its place, its arrays as `PARTS`, its number of gates."""

    place: str
    arrays: list[Any]
    gates: int


def layers_of_keras(
    arrays: dict[str, Any], settings: dict[str, list[Settings]], version: str | None
) -> tuple[list[tuple[str, RecurrentLayer]], list[str]]:
    """The layers among the arrays.

    Args:
        arrays: by their names, with dots.
        settings: of layers by name, from `configured_layers`; empty where there is no configuration.
        version: of Keras, where the source says it.

    Returns:
        ``(name of the first array, layer)`` for each, and sentences on what nearly was one.
    """
    places: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        place, _, part = name.rpartition(".")
        if part in PARTS:
            places.setdefault(place, {})[part] = array
    places = {place: parts for place, parts in places.items() if "recurrent_kernel" in parts}
    short: dict[str, list[str]] = {}
    for place in places:
        match = CELL.fullmatch(place)
        short.setdefault(match[1] if match else place, []).append(place)
    sides, misses = {}, []
    for name, longer in short.items():
        for place in longer:
            parts = places[place]
            problem = _problem(parts)
            if problem:
                misses.append(f"{place or 'the root'}: {problem}")
                continue
            gates = parts["recurrent_kernel"].shape[1] // parts["recurrent_kernel"].shape[0]
            # Cells that share a layer keep their own names.
            key = name if len(longer) == 1 else place
            sides[key] = _Side(place, [parts[p] for p in PARTS if p in parts], int(gates))
    below: dict[str, list[str]] = {}
    for name in sides:
        below.setdefault(name.rpartition(".")[0], []).append(name)
    found: list[tuple[str, RecurrentLayer]] = []
    done: set[str] = set()
    for name, side in sides.items():
        if name in done:
            continue
        above = name.rpartition(".")[0]
        configured = above.rpartition(".")[2] in settings
        names = _pair(name, below[above], configured)
        pair = [sides[one] for one in names]
        if len(pair) == 2:
            done |= set(names)
            found.append((_begin(side), _layer(above, pair, settings, version)))
        else:
            found.append((_begin(side), _layer(name, [side], settings, version)))
    return found, misses


def _begin(side: _Side) -> str:
    return f"{side.place}.kernel" if side.place else "kernel"


def _pair(name: str, beside: list[str], configured: bool) -> list[str]:
    """Both directions of a ``Bidirectional``, forward first; empty where a layer is not one of them.

    They are named after one layer. A backward layer of its own has its own name; then there are the two
    alone, in what the configuration knows as one layer.
    """
    match = SIDE.fullmatch(name)
    if match:
        dot = f"{match[1]}." if match[1] else ""
        names = [f"{dot}{way}_{match[3]}" for way in ("forward", "backward")]
        if set(names) <= set(beside):
            return names
    if configured and len(beside) == 2:
        return sorted(beside, key=lambda one: not one.rpartition(".")[2].startswith("forward_"))
    return []


def _problem(parts: dict[str, Any]) -> str | None:
    """Why arrays with the right names are none of a recurrent layer; None where they are."""
    if "kernel" not in parts:
        return f"recurrent_kernel {show_shape(parts['recurrent_kernel'].shape)} without a kernel"
    kernel, recurrent = tuple(parts["kernel"].shape), tuple(parts["recurrent_kernel"].shape)
    shown = f"kernel {show_shape(kernel)} and recurrent_kernel {show_shape(recurrent)}"
    if len(kernel) != 2 or len(recurrent) != 2 or 0 in (*kernel, *recurrent):
        return f"{shown} are no two matrices"
    if recurrent[1] % recurrent[0] or recurrent[1] // recurrent[0] not in KINDS:
        return f"{shown} have no 1, 3 or 4 gates"
    return None if kernel[1] == recurrent[1] else f"{shown} do not fit each other"


def _layer(
    name: str, sides: list[_Side], settings: dict[str, list[Settings]], version: str | None
) -> RecurrentLayer:
    kinds = [KINDS[side.gates] for side in sides]
    kind = kinds[0]
    units = [int(side.arrays[1].shape[0]) for side in sides]
    known, assumed, refused = _known(name, kinds, units, settings)
    if known is None:
        assumed += _assumptions(kind, sides, version)
    else:
        refused = next((one.refused for one in known if one.refused), refused)
        if len(sides) == 2 and known[0].merge_mode not in ("concat", None):
            refused = (
                f"merge_mode={known[0].merge_mode!r} of its directions; a layer here has them side by side. "
                "Read each direction by weights.from_keras"
            )
        for own in sorted({one.own_class for one in known if one.own_class}):
            assumed.append(
                f"The class {own} is the source's own, and taken for Keras's of that name with its options. "
                "Compare some outputs with the source's."
            )
        if len(sides) == 1 and known[0].go_backwards:
            assumed.append(
                "It runs backwards (go_backwards); its outputs are in the order of the inputs, where Keras "
                "has the last first."
            )
    if any(len(side.arrays) == 3 and _is_cudnn(side) for side in sides):
        assumed.append(
            "cuDNN's two biases and its kernels, transposed gate by gate; activations are tanh and sigmoid."
        )

    def read(choices: Choices) -> tuple[Any, Any]:
        pairs = [
            _read_side(name, own, side, choices, known[number % len(known)] if known else None)
            for number, (own, side) in enumerate(zip(kinds, sides, strict=True))
        ]
        if len(pairs) == 2:
            return Bidirectional(pairs[0][0], pairs[1][0]), Both(pairs[0][1], pairs[1][1])
        cell, params = pairs[0]
        return (Backward(cell) if known and known[0].go_backwards else cell), params

    # cuDNN's kernels have their shapes too: the buffer is another, the sizes are not.
    sizes = (int(sides[0].arrays[0].shape[0]), units[0])
    return RecurrentLayer(name, kind, *sizes, len(sides), 1, tuple(assumed), refused, read)


def _is_cudnn(side: _Side) -> bool:
    return tuple(side.arrays[2].shape) == (2 * side.arrays[0].shape[1],) and side.gates > 1


def _known(
    name: str, kinds: list[str], units: list[int], settings: dict[str, list[Settings]]
) -> tuple[list[Settings] | None, list[str], str | None]:
    """The settings of each direction; None with an assumption, or a refusal, where they are not clear."""
    fitting: list[Settings] = []
    # The innermost name that is known: TensorFlow may put a scope of its own around a weight.
    for part in reversed(name.split(".")):
        named = settings.get(part, [])
        fitting = [one for one in named if one.kind in kinds and one.units in (None, *units)]
        if fitting:
            break
    if not fitting:
        return None, [], None
    if len(units) == 2 and len(fitting) == 2 and fitting[0].merge_mode == fitting[1].merge_mode:
        return fitting, [], None
    if len({one._replace(units=None) for one in fitting}) > 1:
        return (
            None,
            [],
            f"several layers of the name {name!r} with different options. Use from_keras",
        )
    return fitting[:1], [], None


def _assumptions(kind: str, sides: list[_Side], version: str | None) -> list[str]:
    if kind == "rnn":
        return [
            "The activation tanh, which no array tells. Where the source has outputs above 1, it is another: "
            "give activation='relu'."
        ]
    if len(sides[0].arrays) == 3 and _is_cudnn(sides[0]):
        return []
    words = "Activations tanh and sigmoid, forward in time: no configuration says them."
    if version is not None and _older_than_2_3(version):
        words += (
            f" Keras before 2.3 has hard_sigmoid unless told otherwise, and Keras {version} wrote this: "
            "where it was used, outputs differ by some 0.05."
        )
    else:
        words += " Compare some outputs with the source's."
    return [words]


def _older_than_2_3(version: str) -> bool:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", version)
    return match is not None and (int(match[1]), int(match[2])) < (2, 3)


def _read_side(
    name: str, kind: str, side: _Side, choices: Choices, known: Settings | None
) -> tuple[Any, Any]:
    dot = f"{side.place}." if side.place else ""
    arrays = [to_numpy(dot + part, array) for part, array in zip(PARTS, side.arrays, strict=False)]
    if choices.gate_order is not None:
        order, theirs = choices.gate_order, gates_of(kind, "keras")
        split = len(arrays) == 3 and _is_cudnn(side)
        if split:
            arrays[2] = arrays[2].reshape(2, -1)
        arrays = [reorder(array, order, theirs) for array in arrays]
        if split:
            arrays[2] = np.ravel(arrays[2])
    reset_after = choices.reset_after
    if kind == "gru" and len(arrays) == 3:
        told = arrays[2].ndim == 2 or _is_cudnn(side)
        if reset_after not in (None, told):
            raise ValueError(
                f"Option mismatch: expected reset_after={told} for {name!r}, as its bias "
                f"{show_shape(arrays[2].shape)} tells, got {reset_after}."
            )
        reset_after = told
    if kind == "gru" and reset_after is None and known is not None:
        reset_after = known.reset_after
    if kind == "gru" and reset_after is None:
        raise ValueError(
            f"Form needed: expected reset_after= for the gru {name!r}, because without a bias its arrays "
            "fit both forms, got none. Give True where the reset gate acts after the product, else False."
        )
    if kind == "rnn":
        activation = choices.activation or (known.activation if known else "tanh")
        return from_keras(arrays, kind=kind, activation=activation)
    return from_keras(arrays, kind=kind, reset_after=reset_after is not False)
