"""Recognise the layers of TensorFlow 1 and Haiku, most of which have one kernel for [x_t, h_{t−1}].

    rnn.basic_lstm_cell.kernel [D + H, 4H]   bias [4H]      TensorFlow 1; also weights, biases; i, j, f, o
    rnn.gru_cell.gates.kernel [D + H, 2H]    candidate.kernel [D + H, H]    r, u and n; resets before
    rnn.basic_rnn_cell.kernel [D + H, H]     bias [H]       tanh
    bidirectional_rnn.fw.….kernel            bw.….kernel    two directions of one layer
    lstm.linear.w [D + H, 4H]                linear.b [4H]    hk.LSTM; i, g, f, o, and 1 added to f
    gru.w_i [D, 3H]   w_h [H, 3H]            b [3H]           hk.GRU; z, r, a, z = 1 − u; resets before
    vanilla_rnn.linear.w [D, H]              linear_1.w [H, H]    hk.VanillaRNN; relu

Any dense layer has a kernel and a bias too, so the module's name has to say ``lstm`` or ``rnn`` beside shapes
that fit. What fits by its shapes alone is named among the misses, with the function that reads it.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.cells import RNNParams, gru, rnn
from lstm_jax.cells.gru_reset_before import GRUResetBeforeParams
from lstm_jax.validation import show_shape
from lstm_jax.weights.arrays import require_one_dtype, to_jax, to_numpy
from lstm_jax.weights.cell_specification import joined as both_directions
from lstm_jax.weights.gate_order import LSTM, reorder
from lstm_jax.weights.haiku import from_haiku
from lstm_jax.weights.recurrent_layer import Choices, RecurrentLayer, require_no_choices
from lstm_jax.weights.tensorflow import from_tensorflow_cell

NAME = re.compile(r"(?:(?P<place>.*)\.)?(?P<part>kernel|weights|w|bias|biases|b|w_i|w_h)")
PARTS = {"weights": "kernel", "w": "kernel", "biases": "bias", "b": "bias"}
LSTM_NAME = re.compile(r"(?:.*\.)?\w*lstm_?(?:block_?)?(?:cell)?(?:_?\d+)?", re.IGNORECASE)
RNN_NAME = re.compile(r"(?:.*\.)?(?:basic_rnn_cell|vanilla_rnn|rnn|rnn_cell)(?:_\d+)?")
FORWARD = re.compile(r"(?:(?P<place>.*)\.)?fw\.(?P<cell>[^.]+)")
OTHER_PARTS = {
    "w_f_diag": "peepholes (w_f_diag)",
    "projection.kernel": "a projection of h (projection/kernel)",
}

Found = tuple[list[tuple[str, RecurrentLayer]], list[str]]


class _Part(NamedTuple):
    """An array, and its name in the source."""

    name: str
    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)


def layers_with_joined_kernels(arrays: dict[str, Any]) -> Found:
    """The layers among the arrays.

    Returns:
        ``(name of the first array, layer)`` for each, and sentences on what nearly was one.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.weights.joined_kernels import layers_with_joined_kernels
        >>> arrays = {"rnn.lstm_cell.kernel": np.ones((7, 16)), "rnn.lstm_cell.bias": np.ones(16)}
        >>> ((_, layer),), _ = layers_with_joined_kernels(arrays)
        >>> layer.name, layer.kind, layer.input_size
        ('rnn.lstm_cell', 'lstm', 3)
    """
    places: dict[str, dict[str, _Part]] = {}
    for name, array in arrays.items():
        match = NAME.fullmatch(name)
        if match and hasattr(array, "shape"):
            part = PARTS.get(match["part"], match["part"])
            places.setdefault(match["place"] or "", {})[part] = _Part(name, array)
    found: list[tuple[str, RecurrentLayer]] = []
    misses: list[str] = []
    for place, parts in places.items():
        for one in _read_place(place, parts, places, arrays):
            if isinstance(one, str):
                misses.append(one)
            else:
                found.append((next(iter(parts.values())).name, one))
    return _paired(found), misses


def _paired(found: list[tuple[str, RecurrentLayer]]) -> list[tuple[str, RecurrentLayer]]:
    """The layers with both directions of TensorFlow's ``bidirectional_dynamic_rnn`` as one."""
    by_name = {layer.name: layer for _, layer in found}
    joined, done = [], set()
    for begin, layer in found:
        match = FORWARD.fullmatch(layer.name)
        place = (match["place"] or "") if match else ""
        other = by_name.get(f"{place}.bw.{match['cell']}".lstrip(".")) if match else None
        if other is None or (other.kind, other.input_size) != (layer.kind, layer.input_size):
            joined.append((begin, layer))
            continue
        done.add(other.name)

        def read(
            choices: Choices, sides: tuple[RecurrentLayer, ...] = (layer, other)
        ) -> tuple[Any, Any]:
            return both_directions([side.read(choices) for side in sides])

        refused = layer.refused or other.refused
        both = layer._replace(name=place, directions=2, refused=refused, read=read)
        joined.append((begin, both))
    return [(begin, layer) for begin, layer in joined if layer.name not in done]


