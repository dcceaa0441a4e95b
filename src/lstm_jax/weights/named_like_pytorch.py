"""Recognise layers by the names of two matrices and their biases, and by their shapes.

    weight_ih_l0  weight_hh_l0  bias_ih_l0  bias_hh_l0  weight_hr_l0    modules of PyTorch; _reverse
    weight_ih     weight_hh     bias_ih     bias_hh                     its cells; bias, bias_n of Equinox
    enc_w_ih      enc_w_hh      enc_b_ih    enc_b_hh                    the same in other words; i2h_weight
    w_x           w_h           b           b_hn                        names that tell no order of the gates

The shapes say the rest: a recurrent matrix [GH, H] is PyTorch's layout, [H, GH] the transposed one, with
G = 1, 3, 4 gates.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.cells.specification import Specification, make_cell
from lstm_jax.validation import show_shape
from lstm_jax.weights.arrays import require_one_dtype, require_shape, to_numpy
from lstm_jax.weights.cell_specification import KINDS
from lstm_jax.weights.gate_order import gates_of, reorder
from lstm_jax.weights.pytorch import from_pytorch
from lstm_jax.weights.recurrent_layer import Choices, RecurrentLayer
from lstm_jax.weights.two_biases import TwoBiases, merge

PARTS = {
    "weight_ih": r"weight_ih|w_?ih|ih\.weight|(?:i2h|x2h|input2hidden)[._]weight|weight_(?:i2h|xh)|w_?xh",
    "weight_hh": r"weight_hh|w_?hh|hh\.weight|(?:h2h|hidden2hidden)[._]weight|weight_h2h",
    "bias_ih": r"bias_ih|b_?ih|ih\.bias|(?:i2h|x2h|input2hidden)[._]bias|bias_(?:i2h|xh)",
    "bias_hh": r"bias_hh|b_?hh|hh\.bias|(?:h2h|hidden2hidden)[._]bias|bias_h2h",
    "weight_hr": r"weight_hr",
    "w_x": r"w_?x|w|weight_x|kernel_x",
    "w_h": r"w_?h|u|w_?rec|weight_h|kernel_h",
    "bias": r"b|bias",
    "bias_n": r"bias_n|b_?hn",
}
"""What an array is, by the end of its name; upper and lower case are one."""
NAME = re.compile(
    r"(?:(?P<place>.*[^._])?(?P<sep>[._]))?(?:"
    + "|".join(f"(?P<{part}>{words})" for part, words in PARTS.items())
    + r")(?:_l(?P<layer>0|[1-9]\d{0,5})(?P<reverse>_reverse)?)?",
    re.IGNORECASE,
)
OWN_VARIANTS = ("p", "w_r", "norm_x")
"""Arrays of the variants of `lstm_jax.lstm`, which change its step."""
MANY = 1000
TOLD = "the names tell no order of the gates"


class _Cell(NamedTuple):
    """Arrays of one direction of one layer: part -> (its name in the source, itself)."""

    parts: dict[str, tuple[str, Any]]

    def shape(self, part: str) -> tuple[int, ...]:
        return tuple(self.parts[part][1].shape)


def layers_named_like_pytorch(
    arrays: dict[str, Any], made: dict[str, str], modules: dict[str, str], ours: bool = False
) -> tuple[list[tuple[str, RecurrentLayer]], list[str]]:
    """The layers among the arrays.

    Args:
        arrays: by their names, as from `effective_weights`.
        made: what the weights were made of, from there.
        modules: activations of modules that are PyTorch's own, by their names.
        ours: whether names that tell no order are those of `lstm_jax`.

    Returns:
        ``(name of the first array, layer)`` for each, and sentences on what nearly was one.
    """
    groups: dict[tuple[str, bool, bool], dict[str, dict[str, tuple[str, Any]]]] = {}
    for name, array in arrays.items():
        match = NAME.fullmatch(name)
        if match is None:
            continue
        part = next(part for part in PARTS if match[part] is not None)
        ending = f"_l{match['layer']}{(match['reverse'] or '').lower()}" if match["layer"] else ""
        plain = part in ("w_x", "w_h")
        key = (match["place"] or "", ending != "", plain)
        groups.setdefault(key, {}).setdefault(ending, {})[part] = (name, array)
    found, misses = [], []
    beside = _Neighbours(arrays)
    for (place, layered, plain), endings in groups.items():
        x, h = ("w_x", "w_h") if plain else ("weight_ih", "weight_hh")
        cells = {ending: _Cell(parts) for ending, parts in endings.items() if {x, h} <= set(parts)}
        if not cells and not plain:
            alone = [
                parts[part][0] for parts in endings.values() for part in (x, h) if part in parts
            ]
            if alone:
                misses.append(
                    f"{place or 'the root'}: {alone[0]} without its other matrix beside it"
                )
        if not cells or (plain and layered):
            continue
        if plain:  # A bias alone tells no family.
            more = groups.get((place, layered, False), {}).get("", {})
            if "weight_ih" in more or "weight_hh" in more:
                continue
            cells = {ending: _Cell(cell.parts | more) for ending, cell in cells.items()}
        problem = _problem(cells, x, h)
        if problem:
            misses.append(f"{place or 'the root'}: {problem}")
            continue
        begins = next(iter(next(iter(endings.values())).values()))[0]
        layer = _layer(place, cells, endings, plain, made, modules.get(place), ours)
        others = beside.of(place)
        variant = [
            name for name in OWN_VARIANTS if plain and f"{place}.{name}".lstrip(".") in arrays
        ]
        if variant:
            words = f"{variant[0]} beside its matrices, a part of the step. Load it by the code that wrote it"
            layer = layer._replace(refused=words)
        if others:
            words = f"{others} beside it is left out. Where the source uses it in its step, outputs differ."
            layer = layer._replace(assumed=(*layer.assumed, words))
        found.append((begins, layer))
    return found, misses


class _Neighbours:
    """Arrays whose names begin as a layer's do, and which are no part of a layer."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.by_place: dict[str, list[str]] = {}
        for name in arrays:
            if NAME.fullmatch(name) is None:
                self.by_place.setdefault(name.rpartition(".")[0], []).append(name)

    def of(self, place: str) -> str:
        """Names, some of them; empty where there are none or very many."""
        above = self.by_place.get(place.rpartition(".")[0], [])
        names = [n for n in above if n.startswith(f"{place}_")] if len(above) < MANY else []
        names = [*self.by_place.get(place, []), *names] if place else []
        return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _problem(cells: dict[str, _Cell], x: str, h: str) -> str | None:
    """Why matrices with the right names are none of a recurrent layer; None where they are."""
    for cell in cells.values():
        shown = " and ".join(f"{cell.parts[p][0]} {show_shape(cell.shape(p))}" for p in (x, h))
        if not all(len(cell.shape(p)) == 2 and 0 not in cell.shape(p) for p in (x, h)):
            ensemble = all(len(cell.shape(p)) == 3 for p in (x, h))
            more = ", but the stacked ones of an ensemble. Take one member" if ensemble else ""
            return f"{shown} are no two matrices{more}"
        if _gates(cell, h) is None:
            return f"{shown} have no 1, 3 or 4 gates"
    return None


