"""The linear map's transpose by hand: ⟨v, T u⟩ = ⟨Tᵀ v, u⟩, and its rules under every transformation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, assert_close, random_like, random_problem, slow

import lstm_jax
from lstm_jax.gradients.bptt import Saved, backward_pass, forward_pass, tangent_pass
from lstm_jax.jax_extensions.linear_map import linear_map, linear_map_p
from lstm_jax.time_loop.scan import ScanSettings
from lstm_jax.time_loop.step_masks import NO_MASKS


def inner(left, right):
    """⟨left, right⟩ over the leaves of two pytrees."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b), left, right)
    return sum(jax.tree.leaves(products))


@pytest.mark.parametrize(
    ("name", "time", "batch", "reverse"),
    [
        ("lstm", 5, 2, False),
        ("gru", 5, None, True),
        slow("rnn_tanh", 1, 2, True),
        slow("lstm", 1, None, True),
        slow("gru", 1, 2, False),
        slow("rnn_tanh", 5, None, False),
        slow("rnn_relu", 5, 2, True),
    ],
)
def test_backward_pass_is_the_transpose_of_tangent_pass(x64, name, time, batch, reverse):
    cell, params, xs, state0, *_ = problem = random_problem(name, time, batch)
    rng = np.random.default_rng(1)
    u = random_like(rng, problem.inputs)
    v = (random_like(rng, problem.state_weights), random_like(rng, problem.hs_weights))

    loop = ScanSettings(reverse)

    @jax.jit
    def both_sides(u, v):
        out, residuals = forward_pass(cell, loop, params, xs, state0, NO_MASKS)
        saved = Saved(params, xs, state0, out[1], residuals, NO_MASKS)
        forward = tangent_pass(cell, loop, saved, u)
        backward = backward_pass(cell, loop, saved, v)
        sequences = lstm_jax.Sequences(reverse=reverse)
        _, expected = jax.jvp(
            lambda inputs: lstm_jax.unroll(cell, *inputs, sequences=sequences, gradient="autodiff"),
            (problem.inputs,),
            (u,),
        )
        return inner(v, forward), inner(backward, u), forward, expected

    left, right, forward, expected = both_sides(u, v)
    np.testing.assert_allclose(left, right, rtol=1e-12)
    assert_close(forward, expected, 1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_one_step_of_the_rule_is_its_own_transpose(x64, name):
    cell, params, xs, state0, *_ = random_problem(name, 1, 2)
    rule, rng = cell.rule, np.random.default_rng(2)
    state, residuals = rule.forward_step(params, state0, xs[0])
    zeros = jax.tree.map(jnp.zeros_like, (params, xs[0]))
    z_dot = random_like(rng, rule.tangent_inputs(params, zeros[0], xs[0], zeros[1], residuals))
    state_dot, d_state = random_like(rng, state), random_like(rng, state)

    # In the backward pass δh arrives complete: the tangent of the state is the whole output.
    local = rule.local_derivatives(residuals)
    forward = rule.tangent_step(params, local, state_dot, z_dot)
    d_state_prev, d_z = rule.backward_step(params, local, d_state)
    left = inner(d_state, forward)
    np.testing.assert_allclose(left, inner(d_state_prev, state_dot) + inner(d_z, z_dot), rtol=1e-13)

    params_dot, xs_dot = random_like(rng, params), random_like(rng, xs)
    residuals = jax.tree.map(lambda leaf: leaf[None], residuals)
    d_z = random_like(rng, jax.tree.map(lambda leaf: leaf[None], d_z))
    dots = rule.tangent_inputs(params, params_dot, xs, xs_dot, residuals)
    d_params, d_xs = rule.parameter_gradient(params, xs, residuals, d_z)
    right = inner(d_params, params_dot) + inner(d_xs, xs_dot)
    np.testing.assert_allclose(inner(d_z, dots), right, rtol=1e-13)


def forward(residuals, inputs):
    """A map [2] × [3] → [3], {y [2]}: nonlinear in its residuals, linear in its inputs."""
    matrix, gain = residuals
    u, w = inputs
    return matrix @ u * jnp.sin(gain), {"y": gain**2 * u + w[:2]}


def transpose(residuals, outputs):
    matrix, gain = residuals
    d_first, d_second = outputs[0], outputs[1]["y"]
    d_u = matrix.T @ d_first * jnp.sin(gain) + gain**2 * d_second
    return d_u, jnp.concatenate([d_second, jnp.zeros(1)])


mapped = partial(linear_map, forward, transpose)


@pytest.fixture
def operands(x64):
    rng = np.random.default_rng(3)
    residuals = (jnp.asarray(rng.standard_normal((3, 2))), jnp.asarray(0.7))
    inputs = (jnp.asarray(rng.standard_normal(2)), jnp.asarray(rng.standard_normal(3)))
    return residuals, inputs


def summary(outputs):
    """A number that depends on every output, not linearly."""
    first, second = outputs
    return jnp.sum(jnp.cos(first) * jnp.arange(1.0, 4.0)) + jnp.sum(second["y"] ** 3)


def test_the_map_is_its_forward(operands):
    for function in (mapped, jax.jit(mapped)):
        assert_close(function(*operands), forward(*operands), 1e-15)


@pytest.mark.parametrize(
    "argument", [slow(0), slow(1), (0, 1)], ids=["residuals", "inputs", "both"]
)
@pytest.mark.parametrize(
    "derivative",
    [
        jax.grad,
        jax.jacfwd,
        jax.jacrev,
        jax.hessian,
        lambda f, argnums: jax.jacrev(jax.jacrev(f, argnums), argnums),
        lambda f, argnums: jax.jacrev(jax.jacfwd(f, argnums), argnums),
        lambda f, argnums: jax.jit(jax.grad(jax.checkpoint(f), argnums)),
    ],
    ids=["grad", "jacfwd", "jacrev", "hessian", "jacrev jacrev", "jacrev jacfwd", "checkpoint"],
)
def test_derivatives_with_respect_to_residuals_and_inputs(operands, derivative, argument):
    by_rule = jax.jit(derivative(lambda r, u: summary(mapped(r, u)), argument))(*operands)
    plain = jax.jit(derivative(lambda r, u: summary(forward(r, u)), argument))(*operands)
    assert_close(by_rule, plain, 1e-13)


def test_one_residual_moves_and_the_others_stay(operands):
    (matrix, gain), inputs = operands
    for function in (mapped, forward):
        moved = jax.jvp(lambda g, f=function: f((matrix, g), inputs), (gain,), (jnp.ones(()),))
        expected = jax.jvp(lambda g: forward((matrix, g), inputs), (gain,), (jnp.ones(()),))
        assert_close(moved, expected, 1e-14)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=["r", "u", "both"])
