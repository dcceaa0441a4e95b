"""What the CPU kernel runs; all else is run by the loop.

| | kernel | loop |
| --- | --- | --- |
| cells | the standard LSTM, both forms of the GRU, the vanilla cell | variants of the LSTM, others |
| dtypes | float32, float64 | bfloat16 |
| sequences | whole ones, lengths, masks, resets, truncation | sizes that are not known |
| noise | zoneout and recurrent dropout in training | zoneout at evaluation |
| where | a CPU; inside of `jax.shard_map` | GPU, TPU, exports, a mesh that the compiler splits over |
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from lstm_jax.backends.cpu_kernel.arrays import Kind
from lstm_jax.backends.cpu_kernel.library import most_threads, status
from lstm_jax.cells.cell import Cell
from lstm_jax.cells.gru import RULE as GRU_RULE
from lstm_jax.cells.gru import step as gru_step
from lstm_jax.cells.gru_reset_before import RULE as RESET_BEFORE_RULE
from lstm_jax.cells.gru_reset_before import step as reset_before_step
from lstm_jax.cells.lstm import RULE as LSTM_RULE
from lstm_jax.cells.lstm import step as lstm_step
from lstm_jax.cells.rnn import ACTIVATIONS
from lstm_jax.cells.rnn import forward_step as rnn_forward_step
from lstm_jax.cells.rnn import step as rnn_step
from lstm_jax.held_arguments import hold
from lstm_jax.time_loop.scan import platform_name
from lstm_jax.time_loop.step_masks import Prepared
from lstm_jax.validation import is_symbolic

FEWEST_ROWS = 16
"""Steps times rows of a batch from which ``"auto"`` takes the kernel.

On 1 to 10 of them the gradient took the kernel 1.4 to 2.3 times as long as the loop, on 20 with 900 units
1.2 times; its forward pass was the faster one from 10 on (one look at five shapes).
"""


def kind_of(cell: Cell) -> Kind | None:
    """The kernel's name of a cell; None for one that it does not have."""
    if cell.step is lstm_step and cell.rule is LSTM_RULE:
        return Kind("lstm", kept=5, memory=True)
    if cell.step is gru_step and cell.rule is GRU_RULE:
        return Kind("gru", kept=4, hidden_bias=True)
    if cell.step is reset_before_step and cell.rule is RESET_BEFORE_RULE:
        return Kind("gru_reset_before", kept=3)
    phi = ACTIVATIONS.get(cell.activation or "")
    if phi is None or cell.rule is None or cell.step != hold(rnn_step, phi):
        return None
    standard = cell.rule.forward_step == hold(rnn_forward_step, phi)
    return Kind(f"rnn_{cell.activation}", kept=0) if standard else None


def refusal(cell: Cell, prepared: Prepared) -> str | None:
    """Why the kernel cannot run a cell over a sequence: ``"expected …, got …"``; None if it can."""
    xs, _, masks = prepared[:3]
    if kind_of(cell) is None:
        return f"expected the standard LSTM, GRU or vanilla cell, got {cell}"
    if xs.dtype not in (jnp.float32, jnp.float64):
        return f"expected float32 or float64, got {xs.dtype}"
    if masks.zoneout is not None and masks.zoneout.h.dtype != bool:
        return "expected zoneout in training, got its expectation"
    if any(is_symbolic(size) for size in xs.shape):
        return "expected sizes that are known, got symbolic ones"
    if platform_name() != "cpu":
        return f"expected a CPU, got {platform_name()}"
    mesh: Any = jax.sharding.get_abstract_mesh()
    if any(kind != AxisType.Manual for kind in mesh.axis_types):
        return "expected one device, got a mesh"
    found = status()
    return None if found.available else found.reason


def covers(cell: Cell, prepared: Prepared, *, whenever: bool) -> bool:
    """Whether the kernel runs a cell over a sequence.

    Args:
        cell: any.
        prepared: the sequence, the starting state and the masks.
        whenever: also where the loop is faster: of few rows, because the kernel lays out the weights first.
    """
    if refusal(cell, prepared) is not None:
        return False
    return whenever or math.prod(prepared.xs.shape[:-1]) >= FEWEST_ROWS


def leaves_cores_idle(cell: Cell, prepared: Prepared) -> bool:
    """Whether ``"auto"`` is the kernel, with fewer rows than there are threads for them."""
    runs = covers(cell, prepared, whenever=False)
    return runs and math.prod(prepared.xs.shape[1:-1]) < most_threads()