def _read_place(
    place: str,
    parts: dict[str, _Part],
    places: dict[str, dict[str, _Part]],
    arrays: dict[str, Any],
) -> Iterator[RecurrentLayer | str]:
    above, _, tail = place.rpartition(".")
    if set(parts) == {"w_i", "w_h", "bias"}:
        yield _haiku_gru(place, parts)
    if "kernel" not in parts or f"{place}.recurrent_kernel" in arrays:
        return
    kernel = parts["kernel"]
    if tail == "gates" and "kernel" in places.get(f"{above}.candidate", {}):
        yield _tensorflow_gru(above, parts, places[f"{above}.candidate"])
    elif tail == "linear" and f"{above}.linear_1" in places:
        yield from _haiku_rnn(above, parts, places[f"{above}.linear_1"])
    elif tail == "linear":
        yield from _haiku_lstm(above, parts)
    elif LSTM_NAME.fullmatch(place):
        if _fits(parts, 4):
            refused = next((w for n, w in OTHER_PARTS.items() if f"{place}.{n}" in arrays), None)
            told = not kernel.name.endswith("w")
            yield _joined_lstm(place, parts, OF_TENSORFLOW if told else (), refused)
        elif len(kernel.shape) == 2:
            yield f"{place}: {_shown(parts)}, where an LSTM has [D + H, 4H] and [4H]"
    elif RNN_NAME.fullmatch(place) and _fits(parts, 1):
        yield _tensorflow_rnn(place, parts)


def _fits(parts: dict[str, _Part], gates: int) -> bool:
    """Whether a kernel [D + H, GH] has its bias [GH] beside it."""
    shape = parts["kernel"].shape
    if "bias" not in parts or len(shape) != 2 or shape[1] % gates:
        return False
    return 0 < shape[1] // gates < shape[0] and parts["bias"].shape == shape[1:]


def _shown(parts: dict[str, _Part]) -> str:
    return " and ".join(f"{part.name} {show_shape(part.shape)}" for part in parts.values())


def _sizes(parts: dict[str, _Part], gates: int) -> tuple[int, int]:
    rows, columns = parts["kernel"].shape
    return rows - columns // gates, columns // gates


def _numpy(*groups: dict[str, _Part]) -> list[np.ndarray]:
    """Kernel and bias of each group, of one dtype."""
    arrays = {
        part.name: to_numpy(part.name, part.array)
        for parts in groups
        for part in (parts["kernel"], parts["bias"])
    }
    require_one_dtype(arrays)
    return list(arrays.values())


OF_TENSORFLOW = (
    "Gates in TensorFlow's order i, j, f, o, which is i, g, f, o here. Where outputs differ, give "
    "gate_order=.",
    "TensorFlow's default forget_bias of 1, which its cell adds and no array tells. Where the source's cell "
    "was made with another, as 0.0, give forget_bias=.",
)
OF_HAIKU = (
    "Gates i, g, f, o and 1 added to the forget gate, as in hk.LSTM. Where a module of the source's own has "
    "these names, and outputs differ, give gate_order= and forget_bias=.",
)


def _joined_lstm(
    place: str, parts: dict[str, _Part], assumed: tuple[str, ...], refused: str | None = None
) -> RecurrentLayer:
    """An LSTM in one kernel; where nothing is assumed, neither order nor forget bias is told."""

    def read(choices: Choices) -> tuple[Any, Any]:
        require_no_choices(place, choices._replace(gate_order=None, forget_bias=None), "an LSTM")
        order, forget_bias = choices.gate_order, choices.forget_bias
        if not assumed and None in (order, forget_bias):
            raise ValueError(
                f"Reading needed: expected gate_order= and forget_bias= for {place!r}, because [D + H, 4H] "
                "fits several, got one or none. Give 'igfo' with 1.0 as in Haiku and TensorFlow 1, or 'ifgo' "
                "with 0.0 as in a Keras or PyTorch layer whose matrices were joined."
            )
        kernel, bias = _numpy(parts)
        kernel, bias = (
            reorder(a, order or LSTM["tensorflow"], LSTM["tensorflow"]) for a in (kernel, bias)
        )
        return from_tensorflow_cell(
            kernel, bias, forget_bias=1.0 if forget_bias is None else forget_bias
        )

    sizes = _sizes(parts, 4)
    return RecurrentLayer(
        place, "lstm", *sizes, 1, 1, assumed, refused, read, adds_forget_bias=True
    )


