"""The recurrent nodes of an ONNX model, each as a `RecurrentLayer`, for `recurrent_layers`."""

from typing import Any

from lstm_jax.cells import Cell
from lstm_jax.weights.cell_specification import directions
from lstm_jax.weights.onnx.convert import opened_model
from lstm_jax.weights.onnx.recurrent_nodes import NodeLayer, chosen_stack, recurrent_nodes
from lstm_jax.weights.recurrent_layer import (
    Choices,
    RecurrentLayer,
    RecurrentLayers,
    require_no_choices,
)


def layers_of_onnx(model: Any) -> RecurrentLayers:
    """Every recurrent node of a model, also in branches and loops, in the order of its file.

    Args:
        model: a path, or an ``onnx.ModelProto``.

    Raises:
        ImportError, OSError, ValueError, ShapeError, DtypeError, TypeError: as `from_onnx`.
    """
    return RecurrentLayers(_layer(one) for one in recurrent_nodes(*opened_model(model)))


def _layer(one: NodeLayer) -> RecurrentLayer:
    cells = directions(one.layer, one.layer)  # of the cells alone
    cell: Cell = cells[0][0]

    def read(choices: Choices) -> tuple[Any, Any]:
        require_no_choices(one.name, choices, "whose node says it all")
        return chosen_stack((one,), [one.name])

    assumed = tuple(
        f"Left out is {words}; where it matters, outputs differ." for words in one.around
    )
    sizes = (cell.input_size, cell.hidden_size, len(cells), 1)
    return RecurrentLayer(one.name, cell.kind, *sizes, assumed, None, read)
