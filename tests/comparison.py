"""What the tests compare by, and the cells and random problems that they compare on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax

CELLS = {
    "lstm": lstm_jax.lstm,
    "gru": lstm_jax.gru,
    "rnn_tanh": lambda d, h: lstm_jax.rnn(d, h, activation="tanh"),
    "rnn_relu": lambda d, h: lstm_jax.rnn(d, h, activation="relu"),
    "rnn_identity": lambda d, h: lstm_jax.rnn(d, h, activation="identity"),
}


def slow(*values, **named):
    """A case for the full run alone: the quick part has another one like it."""
    return pytest.param(*values, marks=pytest.mark.slow, **named)


class Problem(NamedTuple):
    """A cell with everything random: parameters, inputs, start, and the loss's weights."""

    cell: Any
    params: Any
    xs: Any
    state0: Any
    hs_weights: Any
    state_weights: Any

    @property
    def inputs(self):
        return lstm_jax.Gradients(self.params, self.xs, self.state0)


def relative_error(value, reference):
    """max|a − b| / max|b| of each leaf: ``{path: error}``; 0 where both vanish."""
    assert jax.tree.structure(value) == jax.tree.structure(reference)
    errors = {}
    leaves = jax.tree_util.tree_flatten_with_path(reference)[0]
    for a, (path, b) in zip(jax.tree.leaves(value), leaves, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, (path, a.shape, b.shape)
        assert a.dtype == b.dtype, (path, a.dtype, b.dtype)
        a, b = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.max(np.abs(a - b), initial=0.0)
        scale = np.max(np.abs(b), initial=0.0)
        name = jax.tree_util.keystr(path)
        errors[name] = 0.0 if difference == 0 else float(difference / scale if scale else np.inf)
    return errors


def assert_close(value, reference, tolerance):
    """Hold every leaf's `relative_error` to the tolerance; a NaN is beyond it."""
    errors = relative_error(value, reference)
    beyond = {name: error for name, error in errors.items() if not error <= tolerance}
    assert not beyond, f"relative errors beyond {tolerance:.0e}: {beyond}"


def random_like(rng, tree, dtype=float, scale=1.0):
    """Normal numbers in the shapes of a pytree."""
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), dtype), tree
    )


def random_problem(
    name, time=4, batch=None, *, input_size=3, hidden_size=5, dtype=float, seed=0, scale=0.3
):
    """A `Problem` in asymmetric random numbers; ``scale`` keeps long products of w_h in range."""
    cell = CELLS[name](input_size, hidden_size)
    rng = np.random.default_rng([seed, time, batch or 0])
    batch_shape = () if batch is None else (batch,)
    state = jax.eval_shape(lambda: cell.initial_state(batch))
    params = random_like(rng, jax.eval_shape(cell.init, jax.random.key(0)), dtype, scale)
    if name == "rnn_relu":  # most units alive, so that no gradient is zero
        params = params._replace(b=abs(params.b) + 1)
    return Problem(
        cell=cell,
        params=params,
        xs=random_like(rng, jax.ShapeDtypeStruct((time, *batch_shape, input_size), float), dtype),
        state0=random_like(rng, state, dtype),
        hs_weights=random_like(
            rng, jax.ShapeDtypeStruct((time, *batch_shape, cell.output_size), float), dtype
        ),
        state_weights=random_like(rng, state, dtype),
    )


def weigh(outputs, hs_weights, state_weights):
    """A loss of outputs and final state that treats no entry like another: Σ w sin h_t + Σ v s_T."""
    state, hs = outputs
    final = jax.tree.map(lambda v, s: jnp.sum(v * s), state_weights, state)
    return jnp.sum(hs_weights * jnp.sin(hs)) + sum(jax.tree.leaves(final))


def grouped(**flat):
    """The arguments of `unroll` from one flat table of options; ``gradient="cudnn"`` names the kernel.

    ``"bptt"`` asks for the loop, so that a comparison with the kernel compares two things.
    """
    arguments = {}
    for name, group in (
        ("sequences", lstm_jax.Sequences),
        ("noise", lstm_jax.Noise),
        ("backend", lstm_jax.Loop),
    ):
        given = {key: flat.pop(key) for key in group._fields if key in flat}
        if given:
            arguments[name] = group(**given)
    gradient = flat.pop("gradient", "auto")
    if gradient == "cudnn":
        arguments["backend"] = "cudnn"
    else:
        arguments["gradient"] = gradient
        if gradient == "bptt":
            arguments.setdefault("backend", "loop")
    return arguments | flat


def grouped_for_stack(key=None, **flat):
    """The arguments of `unroll_stack`, likewise; its key is an argument of its own."""
    return grouped(**flat) | {"key": key}


def loss(problem, inputs, gradient, **options):
    """`weigh` of the unrolled cell."""
    params, xs, state0 = inputs
    options = grouped(gradient=gradient, **options)
    outputs = lstm_jax.unroll(problem.cell, params, xs, state0, **options)
    return weigh(outputs, problem.hs_weights, problem.state_weights)


def other_modes(problem, gradient, **options):
    """Of the loss by the parameters: its Hessian, its gradient in forward mode, and that of two at once."""

    def of_params(params):
        return loss(problem, problem.inputs._replace(params=params), gradient, **options)

    return jax.jit(
        lambda params: (
            jax.hessian(of_params)(params),
            jax.jacfwd(of_params)(params),
            jax.vmap(jax.grad(of_params))(jax.tree.map(lambda p: jnp.stack([p, -p]), params)),
        )
    )(problem.params)
