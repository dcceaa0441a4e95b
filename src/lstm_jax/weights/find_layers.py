"""Find the recurrent layers among named arrays: by the names that frameworks give, and by the shapes."""

import re
from typing import Any, NamedTuple

from lstm_jax.weights.cell_specification import joined
from lstm_jax.weights.effective_weights import effective_weights
from lstm_jax.weights.flax_cell import cell_from_flax
from lstm_jax.weights.joined_kernels import layers_with_joined_kernels
from lstm_jax.weights.keras_1 import joined_gates
from lstm_jax.weights.keras_configuration import Settings
from lstm_jax.weights.layers_of_keras import layers_of_keras
from lstm_jax.weights.named_like_pytorch import layers_named_like_pytorch
from lstm_jax.weights.recurrent_layer import (
    Choices,
    RecurrentLayer,
    RecurrentLayers,
    require_no_choices,
)

FLAX = re.compile(
    r"(?:(?P<place>.*)\.)?(?P<layer>dense_[ih]|i[ifgorzn]_?|h[ifgorzn]|[ih])\.(?P<part>kernel|bias)"
    r"(?:\.value)?"
)
FLAX_SIDE = re.compile(r"(?:(.*)\.)?(forward|backward)_rnn\.cell")
QUANTISED = re.compile(r"(?:(.*?)\.)?(?:_all_weight_values|_packed_params|_packed_weight).*")


def find_layers(
    arrays: dict[str, Any],
    *,
    settings: dict[str, list[Settings]] | None = None,
    version: str | None = None,
    modules: dict[str, str] | None = None,
    quantised: tuple[str, ...] = (),
    ours: bool = False,
) -> RecurrentLayers:
    """The recurrent layers among arrays, in the order of the source.

    Args:
        arrays: by their names, as from `flat_arrays`. Other arrays are left out.
        settings: of Keras's layers, from `configured_layers`.
        version: of Keras.
        modules: activations of modules that are PyTorch's own, by their names.
        quantised: names of modules whose weights are quantised.
        ours: whether ``w_x``, ``w_h`` and ``b`` are those of `lstm_jax`.

    Returns:
        The layers, and as ``misses`` sentences on what nearly was one.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.weights.find_layers import find_layers
        >>> arrays = {"enc_w_ih": np.ones((6, 3), "f"), "enc_w_hh": np.ones((6, 2), "f")}
        >>> find_layers(arrays)[0].kind
        'gru'
    """
    arrays, made = effective_weights(joined_gates(arrays))
    found, misses = layers_named_like_pytorch(arrays, made, modules or {}, ours)
    for more, missed in (
        layers_of_keras(arrays, settings or {}, version),
        _layers_of_flax(arrays),
        layers_with_joined_kernels(arrays),
    ):
        found, misses = found + more, misses + missed
    for name, array in arrays.items():
        match = QUANTISED.fullmatch(name)
        if match or getattr(array, "is_quantized", False):
            quantised += ((match[1] if match else name.rpartition(".")[0]) or "the root",)
    misses += [
        f"{name}: a quantised module. Load the model that it was made from"
        for name in dict.fromkeys(quantised)
    ]
    places = {name: place for place, name in enumerate(arrays)}
    found.sort(key=lambda pair: places.get(pair[0], 0))
    return RecurrentLayers((layer for _, layer in found), misses)


def _layers_of_flax(arrays: dict[str, Any]) -> tuple[list[tuple[str, RecurrentLayer]], list[str]]:
    """Cells of linen and nnx."""
    places: dict[str, dict[str, dict[str, Any]]] = {}
    first: dict[str, str] = {}
    for name, array in arrays.items():
        match = FLAX.fullmatch(name)
        if match:
            place = match["place"] or ""
            places.setdefault(place, {}).setdefault(match["layer"], {})[match["part"]] = array
            first.setdefault(place, name)
    cells: dict[str, _FlaxCell] = {}
    misses = []
    for place, layers in places.items():
        recurrent = [name for name in layers if name.startswith("h") or name == "dense_h"]
        if not recurrent or len(recurrent) == len(layers) or "kernel" not in layers[recurrent[0]]:
            continue
        inner = next(layer for name, layer in layers.items() if name not in recurrent)
        if "kernel" not in inner or len(inner["kernel"].shape) != 2:
            continue
        kernel = layers[recurrent[0]]["kernel"]
        if len(kernel.shape) != 2 or 0 in kernel.shape:
            misses.append(f"{place or 'the root'}: recurrent kernels that are no matrices")
            continue
        hidden = int(kernel.shape[0])
        gates = kernel.shape[1] // hidden if "dense_h" in layers else len(recurrent)
        kind = {1: "rnn", 3: "gru", 4: "lstm"}.get(int(gates))
        if kind is None:
            misses.append(f"{place or 'the root'}: a cell of Flax with {gates} gates")
            continue
        cells[place] = _FlaxCell(kind, int(inner["kernel"].shape[0]), hidden, layers)
    found = []
    for place in cells:
        match = FLAX_SIDE.fullmatch(place)
        sides = [place]
        if match:
            dot = f"{match[1]}." if match[1] else ""
            both = [f"{dot}{way}_rnn.cell" for way in ("forward", "backward")]
            if set(both) <= set(cells):
                if match[2] == "backward":
                    continue
                sides = both
        begin = min((first[side] for side in sides), key=list(arrays).index)
        name = (match[1] or "") if match and len(sides) == 2 else place
        found.append((begin, _flax_layer(name, [cells[side] for side in sides])))
    return found, misses


class _FlaxCell(NamedTuple):
    """A cell of linen or nnx: its kind, D, H and its linear layers."""

    kind: str
    input_size: int
    hidden_size: int
    layers: dict[str, dict[str, Any]]


def _flax_layer(place: str, cells: list[_FlaxCell]) -> RecurrentLayer:
    """One cell, or the two directions of a ``Bidirectional``."""

    def read(choices: Choices) -> tuple[Any, Any]:
        activation = choices.activation or "tanh"
        rest = choices._replace(activation=None)
        require_no_choices(place, rest, "whose arrays are those of a Flax cell")
        return joined([cell_from_flax(cell.layers, activation) for cell in cells])

    words = "Activations tanh and sigmoid: no array tells them. Compare some outputs."
    if len(cells) == 1:
        words = words.replace("sigmoid:", "sigmoid, forward in time:")
    kind, input_size, hidden_size, _ = cells[0]
    return RecurrentLayer(place, kind, input_size, hidden_size, len(cells), 1, (words,), None, read)
