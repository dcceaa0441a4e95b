"""The microscope on stacks: the whole state's Jacobian against `jacfwd`, and each layer by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_like
from slow_cases import slow_but

import gradient_flow
import lstm_jax
from gradient_flow.step_jacobians.stack_jacobian import stack_blocks
from gradient_flow.step_jacobians.state_layout import layout_of
from lstm_jax import bidirectional, gru, lstm, rnn, stack

T = 12
RICH = lstm(4, 5, peepholes=True, layer_norm=True, projection_size=4)
STACKS = {
    "sizes": stack(lstm(3, 5), gru(5, 2), rnn(2, 4)),
    "residual": stack(lstm(3, 4), lstm(4, 4), rnn(4, 4), residual=True, output_size=2),
    "variants": stack(gru(3, 4, reset_after=False), RICH, lstm(4, 3, coupled_gates=True)),
    "zoneout": stack(lstm(3, 4), lstm(4, 4), zoneout=lstm_jax.LSTMState(0.1, 0.4), residual=True),
    "learned": stack(gru(3, 4), lstm(4, 2), learned_state=True),
}


def problem_of(net, batch=None, dtype=float, scale=0.6):
    rng = np.random.default_rng(2)
    params = random_like(rng, jax.eval_shape(net.init, jax.random.key(0)), dtype, scale)
    shape = (T, net.input_size) if batch is None else (T, batch, net.input_size)
    xs = random_like(rng, jax.ShapeDtypeStruct(shape, float), dtype)
    return params, random_like(rng, jax.eval_shape(lambda: net.initial_state(batch)), dtype), xs


def dense(net, params, states, x):
    jacobian = jax.jacfwd(lambda s: net.step(params, s, x)[0])(states)
    number = len(jax.tree.leaves(states))
    leaves = jax.tree.leaves(jacobian)
    return [leaves[n * number : (n + 1) * number] for n in range(number)]


@pytest.mark.parametrize("name", slow_but(STACKS, "residual"))
def test_a_stacks_step_jacobian_is_that_of_jacfwd(x64, name):
    net = STACKS[name]
    params, states, xs = problem_of(net)
    sizes = layout_of(states).sizes
    found = jax.jit(lambda: stack_blocks(net, sizes, params, states, xs[0]))()
    for line, expected in zip(found, dense(net, params, states, xs[0]), strict=True):
        for block, reference in zip(line, expected, strict=True):
            full = jnp.diag(block) if block.ndim == 1 else block
            np.testing.assert_allclose(full, reference, rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sizes", "zoneout"])
def test_a_stacks_norms_are_those_of_its_step(x64, name):
    net = STACKS[name]
    params, states, xs = problem_of(net)
    norms = ["spectral", "frobenius"] if name == "zoneout" else ["frobenius"]
    # Of three layers of three sizes, some of the 25 blocks: each shape is compiled for itself.
    some = ["0.h,0.h", "0.c,0.h", "1.h,0.h", "1.h,0.c", "2.h,0.c", "2.h,1.h", "0.h,1.h"]
    options = dict(norms=norms, blocks=some if name == "sizes" else None)
    ours = gradient_flow.jacobian_norms(net, params, states, xs, **options)
    plain = gradient_flow.jacobian_norms(net.step, params, states, xs, **options)
    assert {"0.h,0.h", "1.h,0.h"} <= set(ours.frobenius) == set(plain.frobenius)
    for norm in norms:
        for block, values in getattr(ours, norm).items():
            np.testing.assert_allclose(values, getattr(plain, norm)[block], rtol=0, atol=1e-9)
    # What is above does not move what is below.
    assert np.all(ours.frobenius["0.h,1.h"] == -np.inf)


@pytest.mark.slow
def test_a_batch_and_a_learned_start():
    net = STACKS["learned"]
    params, _, xs = problem_of(net, batch=2, dtype=jnp.float32)
    flow = gradient_flow.jacobian_norms(net, params, None, xs, blocks=["1.c,0.h"])
    one = gradient_flow.jacobian_norms(net, params, None, xs[:, 1], blocks=["1.c,0.h"])
    assert flow.spectral["1.c,0.h"].shape == (2, T + 1)
    np.testing.assert_allclose(
        flow.spectral["1.c,0.h"][1, 1:], one.spectral["1.c,0.h"][1:], atol=1e-4
    )


@pytest.mark.slow
def test_exact_where_units_saturate():
    net = stack(lstm(2, 3), rnn(3, 3))
    params, states, xs = problem_of(net, dtype=jnp.float32)
    xs = 40 * xs
    ours = gradient_flow.jacobian_norms(net, params, states, xs, norms=["frobenius"])
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, states, xs))
        exact = gradient_flow.jacobian_norms(net, *wide, norms=["frobenius"])
    for block, values in ours.frobenius.items():
        np.testing.assert_allclose(values, exact.frobenius[block], rtol=2e-4, atol=2e-3)


@pytest.mark.slow
def test_each_layer_and_direction_by_itself(x64):
    net = stack(bidirectional(gru(3, 2), lstm(3, 4)), rnn(6, 6), lstm(6, 6), residual=True)
    params, states, xs = problem_of(net)
    first, second, third = gradient_flow.layer_norms(net, params, states, xs, norms=["frobenius"])
    inner = stack(net.layers[0])
    _, ys = lstm_jax.unroll_stack(inner, lstm_jax.StackParams(params.layers[:1]), xs, states[:1])
    expected = [
        (first.forward, net.layers[0].forward, params.layers[0].forward, states[0].forward, xs),
        (
            first.backward,
            net.layers[0].backward,
            params.layers[0].backward,
            states[0].backward,
            xs[::-1],
        ),
        (second, net.layers[1], params.layers[1], states[1], ys),
    ]
    _, zs = lstm_jax.unroll(net.layers[1], params.layers[1], ys, states[1])
    expected.append((third, net.layers[2], params.layers[2], states[2], zs + ys))
    for found, *arguments in expected:
        reference = gradient_flow.jacobian_norms(*arguments, norms=["frobenius"])
        for block, values in reference.frobenius.items():
            np.testing.assert_allclose(found.frobenius[block], values, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_a_layer_alone_is_the_diagonal_of_the_whole(x64):
    net = STACKS["sizes"]
    params, states, xs = problem_of(net)
    layers = gradient_flow.layer_norms(net, params, states, xs, blocks=["hh"], norms=["frobenius"])
    whole = gradient_flow.jacobian_norms(net, params, states, xs, norms=["frobenius"])
    for number, layer in enumerate(layers):
        np.testing.assert_allclose(
            layer.frobenius["hh"], whole.frobenius[f"{number}.h,{number}.h"], rtol=0, atol=1e-9
        )


def test_a_layer_that_runs_backward_alone(x64):
    net = stack(lstm_jax.backward(gru(3, 2)))
    params, states, xs = problem_of(net)
    (found,) = gradient_flow.layer_norms(net, params, states, xs, norms=["frobenius"])
    expected = gradient_flow.jacobian_norms(
        net.layers[0].cell, params.layers[0], states[0], xs[::-1], norms=["frobenius"]
    )
    np.testing.assert_array_equal(found.frobenius["hh"], expected.frobenius["hh"])


def test_what_does_not_fit_is_refused(without_type_checker):
    net = stack(bidirectional(gru(3, 2)))
    params, states, xs = problem_of(net)
    with pytest.raises(TypeError, match="got a bidirectional layer 1"):
        gradient_flow.jacobian_norms(net, params, states, xs)
    with pytest.raises(ValueError, match="expected a stack without zoneout"):
        gradient_flow.layer_norms(STACKS["zoneout"], *problem_of(STACKS["zoneout"]))
    with pytest.raises(lstm_jax.ShapeError, match=r"expected xs \[T, 3\]"):
        gradient_flow.jacobian_norms(STACKS["sizes"], *problem_of(STACKS["sizes"])[:2], xs[:, :2])
