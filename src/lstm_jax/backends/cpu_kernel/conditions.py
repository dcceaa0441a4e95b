"""What the CPU kernel runs; all else is run by the loop.

| | kernel | loop |
| --- | --- | --- |
| cells | the standard LSTM | GRU, vanilla, variants, steps of one's own |
| dtypes | float32, float64 | bfloat16 |
| sequences | whole ones, forward or reversed, any starting state | lengths, masks, resets, truncation |
| noise | none | zoneout, recurrent dropout |
| memory | gates of every step | segments, where those would take more than half a GiB |
| where | a CPU | GPU, TPU, a mesh in context, inside of `jax.shard_map` |
"""

import jax
import jax.numpy as jnp

from lstm_jax.array_types import PyTree
from lstm_jax.backends.cpu_kernel.library import status
from lstm_jax.backends.loop import Loop
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.lstm import RULE, step
from lstm_jax.gradients.checkpointing import segment_length
from lstm_jax.jax_extensions.mesh_axes import varying_axes
from lstm_jax.time_loop.scan import platform_name
from lstm_jax.time_loop.step_masks import Prepared
from lstm_jax.validation import is_symbolic


def refusal(cell: Cell, params: PyTree, prepared: Prepared) -> str | None:
    """Why the kernel cannot run a cell over a sequence: ``"expected …, got …"``; None if it can."""
    xs, state0, masks = prepared[:3]
    if cell.step is not step or cell.rule is not RULE:
        return f"expected the standard LSTM, got {cell}"
    if xs.dtype not in (jnp.float32, jnp.float64):
        return f"expected float32 or float64, got {xs.dtype}"
    if any(mask is not None for mask in masks):
        return "expected whole sequences without noise, got masks"
    if any(is_symbolic(size) for size in xs.shape):
        return "expected sizes that are known, got symbolic ones"
    if platform_name() != "cpu":
        return f"expected a CPU, got {platform_name()}"
    if not jax.sharding.get_abstract_mesh().empty or varying_axes(params, xs, state0):
        return "expected one device, got a mesh"
    if segment_length(Loop().segments, cell, params, xs.shape[0], state0) < xs.shape[0]:
        return "expected gates of every step within half a GiB, got more"
    found = status()
    return None if found.available else found.reason


def covers(cell: Cell, params: PyTree, prepared: Prepared) -> bool:
    """Whether the kernel runs a cell over a sequence."""
    return refusal(cell, params, prepared) is None
