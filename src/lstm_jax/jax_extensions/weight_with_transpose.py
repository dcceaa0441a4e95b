r"""A weight matrix stored with its transpose, for fast products in a loop over time.

    rows @ weight          [..., n] @ [n, m]
    rows @ weight.T        [..., m] @ [m, n]

The numbers are those of the plain array. For few rows (a batch) and a large matrix, much of a product's time
goes into the matrix: XLA on a CPU repacks the right operand at every call, which takes twice as long for a
transposed one. So

- the transpose is made once, before the loop;
- a matrix larger than a core's second-level cache goes to the left, (Wᵀ rowsᵀ)ᵀ, where XLA reads it without
  packing; to transpose the few rows costs less.

Measured on two AVX-512 cores: 16 rows by a 576 × 2048 matrix take 222 µs on the right, 145 µs on the left; 32
rows by 256 × 1024 are faster on the right, 75 against 89 µs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from lstm_jax.array_types import Array, PyTree
from lstm_jax.validation import is_symbolic

LARGE = 2**21
"""Bytes from which a matrix goes to the left of the product, on a CPU."""

FEWEST_ROWS = 4
"""With fewer rows XLA computes products of a matrix and vectors, without packing."""

FEWEST_STEPS = 32
"""In a shorter loop the transposes cost more than they save."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WeightWithTranspose:
    """A matrix [n, m] together with its transpose [m, n]."""

    matrix: Any
    transposed: Any

    @property
    def T(self) -> "WeightWithTranspose":
        """The transpose, which costs nothing."""
        return WeightWithTranspose(self.transposed, self.matrix)

    def __rmatmul__(self, rows: Array) -> Array:
        """``rows @ weight``."""
        large = self.matrix.size * self.matrix.dtype.itemsize > LARGE
        if large and rows.ndim == 2 and rows.shape[0] >= FEWEST_ROWS:
            return left_product_p.bind(rows, self.transposed)
        return rows @ self.matrix


def matrix_of(weight: WeightWithTranspose | Array) -> Array:
    """The matrix itself, of a `WeightWithTranspose` or of a plain one."""
    return weight.matrix if isinstance(weight, WeightWithTranspose) else weight


left_product_p = Primitive("left_product")
"""rows [r, n] and Wᵀ [m, n] to rows W. A primitive: the best form depends on the platform, and
XLA on a CPU cannot compile `_from_the_left` with a batch axis. Differentiated or batched it is a plain
product again."""


def _from_the_right(rows: Array, transposed: Array) -> Array:
    return rows @ transposed.T


def _from_the_left(rows: Array, transposed: Array) -> Array:
    # Without the barrier XLA would fold the transpose into the product and pack the matrix after all.
    return lax.optimization_barrier(transposed @ rows.T).T


@left_product_p.def_abstract_eval
def _abstract(*avals: Any) -> ShapedArray:
    (out,) = jax.make_jaxpr(_from_the_right)(*avals).out_avals
    return out


def _jvp(primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    out = left_product_p.bind(*primals)
    moving = [n for n, dot in enumerate(tangents) if not isinstance(dot, ad.Zero)]
    if not moving:
        return out, ad.Zero(jax.typeof(out))
    _, dot = jax.jvp(
        lambda *moved: _from_the_right(
            *(dict(zip(moving, moved, strict=True)).get(n, primals[n]) for n in (0, 1))
        ),
        [primals[n] for n in moving],
        [tangents[n] for n in moving],
    )
    return out, dot


def _batch(operands: Sequence[Any], axes: Sequence[int | None]) -> tuple[Any, int]:
    return jax.vmap(_from_the_right, in_axes=tuple(axes))(*operands), 0


left_product_p.def_impl(_from_the_right)
ad.primitive_jvps[left_product_p] = _jvp
batching.primitive_batchers[left_product_p] = _batch
mlir.register_lowering(left_product_p, mlir.lower_fun(_from_the_right, multiple_results=False))
mlir.register_lowering(
    left_product_p, mlir.lower_fun(_from_the_left, multiple_results=False), platform="cpu"
)


def with_transposes(params: PyTree, steps: int) -> PyTree:
    """A cell's parameters, every matrix as a `WeightWithTranspose` if the loop is long enough."""
    if not is_symbolic(steps) and steps < FEWEST_STEPS:
        return params
    return jax.tree.map(
        lambda leaf: WeightWithTranspose(leaf, leaf.T) if leaf.ndim == 2 else leaf, params
    )