def _tensorflow_rnn(place: str, parts: dict[str, _Part]) -> RecurrentLayer:
    def read(choices: Choices) -> tuple[Any, Any]:
        kernel, bias = _numpy(parts)
        w_x, w_h = np.split(kernel, [input_size])
        params: Any = RNNParams(*map(np.asarray, (w_x, w_h, bias)))  # type: ignore[arg-type]
        return rnn(*sizes, activation=choices.activation or "tanh"), to_jax(params)

    sizes = input_size, _ = _sizes(parts, 1)
    words = "The activation tanh, TensorFlow's default, which no array tells. Else give activation='relu'."
    return RecurrentLayer(place, "rnn", *sizes, 1, 1, (words,), None, read)


def _tensorflow_gru(
    place: str, gates: dict[str, _Part], candidate: dict[str, _Part]
) -> RecurrentLayer | str:
    """Gates r and u in one kernel, n in another; r acts on h before the product."""
    fits = _fits(gates, 2) and _fits(candidate, 1)
    if not fits or _sizes(gates, 2) != _sizes(candidate, 1):
        shown = f"{_shown(gates)}, {_shown(candidate)}"
        return f"{place}: {shown}, where a GRU has [D + H, 2H] and [D + H, H] with their biases"
    sizes = _sizes(candidate, 1)

    def read(choices: Choices) -> tuple[Any, Any]:
        rest = choices._replace(gate_order=None)
        require_no_choices(place, rest, "which resets before the product, as TensorFlow's GRUCell")
        w_ru, b_ru, w_n, b_n = _numpy(gates, candidate)
        kernel, b = np.concatenate([w_ru, w_n], 1), np.concatenate([b_ru, b_n])
        if choices.gate_order is not None:
            kernel, b = (reorder(a, choices.gate_order, "run") for a in (kernel, b))
        w_x, w_h = np.split(kernel, [sizes[0]])
        params: Any = GRUResetBeforeParams(w_x, w_h, b)  # type: ignore[arg-type]
        return gru(*sizes, reset_after=False), to_jax(params)

    words = (
        "Gates r, u and then n, as in TensorFlow's GRUCell. Where outputs differ, give gate_order=."
    )
    return RecurrentLayer(place, "gru", *sizes, 1, 1, (words,), None, read)


def _haiku(
    place: str, kind: str, sizes: tuple[int, int], parts: dict[str, _Part]
) -> RecurrentLayer:
    """A module of Haiku, read by `from_haiku`."""

    def read(choices: Choices) -> tuple[Any, Any]:
        require_no_choices(place, choices, "whose names are those of a Haiku module")
        modules: dict[str, dict[str, Any]] = {}
        for path, part in parts.items():
            module, _, name = f"module.{path}".rpartition(".")
            modules.setdefault(module.replace(".", "/"), {})[name] = part.array
        return from_haiku(modules, "module")

    return RecurrentLayer(place, kind, *sizes, 1, 1, (), None, read)


def _haiku_gru(place: str, parts: dict[str, _Part]) -> RecurrentLayer | str:
    x, h, b = (parts[part].shape for part in ("w_i", "w_h", "bias"))
    if len(h) != 2 or h[1] != 3 * h[0] or x[1:] != b or b != h[1:] or not h[0]:
        return (
            f"{place or 'the root'}: {_shown(parts)}, where an hk.GRU has [D, 3H], [H, 3H] and [3H]"
        )
    named = {"w_i": parts["w_i"], "w_h": parts["w_h"], "b": parts["bias"]}
    return _haiku(place, "gru", (x[0], h[0]), named)


def _haiku_lstm(place: str, parts: dict[str, _Part]) -> Iterator[RecurrentLayer | str]:
    if not _fits(parts, 4) or not parts["kernel"].name.endswith(".w"):
        return
    if LSTM_NAME.fullmatch(place):
        yield _joined_lstm(place, parts, OF_HAIKU)
    else:
        yield (
            f"{place or 'the root'}: {_shown(parts)} fit an hk.LSTM and an hk.Linear. If it is an LSTM, take "
            f"it by weights.from_haiku"
        )


def _haiku_rnn(
    place: str, first: dict[str, _Part], second: dict[str, _Part]
) -> Iterator[RecurrentLayer | str]:
    x, h = first["kernel"].shape, second["kernel"].shape if "kernel" in second else ()
    if len(x) != 2 or h != (x[1], x[1]) or "bias" not in first:
        return
    if not RNN_NAME.fullmatch(place):
        yield (
            f"{place or 'the root'}: {_shown(first)}, {_shown(second)} fit an hk.VanillaRNN and two "
            "hk.Linear. If it is recurrent, take it by weights.from_haiku"
        )
        return
    named = {"linear.w": first["kernel"], "linear.b": first["bias"]}
    named |= {"linear_1.w": second["kernel"]}
    named |= {"linear_1.b": second["bias"]} if "bias" in second else {}
    yield _haiku(place, "rnn", (x[0], x[1]), named)