@pytest.mark.parametrize(
    "field", [None, slow(0), slow(1)], ids=["all leaves", "first leaf", "second leaf"]
)
def test_vmap_with_some_operands_batched(operands, axes, field):
    """Every mix of batched and unbatched leaves, under `vmap`, its `grad` and the `grad` of it."""

    def batch(tree, axis):
        flags = [axis == 0 and field in (None, n) for n in range(2)]
        scale = jnp.linspace(0.5, 1.5, 4)
        leaves = tuple(
            leaf[None] * scale.reshape(-1, *[1] * leaf.ndim) if flag else leaf
            for leaf, flag in zip(tree, flags, strict=True)
        )
        return leaves, tuple(0 if flag else None for flag in flags)

    batched, in_axes = zip(*map(batch, operands, axes), strict=True)

    def through(function):
        def value(r, u):
            return summary(function(r, u))

        def total(r, u):
            return jnp.sum(jnp.sin(jax.vmap(value, in_axes)(r, u)))

        @jax.jit
        def every_way(r, u):
            return (
                jax.vmap(function, in_axes)(r, u),
                jax.vmap(jax.grad(value, (0, 1)), in_axes)(r, u),
                jax.grad(total, (0, 1))(r, u),
                jax.vmap(lambda r, u: jax.jvp(value, (r, u), (r, u)), in_axes)(r, u),
            )

        return every_way(*batched)

    assert_close(through(mapped), through(forward), 1e-13)


