"""The gradient check: what it reports, what it refuses, and that no wrong derivation gets past it."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import loss, random_problem, slow
from mutants import TARGETS, rnn, rule_with, wrong_versions

import lstm_jax
from lstm_jax.gradients.custom_derivative import unroll_by_hand
from lstm_jax.gradients.gradient_check import central_differences, in_float64, relative_error
from lstm_jax.time_loop.scan import ScanSettings
from lstm_jax.time_loop.step_masks import NO_MASKS


def checked(problem, **options):
    """`check_gradients` of the usual loss with respect to params, xs and s_0."""

    def of_arrays(inputs, hs_weights, state_weights, gradient="autodiff"):
        weighted = problem._replace(hs_weights=hs_weights, state_weights=state_weights)
        return loss(weighted, inputs, gradient)

    arrays = (problem.inputs, problem.hs_weights, problem.state_weights)
    return lstm_jax.check_gradients(of_arrays, *arrays, **options)


class TestReport:
    @pytest.mark.parametrize(
        "name", ["lstm", "gru", "rnn_tanh", slow("rnn_relu"), slow("rnn_identity")]
    )
    def test_every_cell_passes_in_a_float32_session(self, name):
        problem = random_problem(name, 4, 2, dtype=jnp.float32)
        report = checked(problem, max_coordinates=3)
        assert report.ok and not report.failures, str(report)
        assert max(leaf.by_hand_autodiff for leaf in report.leaves) < 1e-13
        assert max(leaf.by_hand_differences for leaf in report.leaves) < 1e-8
        assert not jax.config.jax_enable_x64

    def test_leaves_are_data(self):
        report = checked(random_problem("lstm", 3), max_coordinates=5)
        shapes = {leaf.name: leaf.shape for leaf in report.leaves}
        assert shapes == {
            "params.w_x": (3, 20),
            "params.w_h": (5, 20),
            "params.b": (20,),
            "xs": (3, 3),
            "state0.h": (5,),
            "state0.c": (5,),
        }
        assert all(leaf.coordinates == 5 and leaf.scale > 0 for leaf in report.leaves)

    def test_prints_a_table(self):
        report = checked(random_problem("lstm", 3), max_coordinates=1)
        head, *rows, verdict = str(report).splitlines()
        assert head.split() == [
            "parameter",
            "shape",
            *"max |grad| hand-auto hand-diff auto-diff".split(),
        ]
        assert [row.split()[0] for row in rows] == [leaf.name for leaf in report.leaves]
        assert "[5, 20]" in rows[1] and len({len(row) for row in rows}) == 1
        assert verdict.startswith("gradients agree (by hand against autodiff within 1e-12")

    def test_one_tensor_is_called_params(self):
        report = lstm_jax.check_gradients(
            lambda x: jnp.sum(x**3), jnp.arange(3.0), by_hand=lambda x: 3 * x**2
        )
        assert report.ok and [leaf.name for leaf in report.leaves] == ["params"]

    def test_a_gradient_of_zero_has_no_error(self):
        report = lstm_jax.check_gradients(
            lambda x: jnp.sum(x["a"]),
            {"a": jnp.ones(2), "b": jnp.ones(2)},
            by_hand=lambda x: {"a": jnp.ones(2), "b": jnp.zeros(2)},
        )
        assert report.ok and report.leaves[1].by_hand_autodiff == 0.0

    def test_coordinates_are_drawn_by_seed(self):
        seen = []

        def record(x):
            jax.debug.callback(lambda value: seen.append(np.array(value)), x)
            return jnp.sum(x**2)

        def differenced(seed):
            seen.clear()
            lstm_jax.check_gradients(
                record, jnp.zeros(50), by_hand=lambda x: 2 * x, max_coordinates=3, seed=seed
            )
            jax.effects_barrier()
            return {int(i) for value in seen for i in np.flatnonzero(value)}

        assert differenced(0) == differenced(0) != differenced(1)
        assert len(differenced(0)) == 3


class TestWrongGradients:
    def test_a_gradient_of_ones_own(self):
        def quadratic(params, a):
            return params["x"] @ a @ params["x"] / 2

        a = jnp.asarray([[2.0, 1.0], [0.0, 3.0]])
        params = {"x": jnp.asarray([1.0, -2.0])}
        right = lstm_jax.check_gradients(
            quadratic, params, a, by_hand=lambda p, a: {"x": (a + a.T) @ p["x"] / 2}
        )
        wrong = lstm_jax.check_gradients(
            quadratic, params, a, by_hand=lambda p, a: {"x": a @ p["x"]}
        )
        assert right.ok and not wrong.ok
        (leaf,) = wrong.failures
        assert leaf.name == "x" and leaf.by_hand_autodiff > 0.1 and leaf.by_hand_differences > 0.1
        assert leaf.autodiff_differences < 1e-8
        assert "<- differs" in str(wrong) and "gradients DIFFER in x" in str(wrong)

    def test_autodiff_is_put_to_the_test_too(self):
        """A program whose own derivative is wrong fails although by hand agrees with it."""

        @jax.custom_jvp
        def square(x):
            return x**2

        square.defjvp(lambda primals, dots: (primals[0] ** 2, 3 * primals[0] * dots[0]))
        report = lstm_jax.check_gradients(
            lambda x: jnp.sum(square(x)), jnp.arange(1.0, 4.0), by_hand=lambda x: 3 * x
        )
        assert not report.ok and report.leaves[0].by_hand_autodiff == 0.0

    def test_a_nan_by_hand_is_not_within_any_tolerance(self):
        report = lstm_jax.check_gradients(
            lambda x: jnp.sum(x**2), jnp.ones(2), by_hand=lambda x: 2 * x * jnp.nan
        )
        assert not report.ok

    def test_a_difference_of_rounding_size_is_seen(self):
        report = lstm_jax.check_gradients(
            lambda x: jnp.sum(x**2), jnp.ones(2), by_hand=lambda x: 2 * x * (1 + 1e-11)
        )
        assert not report.ok
        assert 0.9e-11 < report.leaves[0].by_hand_autodiff < 1.1e-11


class TestRefusals:
    @pytest.mark.parametrize(("bad", "what"), [(np.nan, "NaN"), (np.inf, "an infinity")])
    def test_non_finite_values(self, bad, what):
        problem = random_problem("lstm", 3)
        broken = problem._replace(xs=problem.xs.at[1, 2].set(bad))
        message = rf"expected finite params\.xs, got {what} at index \[1, 2\]"
        with pytest.raises(lstm_jax.NonFiniteError, match=message):
            checked(broken)
        with pytest.raises(lstm_jax.NonFiniteError, match=rf"expected finite args\.0, got {what}"):
            checked(problem._replace(hs_weights=problem.hs_weights.at[0].set(bad)))

    def test_structure_of_another_gradient(self):
        with pytest.raises(TypeError, match="expected the gradient by hand as .*'a'.*, got .*'b'"):
            lstm_jax.check_gradients(
                lambda p: jnp.sum(p["a"]), {"a": jnp.ones(2)}, by_hand=lambda p: {"b": p["a"]}
            )

    def test_shape_of_another_gradient(self):
        with pytest.raises(ValueError, match=r"gradient by hand of a as \[2\], got \[3\]"):
            lstm_jax.check_gradients(
                lambda p: jnp.sum(p["a"]), {"a": jnp.ones(2)}, by_hand=lambda p: {"a": jnp.ones(3)}
            )

    def test_loss_that_is_no_scalar(self):
        with pytest.raises(ValueError, match=r"expected a scalar loss, got .*\(2,\)"):
            lstm_jax.check_gradients(lambda p: p, jnp.ones(2), by_hand=jnp.ones_like)

    @pytest.mark.parametrize("count", [0, -1, 1.5, True])
    def test_number_of_coordinates(self, count, without_type_checker):
        with pytest.raises(ValueError, match="expected max_coordinates to be a positive integer"):
            lstm_jax.check_gradients(
                lambda p: jnp.sum(p), jnp.ones(2), by_hand=jnp.ones_like, max_coordinates=count
            )


def test_central_differences_are_of_fourth_order():
    point = np.asarray([0.3, 2.0])

    def error(step_size):
        slopes = central_differences(
            lambda x: float(np.exp(x[0]) * np.sin(x[1])), point, np.asarray([0, 1]), step_size
        )
        exact = np.exp(0.3) * np.asarray([np.sin(2.0), np.cos(2.0)])
        return np.max(np.abs(slopes - exact))

    assert error(1e-3) < 1e-11
    np.testing.assert_allclose(error(0.2) / error(0.1), 16, rtol=0.1)


# A wrong derivation is caught. The sizes make square whatever can be, so that a forgotten transpose
# is wrong in its numbers rather than in its shape: T·B = H = D.
PROBLEMS = {
    name: random_problem(name, 2, 2, input_size=4, hidden_size=4, scale=0.6)
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu", "rnn_identity")
}
FORWARD_MODE = ("tangent_step", "tangent_inputs")

# Mutants that are right: only the rank of the array is read, and the two have the same.
SAME_NUMBERS = {
    "gru parameter_gradient +4,29: d_pre.a -> d_pre.z",
    "rnn_tanh parameter_gradient +7,40: d_z -> xs",
}


def weighed(inputs, *weights, problem):
    hs_weights, state_weights = weights
    weighted = problem._replace(hs_weights=hs_weights, state_weights=state_weights)
    return loss(weighted, inputs, "autodiff")


LOSSES = {name: partial(weighed, problem=problem) for name, problem in PROBLEMS.items()}


@cache
def autodiff(name):
    """The arguments of a loss in float64, and its gradient: one for all mutants of a cell."""
    problem = PROBLEMS[name]
    with jax.enable_x64(True):
        arguments = in_float64((problem.inputs, problem.hs_weights, problem.state_weights))
        return arguments, jax.device_get(jax.jit(jax.grad(LOSSES[name]))(*arguments))


def through(name, rule):
    """The loss of a cell whose hand-derived rule is ``rule``."""
    cell = PROBLEMS[name].cell._replace(rule=rule)

    def through_rule(inputs, hs_weights, state_weights):
        state, hs = unroll_by_hand(cell, ScanSettings(), len(inputs[1]), *inputs, NO_MASKS)
        final = jax.tree.map(lambda v, s: jnp.sum(v * s), state_weights, state)
        return jnp.sum(hs_weights * jnp.sin(hs)) + sum(final)

    return through_rule


def agrees(name, rule, way=jax.grad):
    """Whether a rule's gradient is that of autodiff within what `check_gradients` allows by default."""
    arguments, expected = autodiff(name)
    # Each mutant runs once: compiling it would cost more.
    with jax.enable_x64(True), jax.disable_jit():
        try:
            found = way(through(name, rule))(*arguments)
        except (TypeError, ValueError):
            return False
    if jax.tree.map(jnp.shape, found) != jax.tree.map(jnp.shape, expected):
        return False
    errors = jax.tree.map(lambda a, b: relative_error(np.asarray(a), b), found, expected)
    return all(error <= 1e-12 for error in jax.tree.leaves(errors))


