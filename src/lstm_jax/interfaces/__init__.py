"""The same networks under the signatures of PyTorch and Flax.

Start with `flax_signature` and `torch_signature`: thin functions around `unroll` and `unroll_stack`.
`flax_cells` runs the cells of Flax, for `lstm_jax.nnx` and `lstm_jax.linen`, whose RNN layers replace Flax's.

May import: every room up to `layers`, and `weights`.
"""

from lstm_jax.interfaces.flax_signature import FlaxOrder, flax_style
from lstm_jax.interfaces.torch_signature import torch_style

__all__ = ["FlaxOrder", "flax_style", "torch_style"]