def test_vmap_along_another_axis(operands):
    residuals, (u, w) = operands
    us = jnp.stack([u, 2 * u, 3 * u], axis=1)
    by_rule = jax.vmap(lambda u: mapped(residuals, (u, w)), in_axes=1, out_axes=-1)(us)
    plain = jax.vmap(lambda u: forward(residuals, (u, w)), in_axes=1, out_axes=-1)(us)
    assert_close(by_rule, plain, 1e-14)


def test_nested_vmap(operands):
    residuals, (u, w) = operands
    us, ws = jnp.stack([u, 2 * u]), jnp.stack([w, -w, 3 * w])

    def grid(function):
        inner_map = jax.vmap(lambda u, w: function(residuals, (u, w)), (None, 0))
        return jax.vmap(inner_map, (0, None))(us, ws)

    assert_close(grid(mapped), grid(forward), 1e-14)


def test_constants_have_zero_tangents(operands):
    residuals, inputs = operands
    value, slope = jax.jvp(
        lambda x: x + summary(mapped(residuals, inputs)), (jnp.ones(()),), (jnp.ones(()),)
    )
    assert float(slope) == 1.0
    gradient = jax.grad(lambda w: summary(mapped(residuals, (inputs[0], w))))(inputs[1])
    assert_close(
        gradient, jax.grad(lambda w: summary(forward(residuals, (inputs[0], w))))(inputs[1]), 1e-14
    )
    zero = jax.jvp(mapped, operands, jax.tree.map(jnp.zeros_like, operands))[1]
    assert_close(zero, jax.tree.map(jnp.zeros_like, zero), 0.0)


def test_an_unused_output_sends_back_zeros(operands):
    for pick in (lambda out: jnp.sum(out[0]), lambda out: jnp.sum(out[1]["y"])):
        by_rule = jax.grad(lambda u, p=pick: p(mapped(operands[0], u)))(operands[1])
        plain = jax.grad(lambda u, p=pick: p(forward(operands[0], u)))(operands[1])
        assert_close(by_rule, plain, 1e-14)


def test_the_gradient_runs_the_transpose_by_hand(x64):
    """A deliberately wrong transpose shows in `grad` and not in `jvp`."""
    wrong = partial(linear_map, lambda r, u: r * u, lambda r, v: 5 * r * v, jnp.asarray(3.0))
    one = jnp.ones(())
    assert float(jax.grad(wrong)(one)) == 15.0
    assert float(jax.jvp(wrong, (one,), (one,))[1]) == 3.0
    # The transpose of the transpose is the forward map again.
    twice = jax.linear_transpose(lambda v: jax.linear_transpose(wrong, one)(v)[0], one)
    assert float(twice(one)[0]) == 3.0


def test_the_transpose_of_a_residual_is_refused(x64):
    def product(r):
        return linear_map(lambda r, u: r * u, lambda r, v: r * v, r, jnp.ones(()))

    with pytest.raises(NotImplementedError, match="cannot be transposed in its residuals"):
        jax.linear_transpose(product, jnp.ones(()))(jnp.ones(()))


def test_the_unrolled_cell_is_one_linear_map():
    cell, params, xs, state0, hs_weights, _ = random_problem("lstm", 3)
    program = jax.make_jaxpr(
        jax.grad(lambda p: jnp.sum(hs_weights * lstm_jax.unroll(cell, p, xs, state0)[1]))
    )(params)
    assert [eqn.primitive for eqn in program.jaxpr.eqns].count(linear_map_p) == 1
