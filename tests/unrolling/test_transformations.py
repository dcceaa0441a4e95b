"""What JAX does with a function besides calling it: leaks of tracers, and exports with symbolic sizes."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_cases import slow_but

import gradient_flow
import lstm_jax
from lstm_jax import Loop, Noise, Sequences

CELL = lstm_jax.lstm(2, 3)
PARAMS = CELL.init(jax.random.key(0))
NET = lstm_jax.stack(lstm_jax.bidirectional(CELL))
NET_PARAMS = NET.init(jax.random.key(0))
GRU = lstm_jax.gru(2, 3)
XS = jnp.asarray(np.random.default_rng(0).normal(size=(7, 5, 2)), jnp.float32)
ALL = {"lengths": Sequences(lengths=jnp.asarray([1, 2, 7, 4, 5]))}


def loss(params, xs=XS, **options):
    return lstm_jax.unroll(CELL, params, xs, **options)[1].sum()


def of_bias(b, **options):
    return loss(PARAMS._replace(b=b), **options)


TRANSFORMED = {
    "jit": lambda: jax.jit(loss)(PARAMS),
    "gradient": lambda: jax.jit(jax.grad(loss))(PARAMS),
    "gradient, eager": lambda: jax.grad(loss)(PARAMS),
    "tangent": lambda: jax.jvp(loss, (PARAMS,), (PARAMS,)),
    "linearize": lambda: jax.linearize(loss, PARAMS)[1](PARAMS),
    "mapped gradient": lambda: jax.vmap(jax.grad(lambda x: loss(PARAMS, x)))(
        XS[:, None].swapaxes(0, 2)
    ),
    "gradient of a map": lambda: jax.grad(
        lambda p: jax.vmap(lambda x: loss(p, x), in_axes=1)(XS).sum()
    )(PARAMS),
    "hessian": lambda: jax.jit(jax.hessian(of_bias))(PARAMS.b),
    "jacrev": lambda: jax.jacrev(of_bias)(PARAMS.b),
    "checkpoint": lambda: jax.grad(jax.checkpoint(loss))(PARAMS),
    "segments": lambda: jax.jit(jax.grad(lambda p: loss(p, backend=Loop(segments=2))))(PARAMS),
    "lengths": lambda: jax.jit(jax.grad(lambda p: loss(p, sequences=ALL["lengths"])))(PARAMS),
    "noise": lambda: jax.jit(
        jax.grad(lambda p: loss(p, noise=Noise(0.1, 0.2, key=jax.random.key(0))))
    )(PARAMS),
    "autodiff": lambda: jax.jit(jax.grad(lambda p: loss(p, gradient="autodiff")))(PARAMS),
    "inside of a scan": lambda: jax.lax.scan(
        lambda carry, _: (carry, jax.grad(loss)(PARAMS).b), 0.0, None, length=2
    ),
    "stack": lambda: jax.jit(jax.grad(lambda p: lstm_jax.unroll_stack(NET, p, XS)[1].sum()))(
        NET_PARAMS
    ),
    "bptt": lambda: lstm_jax.bptt(CELL, PARAMS, XS, d_hs=jnp.ones((7, 5, 3))),
    "rtrl": lambda: lstm_jax.rtrl(CELL, PARAMS, XS[:, 0], d_hs=jnp.ones((7, 3))),
    "jacobian_norms": lambda: gradient_flow.jacobian_norms(CELL, PARAMS, None, XS),
    "lyapunov_spectrum": lambda: gradient_flow.lyapunov_spectrum(CELL, PARAMS, None, XS, k=1),
    "credit": lambda: gradient_flow.credit(CELL, PARAMS, None, XS, lambda s: s.h.sum()),
    "parallel_states": lambda: gradient_flow.parallel_states(CELL, PARAMS, None, XS[:, 0]),
}


@pytest.fixture
def old_objects_are_no_garbage():
    """Checking for leaks collects garbage again and again: among what the test makes alone."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", slow_but(list(TRANSFORMED), "gradient"))
def test_no_tracer_leaks(name, old_objects_are_no_garbage):
    with jax.checking_leaks():
        jax.block_until_ready(TRANSFORMED[name]())


def unrolled(params, xs, *lengths, cell=CELL, **options):
    if lengths:
        options["sequences"] = Sequences(lengths=lengths[0])
    return lstm_jax.unroll(cell, params, xs, **options)


def gradient_of(params, xs, **options):
    return jax.grad(lambda p: loss(p, xs, **options))(params)


EXPORTED = {
    "lstm": (unrolled, PARAMS),
    "gru": (lambda p, xs: unrolled(p, xs, cell=GRU), GRU.init(jax.random.key(0))),
    "lengths": (unrolled, PARAMS, jnp.asarray([1, 2, 7, 4, 5])),
    "reverse": (lambda p, xs: unrolled(p, xs, sequences=Sequences(reverse=True)), PARAMS),
    "truncate": (lambda p, xs: unrolled(p, xs, sequences=Sequences(truncate=3)), PARAMS),
    "zoneout": (lambda p, xs: unrolled(p, xs, noise=Noise(zoneout=0.1)), PARAMS),
    "stack": (lambda p, xs: lstm_jax.unroll_stack(NET, p, xs), NET_PARAMS),
    "gradient": (gradient_of, PARAMS),
    "gradient, a step per iteration": (
        lambda p, xs: gradient_of(p, xs, backend=Loop(unroll=1)),
        PARAMS,
    ),
    "gradient by autodiff": (lambda p, xs: gradient_of(p, xs, gradient="autodiff"), PARAMS),
    "bptt": (
        lambda p, xs: lstm_jax.bptt(CELL, p, xs, d_hs=jnp.ones((*xs.shape[:2], 3))),
        PARAMS,
    ),
}


@pytest.mark.parametrize("name", slow_but(list(EXPORTED), "gradient"))
def test_an_export_with_symbolic_time_and_batch(name, without_type_checker):
    function, params, *lengths = EXPORTED[name]
    time, batch = jax.export.symbolic_shape("time, batch")
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    shapes = [jax.ShapeDtypeStruct((time, batch, 2), jnp.float32)]
    shapes += [jax.ShapeDtypeStruct((batch,), jnp.int32) for _ in lengths]
    exported = jax.export.export(jax.jit(function))(like, *shapes)
    for steps, samples in ((7, 5), (40, 1)):
        xs = jnp.resize(XS, (steps, samples, 2))
        others = [jnp.minimum(jnp.resize(one, (samples,)), steps) for one in lengths]
        found = exported.call(params, xs, *others)
        expected = jax.jit(function)(params, xs, *others)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_segments_need_a_length_that_is_known(without_type_checker):
    (time,) = jax.export.symbolic_shape("time")
    xs = jax.ShapeDtypeStruct((time, 2), jnp.float32)
    of = jax.jit(lambda xs: loss(PARAMS, xs, backend=Loop(segments=2)))
    with pytest.raises(ValueError, match="expected segments=None for a length that is symbolic"):
        jax.export.export(of)(xs)
