"""The recurrent nodes of an ONNX model, each as a `RecurrentLayer`, for `recurrent_layers`."""

from typing import Any

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
    return RecurrentLayers(map(_layer, found), nearest(opened))


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
