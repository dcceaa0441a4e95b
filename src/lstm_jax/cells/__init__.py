"""One step of a recurrent network: its equations, its derivative by hand, its Jacobian. One file per cell.

Start with `cell`: the type `Cell`, a named tuple of pure functions. Then `lstm`, which opens with its
equations; `gru` and `rnn` have the same form. `lstm_variants` adds peepholes, coupled gates, layer
normalisation and a projection, `gru_reset_before` the older GRU. They share
`affine`, `activation_slopes` and `layer_norm`. `specification` is a cell's kind, sizes and options.

May import: `jax_extensions` and the files at the root.
"""

from lstm_jax.cells.cell import Cell, HandDerived, Step
from lstm_jax.cells.gru import GRUParams, GRUState, gru
from lstm_jax.cells.gru_reset_before import GRUResetBeforeParams
from lstm_jax.cells.lstm import LSTMParams, LSTMState, lstm
from lstm_jax.cells.lstm_variants import LSTMVariantParams
from lstm_jax.cells.rnn import RNNParams, RNNState, rnn

__all__ = [
    "Cell",
    "GRUParams",
    "GRUResetBeforeParams",
    "GRUState",
    "HandDerived",
    "LSTMParams",
    "LSTMState",
    "LSTMVariantParams",
    "RNNParams",
    "RNNState",
    "Step",
    "gru",
    "lstm",
    "rnn",
]
