"""A cell, a layer or a stack as values for JSON, and the network built from them.

    cell                {"kind": "lstm", "input_size": 3, "hidden_size": 4, …}    options but the defaults
    backward            {"backward": cell}
    bidirectional       {"forward": cell, "backward": cell}
    stack               {"layers": […], "dropout": 0.0, …}

Initialisers and initial gate biases are not in it: what is built has the defaults, which do not affect
trained parameters.
"""

from typing import Any

from lstm_jax.array_types import shapes_of
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.specification import Specification, make_cell, specify
from lstm_jax.layers.stack import (
    Backward,
    Bidirectional,
    Layer,
    Stack,
    backward,
    bidirectional,
    cells_of,
    stack,
)

OPTIONS = (
    "dropout",
    "variational",
    "zoneout",
    "recurrent_dropout",
    "residual",
    "learned_state",
    "output_size",
)


def described(net: Layer | Stack) -> dict[str, Any]:
    """A cell, a layer or a stack as values for JSON.

    Raises:
        TypeError: another object, or a cell with a function of one's own in it, which is named.

    Example:
        >>> import lstm_jax
        >>> from lstm_jax.layers.description import described, network_of
        >>> described(lstm_jax.rnn(3, 4, activation="relu"))
        {'kind': 'rnn', 'input_size': 3, 'hidden_size': 4, 'activation': 'relu'}
        >>> network_of(described(lstm_jax.rnn(3, 4, activation="relu")))
        rnn_relu(input_size=3, hidden_size=4)
    """
    if isinstance(net, Cell):
        return _described_cell(net)
    if isinstance(net, Backward):
        return {"backward": described(net.cell)}
    if isinstance(net, Bidirectional):
        return {"forward": described(net.forward), "backward": described(net.backward)}
    if not isinstance(net, Stack):
        raise TypeError(
            f"Network mismatch: expected a cell, a layer or a stack, got {type(net).__name__}."
        )
    options = net._asdict() | {"output_size": net.projected_size}
    options["zoneout"] = _rates(net.zoneout)
    for name in ("dropout", "recurrent_dropout"):
        options[name] = float(options[name])
    return {"layers": [described(layer) for layer in net.layers]} | {
        name: options[name] for name in OPTIONS
    }


def _described_cell(cell: Cell) -> dict[str, Any]:
    specification = specify(cell)
    again = make_cell(specification)._replace(init=cell.init)
    if changed := [name for name in Cell._fields if getattr(again, name) != getattr(cell, name)]:
        raise TypeError(
            f"Network mismatch: expected a cell from lstm, gru or rnn, which can be described, got {cell} "
            f"with another {changed[0]}. Save its parameters alone, and keep the code that makes it."
        )
    sizes = dict(zip(Specification._fields[:3], specification, strict=False))
    return sizes | specification.options


def _rates(zoneout: Any) -> Any:
    """One rate, or a state of rates by its fields."""
    if not isinstance(zoneout, tuple):
        return float(zoneout)
    return {name: float(rate) for name, rate in zip(zoneout._fields, zoneout, strict=True)}  # type: ignore[attr-defined]


def network_of(description: dict[str, Any]) -> Any:
    """The inverse of `described`, with the default initialisers.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, RecursionError: no such description.
    """
    if "layers" in description:
        options = {name: value for name, value in description.items() if name != "layers"}
        layers = [network_of(layer) for layer in description["layers"]]
        if isinstance(options["zoneout"], dict):
            state = shapes_of(cells_of(layers)[0].initial_state)
            options["zoneout"] = type(state)(**options["zoneout"])
        return stack(*layers, **options)
    if "forward" in description:
        return bidirectional(**{way: network_of(cell) for way, cell in description.items()})
    if "backward" in description:
        return backward(network_of(description["backward"]))
    return make_cell(Specification(**description))