@pytest.mark.parametrize("way", [jax.grad, jax.jacfwd], ids=["grad", "jacfwd"])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh"])
def test_the_rebuilt_rule_is_right(name, way, without_type_checker):
    problem = PROBLEMS[name]
    rule = rule_with(next(target for target in TARGETS if target.cell == name))
    assert agrees(name, rule, way)
    report = lstm_jax.check_gradients(
        LOSSES[name],
        problem.inputs,
        problem.hs_weights,
        problem.state_weights,
        by_hand=jax.jit(way(through(name, rule))),
        max_coordinates=1,
    )
    assert report.ok, str(report)


def mutants():
    """Every wrong version of every function; the first of each is in the quick part."""
    for target in TARGETS:
        versions = [v for v in wrong_versions(target) if v[0] not in SAME_NUMBERS]
        for number, (name, tree) in enumerate(versions):
            marks = [pytest.mark.slow] * (number > 0)
            yield pytest.param(target, tree, name, id=name, marks=marks)


@pytest.mark.parametrize(("target", "tree", "name"), list(mutants()))
def test_a_wrong_term_is_caught(target, tree, name, without_type_checker):
    way = jax.jacfwd if target.function in FORWARD_MODE else jax.grad
    assert not agrees(target.cell, rule_with(target, tree), way), f"{name} survives"


