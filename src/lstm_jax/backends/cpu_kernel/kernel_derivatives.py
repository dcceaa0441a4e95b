r"""A network by the CPU kernel with every derivative.

The kernel runs a whole sequence in one call (`native/forward.h`, `native/backward.h`). As
`lstm_jax.gradients.custom_derivative` does for the hand-derived rule, its JVP ends in a `linear_map`:

    grad       the kernel's backward pass, from the residuals that its forward pass kept
    jvp        the loop's tangent pass
    grad²      the derivative of the loop's backward pass, at the point at which the kernel ran

A sequence whose residuals would take too much memory runs segment by segment, each forward once more in the
backward pass (`lstm_jax.gradients.checkpointing`).

Axes: xs[T, B, D], hs[T, B, H].
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.backends.cpu_kernel.arrays import Found, Kernel, inputs_of, padded_units
from lstm_jax.backends.cpu_kernel.conditions import kind_of
from lstm_jax.backends.cpu_kernel.kernel_call import backward, forward
from lstm_jax.cells.cell import Cell
from lstm_jax.gradients import checkpointing
from lstm_jax.gradients.custom_derivative import unroll_by_hand
from lstm_jax.jax_extensions.linear_map import linear_map
from lstm_jax.jax_extensions.matmul_precision import at_precision
from lstm_jax.time_loop.chunked_scan import scan_chunks
from lstm_jax.time_loop.scan import scan_settings
from lstm_jax.time_loop.step_masks import Prepared, StepMasks


class _Saved(NamedTuple):
    """Inputs, outputs and residuals of the forward pass."""

    params: PyTree
    xs: Float[Array, "time batch d"]
    state0: PyTree
    masks: StepMasks
    found: Found


def unroll_by_cpu_kernel(
    cell: Cell, params: PyTree, prepared: Prepared
) -> tuple[PyTree, Float[Array, "time *batch h"]]:
    """Run a cell by the kernel: ``(final state, hs)``; `conditions` says what it runs.

    Args:
        cell: that the kernel has.
        params: of the cell.
        prepared: the sequence, the starting state and the masks.
    """
    xs, state0, masks = prepared[:3]
    if xs.ndim == 2:
        lifted = prepared._replace(
            xs=xs[:, None],
            state0=jax.tree.map(lambda s: s[None], state0),
            masks=jax.tree.map(lambda m: m[:, None], masks),
        )
        state, hs = unroll_by_cpu_kernel(cell, params, lifted)
        return jax.tree.map(lambda s: s[0], state), hs[:, 0]
    names = tuple(name for name, mask in zip(masks._fields, masks, strict=True) if mask is not None)
    kind = kind_of(cell)
    assert kind is not None
    kernel = Kernel(kind, cell, scan_settings(prepared.reverse, "auto"), names)
    steps = _steps_of_segment(kernel, xs.shape[0], state0.h)
    if steps >= xs.shape[0]:
        return _run(kernel, params, xs, state0, masks)

    @partial(jax.checkpoint, prevent_cse=False)
    def segment(
        state: PyTree, start: None, inputs: tuple[Array, StepMasks]
    ) -> tuple[PyTree, Array]:
        del start
        return _run(kernel, params, inputs[0], state, inputs[1])

    return scan_chunks(segment, state0, None, (xs, masks), steps, reverse=prepared.reverse)


def _steps_of_segment(kernel: Kernel, length: int, h: Array) -> int:
    """All steps, or some √T of them where the residuals of all would take more than half a GiB."""
    numbers = h.shape[0] * (kernel.kind.kept * padded_units(h.shape[1]) + h.shape[1])
    if length * numbers * h.dtype.itemsize <= checkpointing.LARGE:
        return length
    return -(-length // math.isqrt(length))


def _precision(kernel: Kernel, *rest: Any) -> Any:
    return kernel.settings.precision


def _state(kernel: Kernel, like: PyTree, h: Array, c: Array) -> PyTree:
    return type(like)(h[0], c[0]) if kernel.kind.memory else type(like)(h[0])


def _forward(
    kernel: Kernel, keeps: bool, params: PyTree, xs: Array, state0: PyTree, masks: StepMasks
) -> tuple[tuple[PyTree, Array], Found]:
    found = forward(kernel, inputs_of(kernel, params, xs, state0, masks), keeps)
    return (_state(kernel, state0, found.h_end, found.c_end), found.hs[0]), found


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _run(
    kernel: Kernel, params: PyTree, xs: Array, state0: PyTree, masks: StepMasks
) -> tuple[PyTree, Array]:
    return _forward(kernel, False, params, xs, state0, masks)[0]


@_run.defjvp
@partial(at_precision, precision=_precision)
def _run_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    out, found = _run_and_save(kernel, *primals)
    return out, _derivative(kernel, out, _Saved._make((*primals, found)), tangents)


def _derivative(kernel: Kernel, out: Any, saved: _Saved, tangents: Any) -> Any:
    return linear_map(
        partial(_tangent, kernel),
        partial(_backward, kernel),
        saved,
        tuple(tangents[:3]),
        outputs=out,
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _run_and_save(
    kernel: Kernel, params: PyTree, xs: Array, state0: PyTree, masks: StepMasks
) -> tuple[tuple[PyTree, Array], Found]:
    return _forward(kernel, True, params, xs, state0, masks)


@_run_and_save.defjvp
@partial(at_precision, precision=_precision)
def _run_and_save_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    """In derivatives of the derivative: the loop needs the inputs alone, so what was found is constant."""
    out, found = _run_and_save(kernel, *primals)
    constant = jax.tree.map(jnp.zeros_like, found)
    return (out, found), (
        _derivative(kernel, out, _Saved._make((*primals, found)), tangents),
        constant,
    )


def _by_loop(kernel: Kernel, masks: StepMasks, params: PyTree, xs: Array, state0: PyTree) -> Any:
    steps = xs.shape[0]
    return unroll_by_hand(kernel.cell, kernel.settings, steps, params, xs, state0, masks)


def _tangent(kernel: Kernel, saved: _Saved, dots: tuple[PyTree, Array, PyTree]) -> Any:
    return jax.jvp(partial(_by_loop, kernel, saved.masks), saved[:3], dots)[1]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(at_precision, precision=_precision)
def _backward(kernel: Kernel, saved: _Saved, d_out: tuple[PyTree, Array]) -> Any:
    """Cotangents of params, xs and state0."""
    d_state, d_hs = d_out
    inputs = inputs_of(kernel, *saved[:4])
    d_c = d_state.c[None] if kernel.kind.memory else jnp.zeros((1, 0), d_hs.dtype)
    found = backward(kernel, inputs, saved.found, d_hs[None], d_state.h[None], d_c)
    weights = [found.w_x, found.w_h, found.b, *[found.b_hn] * kernel.kind.hidden_bias]
    d_params = type(saved.params)(*(leaf[0, 0] for leaf in weights))
    return d_params, found.xs[0], _state(kernel, saved.state0, found.h0, found.c0)


@_backward.defjvp
@partial(at_precision, precision=_precision)
def _backward_jvp(kernel: Kernel, primals: Any, tangents: Any) -> Any:
    saved, d_out = primals
    saved_dot, d_out_dot = tangents

    def loop_cotangents(params: PyTree, xs: Array, state0: PyTree, d_out: Any) -> Any:
        run = partial(_by_loop, kernel, saved.masks)
        return jax.vjp(run, params, xs, state0)[1](d_out)

    # hs and the residuals need no tangents: the loop computes them again from params, xs and state0.
    _, dots = jax.jvp(loop_cotangents, (*saved[:3], d_out), (*saved_dot[:3], d_out_dot))
    return _backward(kernel, saved, d_out), dots
