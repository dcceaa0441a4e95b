"""What a problem gives that no step can use is refused in one sentence, from `fit` and from the step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.problems import TARGETS, line, run

from lstm_jax import training
from lstm_jax.training import Problem, RunOptions, Watch


def square(params, batch):
    return (params["w"] - batch) ** 2


def with_loss(loss, **more):
    return line._replace(loss=lambda params, carry, batch, key: loss(params, carry, batch), **more)


ONE_CARRY = {"carry": lambda: jnp.zeros(3), "carry_axes": None}


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (with_loss(lambda p, c, b: (square(p, b), (c, {}))), r"one number, .* got an array \[3\]"),
        (with_loss(lambda p, c, b: square(p, b).sum()), r"as \(value, \(carry, metrics\)\), got an array"),
        (with_loss(lambda p, c, b: (square(p, b).sum(), {})), r"got \(value, a dict\)"),
        (with_loss(lambda p, c, b: None), "got None"),
        (with_loss(lambda p, c, b: (1, 2, 3)), "got a tuple of 3"),
        (with_loss(lambda p, c, b: (jnp.int32(1), (c, {}))), "floating-point number, got int32"),
        (with_loss(lambda p, c, b: (p["w"].astype("complex64").sum(), (c, {}))), "got complex64"),
        (with_loss(lambda p, c, b: (square(p, b).sum(), (c, 3.0))), "dict of numbers .* got a float"),
        (with_loss(lambda p, c, b: (square(p, b).sum(), (c, {"a": "x"}))), "'a' as a number, got a str"),
        (with_loss(lambda p, c, b: (square(p, b).sum(), ({"a": 1.0}, {}))), "like the one before it, .*None"),
        (with_loss(lambda p, c, b: (square(p, b).sum(), (c[:2], {})), **ONE_CARRY),
         r"carry as float32\[3\], .* got float32\[2\]"),
        (with_loss(lambda p, c, b: (square(p, b).sum(), (c.astype("bfloat16"), {})), **ONE_CARRY),
         r"carry as float32\[3\], .* got bfloat16\[3\]"),
        (line._replace(init=lambda key: {"w": jnp.arange(3)}), "floating-point numbers, got int32 in w"),
        (line._replace(init=lambda key: {}), "at least one array, got none"),
        (line._replace(init=lambda key: None), "at least one array, got none"),
    ],
)  # fmt: skip
def test_what_no_step_can_use_is_refused(tmp_path, problem, message):
    with pytest.raises(training.ProblemError, match=message) as caught:
        run(4, problem, folder=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_accumulated_step_refuses_the_same():
    vector = with_loss(
        lambda p, c, b: (square({"w": p["w"][None]}, b).sum(0), (c, {})),
        batch=lambda d, step, key: d,
    )
    step = training.train_step(vector, optax.sgd(0.1), accumulate=2)
    with pytest.raises(training.ProblemError, match=r"one number, .* got an array \[3\]"):
        jax.eval_shape(step, training.init_state(vector, optax.sgd(0.1), 0), TARGETS)


def test_a_carry_that_begins_as_a_plain_number_is_carried():
    count = with_loss(
        lambda p, c, b: (square(p, b).sum(), (c + jnp.float32(1), {"seen": c})),
        carry=lambda: 0.0,
        carry_axes=None,
    )
    assert run(8, count).log[-1]["seen"] == pytest.approx(np.mean([4, 5, 6, 7]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"problem": 3}, TypeError, r"expected problem as Problem\(\.\.\.\), got int"),
        ({"optimizer": 3}, TypeError, "expected optimizer from optax, .* got int"),
        ({"best": "error"}, training.RunError, "expected evaluate, .*best='error', got none"),
        ({"evaluate": 3}, training.RunError, r"expected evaluate\(params\), got 3"),
        ({"until": 3}, training.RunError, r"expected until\(entry\), got 3"),
        ({"evaluate": lambda params: 3.0}, training.RunError, "a dict of numbers, got float"),
        ({"evaluate": lambda params: {"a": "x"}}, training.RunError, "a of evaluate.*got 'x'"),
        (
            {"unit": "tokens"},
            training.RunError,
            "expected unit as a name and a number.*got 'tokens'",
        ),
        ({"watches": [("w", 1, None)]}, training.RunError, r"a list of Watch\(\.\.\.\)"),
        (
            {"watches": [Watch("../w", 1, dict)]},
            training.RunError,
            "as that of a folder, got '../w'",
        ),
        ({"watches": [Watch("checkpoints", 1, dict)]}, training.RunError, "other than checkpoints"),
        (
            {"watches": [Watch("w", 1, lambda p: 3)]},
            TypeError,
            "w: look.* as a dict of arrays, got int",
        ),
        ({"folder": ""}, training.RunError, "expected folder as a path, got ''"),
        ({"folder": 3}, training.RunError, "expected folder as a path, .* got 3"),
        ({"folder": b"run"}, training.RunError, "expected folder as a path, .* got b'run'"),
    ],
)
def test_arguments_of_another_kind_are_refused(
    tmp_path, monkeypatch, without_type_checker, change, error, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        run(**({"steps": 2, "folder": "run"} | change))
    assert list(tmp_path.iterdir()) == []


def test_seeds_may_be_an_array():
    assert len(run(2, seed=np.arange(2), options=RunOptions()).log[-1]["loss"]) == 2


SAMPLED = Problem(
    init=lambda key: jnp.ones(3),
    loss=lambda params, carry, batch, key: (
        ((params - batch["x"].mean(0)) ** 2).sum(),
        (carry, {}),
    ),
    batch=lambda data, step, key: {"x": data, "n": jnp.int32(3)},
    carry=lambda: {"h": jnp.zeros((4, 3))},
    batch_axes={"x": 0, "n": None},
    carry_axes={"h": 0},
)


@pytest.mark.parametrize("wrong", [5, -1, 1.5, "x", True, [0], {"a": 0}, {"x": "0"}], ids=str)
@pytest.mark.parametrize("of", ["batch", "carry"])
@pytest.mark.parametrize("how", ["accumulate", "mesh"])
def test_axes_that_the_arrays_do_not_have_are_refused(without_type_checker, how, of, wrong):
    computation = {"accumulate": 2}
    if how == "mesh":
        computation = {"mesh": training.data_mesh(jax.devices()[:1])}

    def step(problem):
        whole = training.train_step(problem, optax.sgd(0.1), **computation)
        return jax.eval_shape(whole, training.init_state(problem, optax.sgd(0.1), 0), TARGETS)

    step(SAMPLED)
    with pytest.raises(training.ProblemError, match=f"Axis mismatch: expected {of}_axes .*, got "):
        step(SAMPLED._replace(**{f"{of}_axes": wrong}))


def test_fit_refuses_wrong_axes_too():
    wrong = SAMPLED._replace(carry_axes={"h": 2})
    with pytest.raises(training.ProblemError, match="expected carry_axes from 0 to 1, or None"):
        run(2, wrong, mesh=training.data_mesh(jax.devices()[:1]))


def numbers_of_an_iterator():
    batches = iter(np.arange(60.0, dtype="f").reshape(20, 3))
    return lambda data, step, key: jnp.asarray(next(batches))


def numbers_of_python():
    import random

    return lambda data, step, key: data * random.random()


def a_place_of_an_iterator():
    places = itertools.count()
    return lambda data, step, key: data[next(places) % 2 :][:1]


def numbers_inside_of_a_program():
    scales = itertools.count(1.0)
    return lambda data, step, key: jax.jit(lambda: data * next(scales))()


def numbers_of_a_branch():
    scales = itertools.count(1.0)
    return lambda data, step, key: jax.lax.cond(step > 1, lambda: data * next(scales), lambda: data)


@pytest.mark.parametrize(
    "make",
    [
        numbers_of_an_iterator,
        numbers_of_python,
        a_place_of_an_iterator,
        numbers_inside_of_a_program,
        numbers_of_a_branch,
    ],
)
def test_a_batch_of_other_numbers_each_time_it_is_traced(make):
    """The step is traced once: without a word it would train on the first batch for ever."""
    problem = line._replace(batch=make())
    with pytest.raises(training.ProblemError, match="to depend on its arguments alone"):
        training.fit(problem, optax.sgd(0.1), 3, data=np.ones(3, "f"))


def test_constants_in_a_batch_are_none_of_that():
    table = np.arange(6.0, dtype="f").reshape(2, 3)
    problem = line._replace(
        batch=lambda data, step, key: jnp.asarray(table)[step % 2] + jax.random.normal(key, (3,))
    )
    assert training.fit(problem, optax.sgd(0.1), 3).log[-1]["step"] == 3