def _gates(cell: _Cell, h: str) -> tuple[int, bool] | None:
    """The number of gates, and whether rows are gates, as in PyTorch; None where neither fits."""
    rows, columns = cell.shape(h)
    if "weight_hr" in cell.parts:
        hidden = cell.shape("weight_hr")[-1]
        return (4, True) if hidden and rows == 4 * hidden else None
    for large, small, by_rows in ((rows, columns, True), (columns, rows, False)):
        if large % small == 0 and large // small in KINDS and large != small:
            return large // small, by_rows
    return (1, True) if rows == columns else None


def _layer(
    place: str,
    cells: dict[str, _Cell],
    endings: Iterable[str],
    plain: bool,
    made: dict[str, str],
    activation: str | None,
    ours: bool,
) -> RecurrentLayer:
    x, h = ("w_x", "w_h") if plain else ("weight_ih", "weight_hh")
    first = cells.get("_l0", next(iter(cells.values())))
    gates, by_rows = _gates(first, h) or (1, True)
    hidden = first.shape("weight_hr")[1] if "weight_hr" in first.parts else min(first.shape(h))
    square = gates == 1 and first.shape(x) == (hidden, hidden)
    if gates == 1 and not square:
        by_rows = first.shape(x)[0] == hidden
    kind = KINDS[gates]
    assumed, refused = [], None
    certain = activation is not None
    if kind != "rnn" and not plain and not certain:
        letters = ", ".join(gates_of(kind, "pytorch"))
        assumed.append(
            f"Gates in PyTorch's order {letters}. With another order the outputs are wrong without a "
            "message: compare some with the source's, or give gate_order=."
        )
    if kind == "gru" and not plain and "bias" not in first.parts and "" in cells and not certain:
        assumed.append(
            "The reset gate after the product with W_hn, as in PyTorch. Where the source resets before, the "
            "outputs are somewhat off: give reset_after=False."
        )
    if kind == "rnn" and not certain:
        assumed.append(
            "The activation tanh, which no array tells. Where the source has outputs above 1, it is another: "
            "give activation='relu'."
        )
    if plain and ours:
        by_rows = False
    elif square and plain:
        refused = (
            f"{first.parts[x][0]} and {first.parts[h][0]} both {show_shape((hidden, hidden))}, which fit as "
            "[in, out] and as [out, in]. Rename them to weight_ih and weight_hh, in [out, in]"
        )
    elif (
        square
        and not certain
        and not any("weight_ih" in cell.parts["weight_ih"][0] for cell in cells.values())
    ):
        assumed.append(
            "Square matrices are [out, in], as in PyTorch. Transpose them if outputs differ."
        )
    for words in sorted(
        {made[n] for cell in cells.values() for n, _ in cell.parts.values() if n in made}
    ):
        assumed.append(f"Weights are put together from {words}, as in PyTorch's evaluation mode.")
    numbers = {ending.removesuffix("_reverse") for ending in endings}
    both = any(ending.endswith("_reverse") for ending in endings)

    def read(choices: Choices) -> tuple[Any, Any]:
        if kind == "rnn" and choices.activation is None:
            choices = choices._replace(activation=activation)
        if "" in cells:
            order = gates_of(kind, "lstm_jax") if kind == "rnn" or ours or not plain else None
            return _read_cell(place, cells[""], kind, by_rows, plain, order, choices)
        return _read_layers(place, endings, kind, by_rows, choices)

    return RecurrentLayer(
        place,
        kind,
        first.shape(x)[1 if by_rows else 0],
        hidden,
        1 + both,
        len(numbers),
        tuple(assumed),
        refused,
        read,
    )