WRONG_SLOPES = {
    "tanh: 1": ("tanh", jnp.ones_like),
    "tanh: h**2": ("tanh", lambda h: h**2),
    "tanh: 1 - h": ("tanh", lambda h: 1 - h),
    "tanh: 1 + h**2": ("tanh", lambda h: 1 + h**2),
    "tanh: h * (1 - h)": ("tanh", lambda h: h * (1 - h)),
    "tanh: 1 - tanh(h)**2": ("tanh", lambda h: 1 - jnp.tanh(h) ** 2),
    "relu: 1": ("relu", jnp.ones_like),
    "relu: h": ("relu", lambda h: h),
    "relu: h < 0": ("relu", lambda h: (h < 0).astype(h.dtype)),
    "relu: h >= 0": ("relu", lambda h: (h >= 0).astype(h.dtype)),
    "identity: 0": ("identity", jnp.zeros_like),
    "identity: h": ("identity", lambda h: h),
    "identity: -1": ("identity", lambda h: -jnp.ones_like(h)),
}


@pytest.mark.parametrize(("activation", "slope"), WRONG_SLOPES.values(), ids=WRONG_SLOPES)
def test_a_wrong_slope_is_caught(activation, slope):
    name = f"rnn_{activation}"
    rule = PROBLEMS[name].cell.rule
    phi = rnn.ACTIVATIONS[activation]
    assert agrees(name, rule)
    wrong = rule._replace(
        local_derivatives=partial(rnn.local_derivatives, phi._replace(slope=slope))
    )
    assert not agrees(name, wrong)
