"""What does not fit is refused where it enters, in one sentence of what was expected and what came."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import CELLS, grouped, random_problem

import lstm_jax
from lstm_jax import DtypeError, NonFiniteError, ShapeError
from lstm_jax.validation import require_finite, require_type

# As a user sees it, who has no run-time type checker.
pytestmark = pytest.mark.usefixtures("without_type_checker")


def refuses(error, *pieces):
    """Expect exactly this exception, with these pieces in order in one sentence."""
    pattern = ".*".join(re.escape(piece) for piece in pieces)
    # Under jit, JAX adds a rule and a note of its own below.
    return pytest.raises(error, match=rf"\A[^\n]*{pattern}[^\n]*\.(\Z|\n---)")


def by_unroll(gradient):
    def run(cell, params, xs, state0=None):
        return lstm_jax.unroll(cell, params, xs, state0, **grouped(gradient=gradient))

    return run


RUNS = {
    "unroll": by_unroll("auto"),
    "autodiff": by_unroll("autodiff"),
    "jit": lambda cell, *args: jax.jit(lambda *a: lstm_jax.unroll(cell, *a))(*args),
    "bptt": lstm_jax.bptt,
}


@pytest.fixture(params=RUNS)
def run(request):
    return RUNS[request.param]


@pytest.fixture
def problem():
    return random_problem("lstm", 7, 2)


class TestSequence:
    @pytest.mark.parametrize(
        "shape", [(7, 2, 4), (7, 4), (3,), (), (2, 7, 2, 3), (7, 3, 2)], ids=str
    )
    def test_rank_and_size(self, run, problem, shape):
        shown = "[" + ", ".join(map(str, shape)) + "]"
        with refuses(ShapeError, "Shape mismatch: expected xs [T, 3] or [T, B, 3], got", shown):
            run(problem.cell, problem.params, jnp.zeros(shape))

    def test_more_batch_axes_are_pointed_to_vmap(self, run, problem):
        with refuses(
            ShapeError, "got [7, 2, 2, 3]. Put jax.vmap around unroll for more batch axes"
        ):
            run(problem.cell, problem.params, jnp.zeros((7, 2, 2, 3)))

    @pytest.mark.parametrize("shape", [(0, 3), (0, 2, 3)], ids=str)
    def test_no_time_step(self, run, problem, shape):
        with refuses(ShapeError, "expected xs of at least one time step, got [0, "):
            run(problem.cell, problem.params, jnp.zeros(shape))

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, jnp.float16, bool])
    def test_dtype(self, run, problem, dtype):
        name = jnp.dtype(dtype).name
        with refuses(DtypeError, "expected xs float32 (the parameters' dtype), got", name):
            run(problem.cell, problem.params, problem.xs.astype(dtype))

    def test_float64(self, run, problem):
        with jax.enable_x64(True), refuses(DtypeError, "expected xs float32", "got float64"):
            run(problem.cell, problem.params, problem.xs.astype(jnp.float64))


class TestState:
    def test_batch_missing(self, run, problem):
        state0 = problem.cell.initial_state()
        with refuses(ShapeError, "expected state0.h [2, 5] (xs [7, 2, 3], D=3, H=5), got [5]"):
            run(problem.cell, problem.params, problem.xs, state0)

    def test_batch_not_wanted(self, run, problem):
        with refuses(ShapeError, "expected state0.h [5] (xs [7, 3]", "got [2, 5]"):
            run(problem.cell, problem.params, problem.xs[:, 0], problem.state0)

    def test_size(self, run, problem):
        state0 = problem.state0._replace(c=jnp.zeros((2, 6)))
        with refuses(ShapeError, "expected state0.c [2, 5]", "got [2, 6]"):
            run(problem.cell, problem.params, problem.xs, state0)

    def test_dtype(self, run, problem):
        state0 = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), problem.state0)
        with refuses(DtypeError, "expected state0.h float32", "got bfloat16"):
            run(problem.cell, problem.params, problem.xs, state0)

    def test_structure(self, run, problem):
        for state0 in (
            tuple(problem.state0),
            problem.state0.h,
            lstm_jax.GRUState(problem.state0.h),
        ):
            with refuses(TypeError, "expected state0 as", "LSTMState", "got"):
                run(problem.cell, problem.params, problem.xs, state0)


class TestParams:
    @pytest.mark.parametrize("name", CELLS)
    def test_of_another_cell(self, run, name):
        other = "gru" if name == "lstm" else "lstm"
        ours, theirs = random_problem(name, 4), random_problem(other, 4)
        expected, came = type(ours.params).__name__, type(theirs.params).__name__
        with refuses(TypeError, f"expected {name} params as", expected, "got", came):
            run(ours.cell, theirs.params, ours.xs)

    def test_of_another_size(self, run, problem):
        cell = lstm_jax.lstm(3, 6)
        with refuses(ShapeError, "expected params.w_x [3, 24] (D=3, H=6), got [3, 20]"):
            run(cell, problem.params, problem.xs)

    def test_transposed(self, run, problem):
        params = problem.params._replace(w_h=problem.params.w_h.T)
        with refuses(ShapeError, "expected params.w_h [5, 20]", "got [20, 5]"):
            run(problem.cell, params, problem.xs)

    def test_mixed_dtypes(self, run, problem):
        params = problem.params._replace(b=problem.params.b.astype(jnp.bfloat16))
        with refuses(DtypeError, "expected params.b float32", "got bfloat16"):
            run(problem.cell, params, problem.xs)

    def test_integers(self, run, problem):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.int32), problem.params)
        with refuses(DtypeError, "expected floating params, got int32"):
            run(problem.cell, params, problem.xs)


class TestCotangents:
    def test_outputs(self, problem):
        bptt = lstm_jax.bptt
        with refuses(ShapeError, "expected d_hs [7, 2, 5], got [7, 5]"):
            bptt(problem.cell, *problem.inputs, d_hs=jnp.zeros((7, 5)))
        with refuses(DtypeError, "expected d_hs float32", "got int32"):
            bptt(problem.cell, *problem.inputs, d_hs=jnp.zeros((7, 2, 5), int))

    def test_state(self, problem):
        bptt = lstm_jax.bptt
        with refuses(TypeError, "expected d_state as", "LSTMState", "got"):
            bptt(problem.cell, *problem.inputs, d_state=jnp.zeros((2, 5)))
        wrong = problem.state0._replace(c=jnp.zeros(5))
        with refuses(ShapeError, "expected d_state.c [2, 5], got [5]"):
            bptt(problem.cell, *problem.inputs, d_state=wrong)


class TestOptions:
    @pytest.mark.parametrize("gradient", ["hand", "", None, "BPTT"])
    def test_gradient(self, problem, gradient):
        known = "expected one of 'auto', 'bptt', 'autodiff', got"
        with refuses(ValueError, "Unknown gradient:", known, repr(gradient)):
            lstm_jax.unroll(problem.cell, problem.params, problem.xs, **grouped(gradient=gradient))

    @pytest.mark.parametrize("unroll", [0, -1, 2.0, True, None, "2"])
    def test_unroll(self, problem, unroll):
        given = problem.cell, problem.params, problem.xs
        with refuses(ValueError, f'positive integer or "auto", got {unroll!r}'):
            lstm_jax.unroll(*given, backend=lstm_jax.Loop(unroll=unroll))
        with refuses(ValueError, f'positive integer or "auto", got {unroll!r}'):
            lstm_jax.bptt(*given, unroll=unroll)

    @pytest.mark.parametrize("backend", ["gpu", "", None, "LOOP", 3])
    def test_backend(self, problem, backend, without_type_checker):
        known = "expected one of 'auto', 'loop', 'cpu_kernel', 'cudnn', 'lstm_jax.Loop(...)', got"
        with refuses(ValueError, "Unknown backend:", known, repr(backend)):
            lstm_jax.unroll(problem.cell, problem.params, problem.xs, backend=backend)

    def test_autodiff_of_the_kernel(self, problem):
        given = problem.cell, problem.params, problem.xs
        with refuses(ValueError, 'expected gradient="auto" or "bptt" with backend="cudnn"'):
            lstm_jax.unroll(*given, gradient="autodiff", backend="cudnn")

    def test_a_plain_step_has_no_rule(self, problem):
        with refuses(ValueError, 'expected gradient and backend as "auto", got gradient="bptt"'):
            lstm_jax.unroll(problem.cell.step, *problem.inputs, gradient="bptt")

    def test_a_plain_step_needs_a_state(self, problem):
        with refuses(TypeError, "expected a starting state for a plain step, got None"):
            lstm_jax.unroll(problem.cell.step, problem.params, problem.xs)

    @pytest.mark.parametrize(
        "xs",
        [jnp.zeros(()), jnp.zeros((0, 3)), {"a": jnp.zeros((3, 2)), "b": jnp.zeros((4, 2))}],
        ids=["scalar", "T=0", "two lengths"],
    )
    def test_a_plain_steps_inputs_share_their_time(self, xs):
        with refuses(ShapeError, "one leading time axis of at least one step, got leading axes"):
            lstm_jax.unroll(lambda p, s, x: (s, s), None, xs, jnp.zeros(()))


class TestCells:
    @pytest.mark.parametrize("make", [lstm_jax.lstm, lstm_jax.gru, lstm_jax.rnn])
    @pytest.mark.parametrize("size", [0, -3, 2.5, "4", None, True, np.float64(3)], ids=repr)
    def test_sizes(self, make, size):
        with refuses(ValueError, "expected input_size to be a positive integer, got", repr(size)):
            make(size, 4)
        with refuses(ValueError, "expected hidden_size to be a positive integer, got", repr(size)):
            make(4, size)

    @pytest.mark.parametrize("activation", ["sigmoid", "Tanh", None])
    def test_activation(self, activation):
        known = "expected one of 'tanh', 'relu', 'identity', got"
        with refuses(ValueError, "Unknown activation:", known, repr(activation)):
            lstm_jax.rnn(3, 4, activation=activation)

    @pytest.mark.parametrize("name", CELLS)
    @pytest.mark.parametrize(
        ("key", "came"),
        [
            (0, "int 0"),
            (None, "NoneType None"),
            (np.zeros(2), "float64[2]"),
            (np.zeros((3, 2), np.uint32), "uint32[3, 2]"),
        ],
        ids=["int", "None", "floats", "several raw keys"],
    )
    def test_key(self, name, key, came):
        with refuses(TypeError, "expected one key from jax.random.key(seed), got", came):
            CELLS[name](3, 4).init(key)

    def test_several_keys(self):
        with refuses(TypeError, "expected one key from jax.random.key(seed), got key<fry>[3]"):
            lstm_jax.lstm(3, 4).init(jax.random.split(jax.random.key(0), 3))

    def test_both_kinds_of_key_are_welcome(self):
        cell = lstm_jax.lstm(3, 4)
        new, old = cell.init(jax.random.key(5)), cell.init(jax.random.PRNGKey(5))
        np.testing.assert_array_equal(new.w_x, old.w_x)

    @pytest.mark.parametrize("size", [0, -1, 2.5, True])
    def test_batch_size(self, size):
        with refuses(ValueError, "expected batch_size to be a positive integer, got", repr(size)):
            lstm_jax.gru(3, 4).initial_state(size)


class TestFinite:
    def test_names_the_step(self):
        xs = np.ones((9, 2), np.float32)
        xs[4, 1] = np.nan
        with refuses(NonFiniteError, "expected finite xs, got NaN first at step 5 of 9"):
            require_finite("xs", jnp.asarray(xs), time_axis=True)
        with refuses(NonFiniteError, "expected finite xs, got NaN at index [4, 1]"):
            require_finite("xs", jnp.asarray(xs))

    def test_names_the_leaf(self):
        tree = {"good": jnp.ones(2), "bad": jnp.asarray([1.0, jnp.inf])}
        with refuses(NonFiniteError, "expected finite params.bad, got an infinity at index [1]"):
            require_finite("params", tree)

    def test_traced_values_and_integers_pass(self):
        jax.jit(lambda x: require_finite("x", x))(jnp.asarray(jnp.nan))
        require_finite("n", jnp.arange(3))


hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
settings = hypothesis.settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
sizes = st.integers(0, 6)


def name_and_entry():
    return st.sampled_from(sorted(CELLS)), st.sampled_from(sorted(RUNS))


class TestProperties:
    @settings
    @hypothesis.given(*name_and_entry(), st.lists(sizes, max_size=5))
    def test_any_wrong_sequence(self, name, entry, shape):
        hypothesis.assume(len(shape) not in (2, 3) or shape[-1] != 3 or shape[0] == 0)
        problem = random_problem(name, 1)
        with refuses(ShapeError, "expected xs", "got [" + ", ".join(map(str, shape)) + "]"):
            RUNS[entry](problem.cell, problem.params, jnp.zeros(shape))

    @settings
    @hypothesis.given(*name_and_entry(), st.data(), st.lists(sizes, max_size=3))
    def test_any_wrong_state(self, name, entry, data, shape):
        hypothesis.assume(shape != [2, 5])
        problem = random_problem(name, 4, 2)
        field = data.draw(st.sampled_from(problem.state0._fields))
        state0 = problem.state0._replace(**{field: jnp.zeros(shape)})
        with refuses(ShapeError, f"expected state0.{field} [2, 5]", "got ["):
            RUNS[entry](problem.cell, problem.params, problem.xs, state0)

    @settings
    @hypothesis.given(*name_and_entry(), st.data(), st.lists(sizes, max_size=3))
    def test_any_wrong_parameter(self, name, entry, data, shape):
        problem = random_problem(name, 4)
        field = data.draw(st.sampled_from(problem.params._fields))
        hypothesis.assume(tuple(shape) != getattr(problem.params, field).shape)
        params = problem.params._replace(**{field: jnp.zeros(shape)})
        with refuses(ShapeError, f"expected params.{field} [", "got ["):
            RUNS[entry](problem.cell, params, problem.xs)

    @settings
    @hypothesis.given(
        st.sampled_from(sorted(CELLS)),
        st.integers(1, 4),
        st.none() | st.integers(1, 3),
        st.integers(1, 4),
        st.integers(1, 4),
    )
    def test_any_right_one_passes(self, name, time, batch, input_size, hidden_size):
        problem = random_problem(name, time, batch, input_size=input_size, hidden_size=hidden_size)
        state, hs = jax.eval_shape(
            lambda *inputs: lstm_jax.unroll(problem.cell, *inputs), *problem.inputs
        )
        assert hs.shape == problem.hs_weights.shape
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, problem.state0)


@pytest.mark.parametrize(
    "given", [None, {"lengths": 3}, (None, None, None, False), lstm_jax.Noise()]
)
def test_a_group_of_options_is_of_its_own_type(given):
    sequences = lstm_jax.Sequences(truncate=2)
    require_type("sequences", sequences, lstm_jax.Sequences)
    came = type(given).__name__
    with refuses(TypeError, "expected sequences as Sequences(...), got", came):
        require_type("sequences", given, lstm_jax.Sequences)
    problem = random_problem("lstm", 3)
    with refuses(TypeError, "expected sequences as Sequences(...), got", came):
        lstm_jax.unroll(problem.cell, *problem.inputs, sequences=given)
