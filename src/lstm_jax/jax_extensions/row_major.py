"""Kernels of other libraries read arrays in row-major order; XLA has to be told."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.interpreters import mlir


def require_row_major(primitive: Primitive, lowering: Callable[..., Any], *, platform: str) -> None:
    """Lower a primitive to a custom call whose operands and results are in row-major order.

    Without these layouts XLA may hand over a transposed array as it lies in memory, in place of a copy in
    the order of the new axes, and the kernel then reads other numbers.

    Args:
        primitive: that of the kernel.
        lowering: makes the custom call and returns some of its results.
        platform: to which it lowers.
    """
    mlir.register_lowering(primitive, partial(_row_major, lowering), platform=platform)


def _row_major(lowering: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    results = lowering(*arguments, **settings)
    call = results[0].owner
    call.attributes["operand_layouts"] = _layouts(call.operands)
    call.attributes["result_layouts"] = _layouts(call.results)
    return results


def _layouts(arrays: Any) -> ir.ArrayAttr:
    """For each array its axes, that of neighbours in memory first."""
    index: Any = ir.IndexType.get()
    orders: list[Any] = [np.arange(ir.RankedTensorType(a.type).rank - 1, -1, -1) for a in arrays]
    return ir.ArrayAttr.get([ir.DenseIntElementsAttr.get(order, type=index) for order in orders])
