"""Hidden units split over the devices of a mesh axis: each device has some units with all of their gates.

The columns of a weight are in the order gate by gate, so a piece of them has some gates of all units, and
each step would move gates between devices. Before the loop the columns are put in the order block by block,

    w[n, G·H] -> w[n, m, G·H/m]        state [B, H] -> [B, m, H/m]        b[G·H] -> [1, m, G·H/m]

after which everything elementwise stays on its device. A step moves h alone: forward it is gathered, backward
the parts of δz W_hᵀ are added up.

Axes: m blocks, one for each device of the axis ``"model"`` of the mesh in context (`jax.set_mesh`).
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells.cell import CELLS_KEPT, Cell, HandDerived
from lstm_jax.cells.gru import GRUParams
from lstm_jax.cells.lstm import LSTMParams
from lstm_jax.cells.rnn import RNNParams
from lstm_jax.jax_extensions.mesh_axes import MODEL, devices_on
from lstm_jax.time_loop.step_masks import StepMasks

SPLIT = (LSTMParams, GRUParams, RNNParams)
"""Parameters of the cells whose units meet in W_h alone."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["array"],
    meta_fields=["rows_in_blocks", "transposed"],
)
@dataclass(frozen=True)
class BlockedWeight:
    """A weight [n, m, G·H/m] or its transpose, for ``rows @ weight`` and ``rows @ weight.T``.

    Attributes:
        array: the weight.
        rows_in_blocks: whether its rows are units as well: [..., m, n/m] in place of [..., n].
        transposed: whether it stands for its transpose.
    """

    array: Array
    rows_in_blocks: bool = False
    transposed: bool = False

    @property
    def T(self) -> "BlockedWeight":
        """The transpose, which costs nothing."""
        return BlockedWeight(self.array, self.rows_in_blocks, not self.transposed)

    def __rmatmul__(self, rows: Array) -> Array:
        """``rows @ weight``."""
        blocks = self.array.shape[1]
        if self.transposed:
            found = jnp.einsum("...mz,nmz->...n", rows, self.array)
            return _in_blocks(found, blocks) if self.rows_in_blocks else found
        rows = _joined(rows) if self.rows_in_blocks else rows
        return jnp.einsum("...n,nmz->...mz", rows, self.array)


def split_units(params: PyTree) -> PyTree:
    """Parameters of a network, those of its standard cells split over the axis ``"model"`` of a mesh.

    For the ``init`` of a `lstm_jax.training.Problem`: `fit` keeps parameters, and the optimizer's state of
    them, where this puts them. Each device has a part of the columns of every weight. Without such a mesh in
    context (`jax.set_mesh`), and where the sizes do not divide, they are as they were.

    Args:
        params: any pytree, with the parameters of LSTM, GRU or RNN cells somewhere in it.

    Example:
        >>> import jax, lstm_jax
        >>> from lstm_jax.training import split_units
        >>> cell = lstm_jax.lstm(3, 4)
        >>> params = split_units({"cell": cell.init(jax.random.key(0))})
        >>> params["cell"].w_h.shape
        (4, 16)
    """
    count = devices_on(MODEL)

    def split(leaf: Array) -> Array:
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), MODEL)
        return jax.lax.with_sharding_constraint(leaf, spec)

    def of_cell(node: Any) -> Any:
        known = type(node) in SPLIT and count > 1 and node.w_h.shape[0] % count == 0
        return jax.tree.map(split, node) if known else node

    return jax.tree.map(of_cell, params, is_leaf=lambda node: type(node) in SPLIT)


def blocks_of(cell: Cell, params: PyTree, state0: PyTree) -> int:
    """The devices over which the units of a cell are split; 1 if they are not."""
    count = devices_on(MODEL)
    # The biases of blocks need a batch axis.
    splits = type(params) in SPLIT and state0.h.ndim > 1 and cell.hidden_size % count == 0
    return count if splits else 1


@lru_cache(maxsize=CELLS_KEPT)
def blocked_cell(cell: Cell) -> Cell:
    """A cell whose rule takes parameters and states in blocks: the same but for the sums over time.

    Those are the transpose of its tangents, for which the order of the columns does not matter.
    """
    assert cell.rule is not None
    tangent_inputs = cell.rule.tangent_inputs

    def parameter_gradient(params: PyTree, xs: Array, residuals: Any, d_z: Any) -> Any:
        def tangents(params_dot: PyTree, xs_dot: Array) -> Any:
            return tangent_inputs(params, params_dot, xs, xs_dot, residuals)

        return jax.linear_transpose(tangents, params, xs)(d_z)

    rule = HandDerived(*cell.rule[:5], parameter_gradient)
    return cell._replace(rule=rule)


def in_blocks(
    params: PyTree, state0: PyTree, masks: StepMasks, blocks: int
) -> tuple[PyTree, PyTree, StepMasks]:
    """Parameters, starting state and masks in blocks, each on its device."""
    gates = params.w_h.shape[1] // params.w_h.shape[0]

    def columns(leaf: Array) -> Array:
        """[..., G·H] -> [..., m, G·H/m]."""
        count = 1 if leaf.shape[-1] == params.w_h.shape[0] else gates
        parts = leaf.reshape(*leaf.shape[:-1], count, blocks, -1)
        return _on_devices(jnp.moveaxis(parts, -3, -2).reshape(*leaf.shape[:-1], blocks, -1))

    def units(leaf: Array) -> Array:
        if leaf.ndim == 0:
            return leaf
        # The last axis of a mask that is the same for all units is there to be broadcast.
        return leaf[..., None, :] if leaf.shape[-1] == 1 else _on_devices(_in_blocks(leaf, blocks))

    weights = {
        "w_x": BlockedWeight(columns(params.w_x)),
        "w_h": BlockedWeight(columns(params.w_h), rows_in_blocks=True),
    }
    biases = {
        name: columns(leaf)[None] for name, leaf in params._asdict().items() if name not in weights
    }
    state0, masks = jax.tree.map(units, (state0, masks))
    return params._replace(**weights, **biases), state0, masks


def out_of_blocks(state: PyTree, hs: Array) -> tuple[PyTree, Array]:
    """The final state and the outputs as [..., H]."""
    return jax.tree.map(_joined, state), _joined(hs)


def _in_blocks(rows: Array, blocks: int) -> Array:
    return rows.reshape(*rows.shape[:-1], blocks, -1)


def _joined(rows: Array) -> Array:
    return rows.reshape(*rows.shape[:-2], -1)


def _on_devices(array: Array) -> Array:
    free = [PartitionSpec.UNCONSTRAINED] * (array.ndim - 2)
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*free, MODEL, None))
