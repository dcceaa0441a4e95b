"""Flax nnx layers that run by `lstm_jax.unroll` and have its gradient.

`RNN` replaces `flax.nnx.RNN`: the same cells, the same arguments, the same parameters under the same names,
so that a model, its checkpoints and its optimizer need no change. `LSTM` and `GRU` make an `RNN` with its
cell.

    from lstm_jax.nnx import RNN           # was: from flax.nnx import RNN

Past a sequence's length the outputs are zero. Flax's network runs on over the padding there, and a model may
read it, as by ``outputs[:, -1]``: ``outside="flax"`` keeps its numbers.

Axes: inputs[*batch, T, D], or [T, *batch, D] with time_major; carry (c, h) or h, [*batch, H].
"""

from typing import Any

from flax import nnx

from lstm_jax.array_types import Array, PyTree
from lstm_jax.backends.choice import check_choice
from lstm_jax.backends.loop import Loop
from lstm_jax.interfaces.flax_cells import ADVICE, run_flax_layer
from lstm_jax.interfaces.flax_signature import OUTSIDE_OF_FLAX
from lstm_jax.validation import require_array, require_one_of
from lstm_jax.weights.flax_modules import activation_of


class RNN(nnx.RNN):
    """`flax.nnx.RNN`, run by `lstm_jax.unroll`.

    Args:
        cell: an nnx LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell.
        gradient: ``"bptt"``, ``"autodiff"`` or ``"auto"``, as for `lstm_jax.unroll`.
        backend: ``"auto"``, ``"loop"``, ``"cudnn"`` or a `lstm_jax.Loop`, as for `lstm_jax.unroll`.
        outside: what the outputs are past a sequence's length: ``"zeros"``, ``"last"``, the last output
            again, or ``"flax"``, what Flax returns. Then the carry of an LSTM takes a second pass.
        **options: those of `flax.nnx.RNN`: ``time_major``, ``return_carry``, ``reverse``, ``keep_order``,
            ``unroll`` (1, Flax's default, leaves it to the platform), ``rngs``.

    Raises:
        ValueError: a cell, or activations, without a counterpart in `lstm_jax`.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from lstm_jax.nnx import RNN
        >>> layer = RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
        >>> layer(jnp.ones((2, 10, 3))).shape
        (2, 10, 4)
    """

    def __init__(
        self,
        cell: Any,
        *,
        gradient: str = "auto",
        backend: str | Loop = "auto",
        outside: str = "zeros",
        **options: Any,
    ) -> None:
        activation_of(cell, ADVICE)
        check_choice(gradient, backend)
        require_one_of("outside", outside, OUTSIDE_OF_FLAX)
        super().__init__(cell, **options)
        self.gradient = gradient
        self.backend = backend
        self.outside = outside

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: PyTree | None = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Any = None,
    ) -> Any:
        """Run over a sequence, with the arguments of `flax.nnx.RNN.__call__`."""
        require_array("inputs", inputs)
        time_major = self.time_major if time_major is None else time_major
        if initial_carry is None:
            rngs = self.rngs if rngs is None else rngs
            # As Flax does it, so that a random carry is the same.
            rngs = rngs.carry.fork() if isinstance(rngs, nnx.Rngs) else rngs
            shape = inputs.shape[1:] if time_major else (*inputs.shape[:-2], inputs.shape[-1])
            initial_carry = self.cell.initialize_carry(shape, rngs)
        return run_flax_layer(
            self,
            nnx.to_pure_dict(nnx.state(self.cell, nnx.Not(nnx.RngState))),
            inputs,
            initial_carry,
            seq_lengths=seq_lengths,
            return_carry=return_carry,
            time_major=time_major,
            reverse=reverse,
            keep_order=keep_order,
        )


_LAYER = (
    "time_major",
    "return_carry",
    "reverse",
    "keep_order",
    "unroll",
    "outside",
    "state_axes",
    "broadcast_rngs",
    "gradient",
    "backend",
)


def _split(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the layer, and those of the cell."""
    layer = {name: options.pop(name) for name in _LAYER if name in options}
    return layer, options


class LSTM(RNN):
    """An `RNN` over `flax.nnx.OptimizedLSTMCell`.

    Args:
        in_features: D.
        hidden_features: H.
        rngs: for the parameters.
        **options: those of `RNN`, and those of the cell (``kernel_init``, ``dtype``, ``param_dtype``, …).

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from lstm_jax.nnx import LSTM
        >>> layer = LSTM(3, 4, return_carry=True, rngs=nnx.Rngs(0))
        >>> (c, h), outputs = layer(jnp.ones((2, 10, 3)), seq_lengths=jnp.array([10, 6]))
        >>> c.shape, outputs.shape
        ((2, 4), (2, 10, 4))
    """

    def __init__(
        self, in_features: int, hidden_features: int, *, rngs: nnx.Rngs, **options: Any
    ) -> None:
        layer, of_cell = _split(options)
        cell = nnx.OptimizedLSTMCell(in_features, hidden_features, rngs=rngs, **of_cell)
        super().__init__(cell, **layer)


class GRU(RNN):
    """An `RNN` over `flax.nnx.GRUCell`; arguments as for `LSTM`."""

    def __init__(
        self, in_features: int, hidden_features: int, *, rngs: nnx.Rngs, **options: Any
    ) -> None:
        layer, of_cell = _split(options)
        super().__init__(nnx.GRUCell(in_features, hidden_features, rngs=rngs, **of_cell), **layer)
