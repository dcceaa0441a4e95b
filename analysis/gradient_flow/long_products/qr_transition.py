"""The smallest singular values of the blocks of a transition, by a walk with a QR decomposition at each step.

The same walk as `gradient_flow.long_products.transition`, in the form of
`gradient_flow.long_products.qr_product`: more expensive, and accurate where a plain product is only rounding.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from gradient_flow.long_products import qr_product
from gradient_flow.long_products.qr_product import QRProduct
from gradient_flow.long_products.transition import chain_gain
from gradient_flow.step_jacobians.scaled_entries import unscaled
from gradient_flow.step_jacobians.state_layout import JOINT, Blocks, Layout, part_slices
from gradient_flow.step_jacobians.step_jacobian import dense


class QRWalk(NamedTuple):
    """The carry of the walk from t back to k: Pᵀ and chain_cᵀ as graded products; None if not asked for."""

    whole: Any
    chain: Any


def start(layout: Layout, names: frozenset[str]) -> QRWalk:
    """The identities at k = t."""
    whole = qr_product.identity(sum(layout.sizes), layout.dtype) if names - {"chain_c"} else None
    chain = qr_product.identity(layout.sizes[1], layout.dtype) if "chain_c" in names else None
    return QRWalk(whole, chain)


def step_back(walk: QRWalk, jacobian: Blocks, h_c: Any) -> QRWalk:
    """Multiply by J_{k+1}; ``h_c`` is D_k of an LSTM."""
    whole, chain = walk
    if whole is not None:
        whole = qr_product.multiply(dense(_plain(jacobian)).T, whole)
    if chain is not None:
        chain = qr_product.multiply(unscaled(chain_gain(jacobian, h_c)).T, chain)
    return QRWalk(whole, chain)


def _plain(jacobian: Blocks) -> Blocks:
    return tuple(tuple(unscaled(block) for block in line) for line in jacobian)


def read(walk: QRWalk, name: str, layout: Layout, h_c: Any) -> QRProduct:
    """One named matrix, transposed; ``h_c`` is D_k of an LSTM."""
    if name == "chain_c":
        return walk.chain
    if name == JOINT:
        return walk.whole
    parts = part_slices(layout)
    eye = jnp.eye(parts[-1].stop, dtype=layout.dtype)
    if name == "total_c":
        row = 1
        columns = jnp.concatenate(
            [jnp.diag(unscaled(h_c)), jnp.eye(layout.sizes[1], dtype=layout.dtype)], axis=1
        )
    else:
        row, column = layout.places()[name]
        columns = eye[parts[column]]
    selected = qr_product.multiply(columns, walk.whole)
    return selected._replace(y=selected.y[:, parts[row]])
