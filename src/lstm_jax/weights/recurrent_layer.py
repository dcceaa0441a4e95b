"""A recurrent layer of a file or a model: its name and sizes, what was assumed, and how it is loaded."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Backward, Bidirectional, Stack, StackParams, stack
from lstm_jax.validation import require_bool, require_number, require_one_of
from lstm_jax.weights.cell_specification import KINDS


class Choices(NamedTuple):
    """What a caller says of a layer whose arrays do not say it; None where he says nothing.

    Attributes:
        gate_order: the order of the gates in the source, one letter each.
        reset_after: of a GRU, whether the reset gate acts after the product with W_hn.
        activation: of a vanilla network.
        forget_bias: what the source's cell adds to its forget gate beside the arrays.
    """

    gate_order: str | None = None
    reset_after: bool | None = None
    activation: str | None = None
    forget_bias: float | None = None


class RecurrentLayer(NamedTuple):
    """A recurrent layer that was found in a file, in a mapping or in a model.

    Attributes:
        name: as in the source, with dots between its parts; empty for arrays that have no name in front.
        kind: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        input_size: D; 0 where the source does not tell it, which is then refused.
        hidden_size: H, of the first layer and of its forward direction.
        directions: 1 or 2.
        layers: how many are stacked in it.
        assumed: sentences on what the source does not say, and how one would notice that it is wrong.
        refused: why `load` raises; None where it does not.
        read: what `load` calls.
        adds_forget_bias: whether the source's cell may add a number to its forget gate that is in no array,
            as TensorFlow 1 does; `load` takes it.
    """

    name: str
    kind: str
    input_size: int
    hidden_size: int
    directions: int
    layers: int
    assumed: tuple[str, ...]
    refused: str | None
    read: Callable[[Choices], tuple[Any, PyTree]]
    adds_forget_bias: bool = False

    def __repr__(self) -> str:
        shown = (f"{name}={value!r}" for name, value in zip(self._fields[:-2], self, strict=False))
        return f"RecurrentLayer({', '.join(shown)})"

    def load(
        self,
        *,
        kind: str | None = None,
        gate_order: str | None = None,
        reset_after: bool | None = None,
        activation: str | None = None,
        forget_bias: float | None = None,
    ) -> tuple[Stack, StackParams]:
        """The layer as a stack, for `lstm_jax.unroll_stack`, with its parameters.

        Args:
            kind: to check it.
            gate_order: the order of the gates in the source, where it is not the one assumed: the letters of
                ``"ifgo"`` for an LSTM, of ``"run"`` for a GRU (`lstm_jax.weights.gate_order`).
            reset_after: of a GRU whose arrays do not say it.
            activation: of a vanilla network, ``"tanh"``, ``"relu"`` or ``"identity"``.
            forget_bias: of an LSTM of TensorFlow 1, the number that its cell adds to the forget gate; 1, its
                default, if None.

        Returns:
            A `Stack`, also of one layer, and `StackParams` in the dtype of the source.

        Raises:
            ValueError: another kind; a layer that computes what no cell here does; two readings that both
                fit, which are named; a choice that does not apply.
            ShapeError: arrays that do not fit each other.
            DtypeError: arrays that are not all of one floating dtype, or float64 without
                ``jax_enable_x64``.
        """
        if kind is not None:
            require_one_of("kind", kind, tuple(KINDS.values()))
        if reset_after is not None:
            require_bool("reset_after", reset_after)
        if activation is not None:
            require_one_of("activation", activation, ("tanh", "relu", "identity"))
        if forget_bias is not None:
            require_number("forget_bias", forget_bias, above=-float("inf"))
            if not self.adds_forget_bias:
                raise ValueError(
                    f"Option mismatch: expected no forget_bias for {self.name!r}, whose arrays have it, "
                    f"got {forget_bias!r}."
                )
        if gate_order is not None and not isinstance(gate_order, str):
            raise TypeError(f"Type mismatch: expected gate_order as a text, got {gate_order!r}.")
        if kind not in (None, self.kind):
            raise ValueError(
                f"Kind mismatch: expected kind={kind!r}, got the gates of {self.kind!r} in "
                f"{self.name!r}."
            )
        if self.refused is not None:
            raise ValueError(
                f"Layer mismatch: expected {self.name!r} as a cell here, got {self.refused}."
            )
        given = {
            "gate_order": (gate_order, ("lstm", "gru")),
            "reset_after": (reset_after, ("gru",)),
            "activation": (activation, ("rnn",)),
        }
        for option, (value, kinds) in given.items():
            if value is not None and self.kind not in kinds:
                raise ValueError(
                    f"Option mismatch: expected no {option} for the {self.kind} {self.name!r}, got "
                    f"{value!r}."
                )
        return stacked(*self.read(Choices(gate_order, reset_after, activation, forget_bias)))


class RecurrentLayers(tuple[RecurrentLayer, ...]):
    """The layers of a source, in its order, as a tuple; ``misses`` are sentences on what nearly was one."""

    misses: tuple[str, ...]

    def __new__(
        cls, layers: Iterable[RecurrentLayer], misses: Iterable[str] = ()
    ) -> "RecurrentLayers":
        """The layers, with what nearly was one."""
        found = super().__new__(cls, tuple(layers))
        found.misses = tuple(misses)
        return found

    def __repr__(self) -> str:
        if not self and self.misses:
            return f"() no recurrent layer; nearest: {'; '.join(self.misses)}"
        return tuple.__repr__(self)


def stacked(net: Any, params: PyTree) -> tuple[Stack, StackParams]:
    """A cell or a layer as a stack of one; a stack as it is."""
    if isinstance(net, (Cell, Bidirectional, Backward)):
        return stack(net), StackParams((params,))
    return net, params


def require_no_choices(name: str, choices: Choices, why: str) -> None:
    """Refuse a choice where the source says it all."""
    for option, value in choices._asdict().items():
        if value is not None:
            raise ValueError(
                f"Option mismatch: expected no {option} for {name!r}, {why}, got {value!r}."
            )
