"""The recurrent nodes of an ONNX model, each as a `RecurrentLayer`, for `recurrent_layers`."""

import re
from typing import Any

from lstm_jax.weights.find_layers import find_layers
from lstm_jax.weights.onnx.convert import opened_model
from lstm_jax.weights.onnx.recurrent_nodes import (
    NodeLayer,
    chosen_nodes,
    nearest,
    recurrent_nodes,
    stack_of,
)
from lstm_jax.weights.recurrent_layer import (
    Choices,
    RecurrentLayer,
    RecurrentLayers,
    require_no_choices,
)

OF_PYTORCH = re.compile(r"(^|[._/])(weight|bias)_(ih|hh)")
"""Part of the name of every array of a recurrent module of PyTorch."""


def layers_of_onnx(model: Any) -> RecurrentLayers:
    """Every recurrent node of a model, also in branches and loops, in the order of its file.

    A node that no cell computes is listed with the reason as its ``refused``; a size that the graph does not
    tell is 0.

    Args:
        model: a path, or an ``onnx.ModelProto``.

    Raises:
        ImportError, OSError, ValueError, TypeError: of the model, as `from_onnx`.
    """
    onnx, opened = opened_model(model)
    found, _ = recurrent_nodes(onnx, opened)
    misses = nearest(opened)
    if not found and not misses:
        misses = _written_out(onnx, opened)
    return RecurrentLayers(map(_layer, found), misses)


def _written_out(onnx: Any, model: Any) -> list[str]:
    """Cells that a graph writes out in other operators, told by the names that PyTorch gives to weights."""
    arrays = {
        one.name: onnx.numpy_helper.to_array(one)
        for one in model.graph.initializer
        if OF_PYTORCH.search(one.name)
    }
    return [
        f"{layer.name}: weights named like those of PyTorch's {layer.kind}, and no recurrent node. Where the "
        "graph computes that cell in other operators, give named_arrays(model) instead of the model"
        for layer in find_layers(arrays)
    ]


def _layer(one: NodeLayer) -> RecurrentLayer:
    def read(choices: Choices) -> tuple[Any, Any]:
        require_no_choices(one.name, choices, "whose node says it all")
        (node,) = chosen_nodes((one,), [one.name])
        return stack_of([[(node, node.backward)]])

    assumed = tuple(
        f"Left out is {words}; where it matters, outputs differ." for words in one.around
    )
    refused = None
    if one.refused is not None:
        refused = f"a node that none computes. {str(one.refused).rstrip('.')}"
    return RecurrentLayer(one.name, one.kind, *one.sizes, 1, assumed, refused, read)
