r"""Running products of matrices by an associative scan, with powers of two kept apart.

    M_1, M_1 M_2, …, M_1 ⋯ M_T                      [r_t 1] = [r_{t−1} 1] H_t
                                                    H = | M    0 |        r_t = r_{t−1} M + row
                                                        | row  1 |

A product may be bracketed in any way: a tree of log₂ T rounds in place of T steps, with about twice the
multiplications. An affine recurrence is a product too, of matrices with one more row and column.

**Scales.** Each column of each partial product has a power of two
(`gradient_flow.long_products.scaled_matrix`), so that nothing over- or underflows. One loss remains: an entry
that is smaller than the largest of its column by more than the range of the dtype, 10^−38 or 10^−308, becomes
zero. In a walk back this does no harm, as rows never mix. In the middle of a tree, a factor from the left may
shrink the large entry and not the small one. For units that do not influence each other and drift apart by
that much within one bracket, use `jacobian_norms`.

Axes: factors[T, n, n], time leading.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gradient_flow.long_products.scaled_matrix import (
    ScaledMatrix,
    as_scaled,
    scaled_product,
    scaled_sum,
)
from gradient_flow.step_jacobians.state_layout import Layout
from gradient_flow.step_jacobians.step_jacobian import block_jacobian, dense
from gradient_flow.step_jacobians.vector_products import with_transposed_weights
from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells import Cell, Step
from lstm_jax.layers.stack import Stack

FORMS = ("parallel", "serial")


def chain(left: ScaledMatrix, right: ScaledMatrix) -> ScaledMatrix:
    """``left @ right``, stacks of matrices."""
    moved = scaled_product(left, right.matrix)
    return scaled_sum([moved._replace(exponent=moved.exponent + right.exponent)])


def running_products(
    factors: ScaledMatrix, *, reverse: bool = False, form: str = "parallel"
) -> ScaledMatrix:
    """M_1 ⋯ M_t for every t; if reversed, M_T ⋯ M_k for every k.

    Args:
        factors: [T, n, n].
        reverse: from the last factor down.
        form: ``"parallel"`` by `jax.lax.associative_scan`, or ``"serial"``, one after the other.
    """
    if form == "parallel":
        return lax.associative_scan(chain, factors, reverse=reverse)

    def step(so_far: ScaledMatrix, factor: ScaledMatrix) -> tuple[ScaledMatrix, ScaledMatrix]:
        so_far = chain(so_far, factor)
        return so_far, so_far

    size = factors.matrix.shape[-1]
    eye = as_scaled(jnp.eye(size, dtype=factors.matrix.dtype))
    return lax.scan(step, eye, factors, reverse=reverse)[1]


def affine(matrices: Float[Array, "T n n"], rows: Float[Array, "T n"]) -> ScaledMatrix:
    """H of each step: [r 1] H = [r M + row, 1]."""
    wide = jnp.concatenate([matrices, rows[:, None]], axis=1)
    last = jnp.zeros((*wide.shape[:2], 1), wide.dtype).at[:, -1].set(1)
    return as_scaled(jnp.concatenate([wide, last], axis=2))


def rows_of(products: ScaledMatrix) -> ScaledMatrix:
    """The row r of each [r 1]: matrix[T, 1, n], exponent[T, n]."""
    return ScaledMatrix(products.matrix[:, -1:, :-1], products.exponent[:, :-1])


def step_jacobians(
    cell: Cell | Stack | Step, layout: Layout, params: PyTree, states: PyTree, xs: PyTree
) -> Float[Array, "T n n"]:
    """J_1 … J_T of one sample, all at once, from the states before each step."""
    length = jax.tree.leaves(xs)[0].shape[0]
    blocks = block_jacobian(cell, layout)
    params = with_transposed_weights(cell, params, length)
    return jax.vmap(lambda s, x: dense(blocks(params, s, x)))(states, xs)
