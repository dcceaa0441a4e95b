"""Flax linen layers that run by `lstm_jax.unroll` and have its gradient.

`RNN` replaces `flax.linen.RNN`: the same cells, the same arguments, the same variables under the
same names, drawn by the same keys. `LSTM` and `GRU` make an `RNN` with its cell.

    from lstm_jax.linen import RNN         # was: from flax.linen import RNN

Past a sequence's length the outputs are zero. Flax's network runs on over the padding there, and a model may
read it, as by ``outputs[:, -1]``: ``outside="flax"`` keeps its numbers.

Axes: inputs[*batch, T, D], or [T, *batch, D] with time_major; carry (c, h) or h, [*batch, H].
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from flax.core import meta

from lstm_jax.array_types import Array, PyTree
from lstm_jax.backends.loop import Loop
from lstm_jax.interfaces.flax_cells import ADVICE, run_flax_layer
from lstm_jax.validation import require_array
from lstm_jax.weights.flax_modules import activation_of


class RNN(linen.RNN):
    """`flax.linen.RNN`, run by `lstm_jax.unroll`.

    Attributes:
        cell: a linen LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell; and those of `flax.linen.RNN`, of
            which ``unroll=1``, Flax's default, leaves it to the platform.
        gradient: ``"bptt"``, ``"autodiff"`` or ``"auto"``, as for `lstm_jax.unroll`.
        backend: ``"auto"``, ``"loop"``, ``"cudnn"`` or a `lstm_jax.Loop`, as for `lstm_jax.unroll`.
        outside: what the outputs are past a sequence's length: ``"zeros"``, ``"last"``, the last output
            again, or ``"flax"``, what Flax returns. Then the carry of an LSTM takes a second pass.

    Raises:
        ValueError: when run: a cell, or activations, without a counterpart in `lstm_jax`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen
        >>> from lstm_jax.linen import RNN
        >>> layer = RNN(linen.LSTMCell(4))
        >>> xs = jnp.ones((2, 10, 3))
        >>> layer.apply(layer.init(jax.random.key(0), xs), xs).shape
        (2, 10, 4)
    """

    gradient: str = "auto"
    backend: str | Loop = "auto"
    outside: str = "zeros"

    def __call__(
        self,
        inputs: Array,
        *,
        initial_carry: PyTree | None = None,
        init_key: Array | None = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
    ) -> Any:
        """Run over a sequence, with the arguments of `flax.linen.RNN.__call__`."""
        activation_of(self.cell, ADVICE)
        require_array("inputs", inputs)
        time_major = self.time_major if time_major is None else time_major
        shape = inputs.shape[1:] if time_major else (*inputs.shape[:-2], inputs.shape[-1])
        if initial_carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            initial_carry = self.cell.initialize_carry(key, shape)
        if self.is_initializing():  # Flax draws the variables, from one step
            self.cell(initial_carry, jnp.zeros(shape, inputs.dtype))
        if "params" not in self.cell.variables:
            raise ValueError(
                "Variable mismatch: expected the params of the cell, from init, got "
                f"{sorted(self.cell.variables)}."
            )
        return run_flax_layer(
            self,
            meta.unbox(self.cell.variables["params"]),
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
    "gradient",
    "backend",
    "name",
    "parent",
)


def LSTM(features: int, **options: Any) -> RNN:
    """An `RNN` over `flax.linen.OptimizedLSTMCell`.

    Args:
        features: H.
        **options: those of `RNN`, and those of the cell (``kernel_init``, ``dtype``, ``param_dtype``, …).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from lstm_jax.linen import LSTM
        >>> layer = LSTM(4, return_carry=True)
        >>> xs = jnp.ones((2, 10, 3))
        >>> (c, h), outputs = layer.apply(layer.init(jax.random.key(0), xs), xs)
        >>> c.shape, outputs.shape
        ((2, 4), (2, 10, 4))
    """
    layer = {name: options.pop(name) for name in _LAYER if name in options}
    return RNN(linen.OptimizedLSTMCell(features, **options), **layer)


def GRU(features: int, **options: Any) -> RNN:
    """An `RNN` over `flax.linen.GRUCell`; arguments as for `LSTM`."""
    layer = {name: options.pop(name) for name in _LAYER if name in options}
    return RNN(linen.GRUCell(features, **options), **layer)