def _read_layers(
    place: str, endings: Any, kind: str, by_rows: bool, choices: Choices
) -> tuple[Any, Any]:
    """A module of layers, as `from_pytorch` takes it."""
    if choices.reset_after is False:
        raise ValueError(
            f"Option mismatch: expected reset_after=True for {place!r}, whose names are those of PyTorch's "
            "layers, got False."
        )
    state_dict = {}
    for ending, parts in endings.items():
        for part, (name, array) in parts.items():
            array = to_numpy(name, array)
            if part.startswith("weight") and not by_rows:
                array = array.T
            if choices.gate_order is not None and part != "weight_hr":
                array = reorder(array, choices.gate_order, gates_of(kind, "pytorch"), 0)
            state_dict[part + ending] = array
    return from_pytorch(state_dict, activation=choices.activation or "tanh")


def _read_cell(
    place: str,
    cell: _Cell,
    kind: str,
    by_rows: bool,
    plain: bool,
    order: str | None,
    choices: Choices,
) -> tuple[Any, Any]:
    """Arrays of one cell."""
    arrays = {part: to_numpy(name, array) for part, (name, array) in cell.parts.items()}
    require_one_dtype({name: arrays[part] for part, (name, _) in cell.parts.items()})
    x, h = ("w_x", "w_h") if plain else ("weight_ih", "weight_hh")
    w_x, w_h = (arrays[p] if not by_rows else arrays[p].T for p in (x, h))
    hidden_size, columns = w_h.shape
    require_shape(cell.parts[x][0], w_x, (w_x.shape[0], columns), f"gates · H = {columns}")
    ours = gates_of(kind, "lstm_jax")
    order = choices.gate_order or order
    if order is None:
        known = "'ifgo' as in PyTorch and Keras, 'igfo' as in TensorFlow 1, or 'iofg' as in ONNX"
        if kind == "gru":
            known = "'run' as in PyTorch, or 'urn' as in Keras and ONNX"
        raise ValueError(
            f"Gate order needed: expected gate_order= for {place!r}, because {TOLD}, got none. Give {known}."
        )
    zeros = np.zeros(columns, w_h.dtype)
    biases = {part: array for part, array in arrays.items() if part.startswith("bias")}
    for part, array in biases.items():
        size = hidden_size if part == "bias_n" else columns
        require_shape(cell.parts[part][0], array, (size,), f"H={hidden_size}")
    b_x = biases.get("bias_ih", zeros) + biases.get("bias", zeros)
    b_h = biases.get("bias_hh", zeros)
    told = "bias_hh" in biases or "bias_n" in biases or (not plain and "bias" not in biases)
    if kind == "gru" and choices.reset_after is None and not told:
        raise ValueError(
            f"Form needed: expected reset_after= for the gru {place!r}, because its arrays fit both forms, "
            "got none. Give True where the reset gate acts after the product, as in PyTorch, else False."
        )
    reset_after = kind != "gru" or choices.reset_after is not False
    w_x, w_h, b_x, b_h = (reorder(array, order, ours) for array in (w_x, w_h, b_x, b_h))
    if "bias_n" in biases:
        b_h = np.concatenate([b_h[:-hidden_size], b_h[-hidden_size:] + biases["bias_n"]])
    specification = Specification(
        kind,
        w_x.shape[0],
        hidden_size,
        activation=choices.activation or "tanh",
        reset_after=reset_after,
    )
    params = merge(kind, "lstm_jax", TwoBiases(w_x, w_h, b_x, b_h), reset_after=reset_after)
    return make_cell(specification), params
