"""Find the recurrent layers among named arrays: by the names that frameworks give, and by the shapes."""

import re
from typing import Any

from lstm_jax.weights.effective_weights import effective_weights
from lstm_jax.weights.flax import from_flax
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
    for more, missed in (layers_of_keras(arrays, settings or {}, version), _layers_of_flax(arrays)):
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
    found = []
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
        found.append(
            (first[place], _flax_layer(place, kind, int(inner["kernel"].shape[0]), hidden, layers))
        )
    return found, misses


def _flax_layer(
    place: str, kind: str, input_size: int, hidden_size: int, layers: dict[str, dict[str, Any]]
) -> RecurrentLayer:
    def read(choices: Choices) -> tuple[Any, Any]:
        activation = choices.activation or "tanh"
        rest = choices._replace(activation=None)
        require_no_choices(place, rest, "whose arrays are those of a Flax cell")
        return from_flax(layers, activation=activation)

    assumed = [
        "Activations tanh and sigmoid, forward in time: no array tells them. Compare some outputs."
    ]
    return RecurrentLayer(place, kind, input_size, hidden_size, 1, 1, tuple(assumed), None, read)
