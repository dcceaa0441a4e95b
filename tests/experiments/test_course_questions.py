"""The networks with one part changed by their definitions, the quick run, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from experiments import side_by_side
from experiments.course_questions import networks, questions, run, tables
from experiments.lag_tasks import first_solved

pytestmark = pytest.mark.usefixtures("standard_promotion")


def states(name, size=3, length=14):
    """``(params, xs, hs)`` of a network, in float64."""
    network = networks.networks(2, size)[name]
    params = jax.tree.map(lambda a: a.astype(float), network.init(jax.random.key(0)))
    xs = jax.random.normal(jax.random.key(1), (length, 2, 2), float)
    return params, np.asarray(xs), np.asarray(network.run(params, xs))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize(
    ("name", "output", "blind"),
    [
        ("LSTM", "o tanh C", False),
        ("LSTM, h = o C", "o C", False),
        ("LSTM, h = C", "C", False),
        ("LSTM, gates blind to h", "o tanh C", True),
        ("LSTM, rank 4", "o tanh C", False),
    ],
)
def test_an_lstm_by_its_definition(x64, name, output, blind):
    params, xs, hs = states(name)
    if name.endswith("rank 4"):
        params, (u, v) = params
        assert u.shape == (3, 4) and v.shape == (4, 12)
        params = params._replace(w_h=u @ v)
    h = c = np.zeros((2, 3))
    for x, expected in zip(xs, hs, strict=True):
        z = np.split(x @ np.asarray(params.w_x) + np.asarray(params.b), 4, -1)
        z_h = np.split(h @ np.asarray(params.w_h), 4, -1)
        i, f, g, o = (
            a + b * (not blind or n == 2) for n, (a, b) in enumerate(zip(z, z_h, strict=True))
        )
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = {"o tanh C": sigmoid(o) * np.tanh(c), "o C": sigmoid(o) * c, "C": c}[output]
        np.testing.assert_allclose(expected, h, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["vanilla", "vanilla, sigmoid", "vanilla, residual", "vanilla, skip over 10"]
)
def test_a_vanilla_network_by_its_definition(x64, name):
    params, xs, hs = states(name)
    params, w_s = params if name.endswith("10") else (params, np.zeros((3, 3)))
    past = [np.zeros((2, 3))] * 10
    for x, expected in zip(xs, hs, strict=True):
        z = x @ np.asarray(params.w_x) + past[-1] @ np.asarray(params.w_h) + np.asarray(params.b)
        z = z + past[-10] @ np.asarray(w_s)
        h = {"vanilla, sigmoid": sigmoid(z), "vanilla, residual": past[-1] + np.tanh(z)}.get(
            name, np.tanh(z)
        )
        past.append(h)
        np.testing.assert_allclose(expected, h, rtol=1e-10, atol=1e-14)


def test_decades_by_central_differences(x64):
    network = networks.networks(8, 4)["vanilla"]
    task = side_by_side.TASKS["recall"]
    models = side_by_side.begin(network.init, 4, side_by_side.Setting("recall", 5, seeds=2))
    found = side_by_side.decades(network.run, models, "recall", 5, batch_size=1)
    examples = task.draw(jax.random.key(99), 1, 5)
    for seed in range(2):
        one = jax.tree.map(lambda a, n=seed: jnp.asarray(a[n], float), models)

        def loss(xs, one=one):
            logits = network.run(one.cell, xs)[-1] @ one.w_y + one.b_y[None]
            return -jax.nn.log_softmax(logits)[0, examples.targets[0, 0]]

        xs = np.asarray(examples.xs, float)
        norms = []
        for t in (0, 4):
            slopes = []
            for d in range(8):
                e = np.zeros_like(xs)
                e[t, 0, d] = 1e-6
                slopes.append((loss(jnp.asarray(xs + e)) - loss(jnp.asarray(xs - e))) / 2e-6)
            norms.append(np.linalg.norm(slopes))
        assert found[seed] == pytest.approx(np.log10(norms[0] / norms[1]), abs=1e-5)


def test_how_far_a_cut_gradient_reaches(x64):
    cell = questions.able_lstm(side_by_side.Setting("recall", 50), 4)
    params = jax.tree.map(lambda a: a.astype(float), cell.init(jax.random.key(0)))
    xs = jax.random.normal(jax.random.key(1), (50, 2, 8), float)
    for window in (5, 10, 25, 50):
        run_ = questions.cut_every(cell, window)
        by_input = jax.grad(lambda xs, run_=run_: run_(params, xs)[-1].sum())(xs)
        assert int((jnp.abs(by_input).max((1, 2)) > 0).sum()) == window


def test_a_seed_ends_where_it_is_solved_whatever_the_others_do():
    task = side_by_side.TASKS["recall"]
    model = side_by_side.Model(0, 0, 0)
    scores = np.concatenate([np.full(60, 0.3), np.ones(140)])
    numbers = np.stack([np.ones(200), scores, np.ones(200)])
    end = side_by_side._ended(numbers, task, model, False)
    assert (end.solved, end.diverged) == (first_solved(scores, task), False)
    # What becomes of it later does not count.
    numbers[0, 150:] = np.nan
    assert side_by_side._ended(numbers, task, model, False).solved == end.solved
    numbers[0, 70:] = np.nan
    end = side_by_side._ended(numbers, task, model, False)
    assert (end.solved, end.diverged) == (None, True)
    numbers = np.stack([np.ones(200), np.full(200, 0.3), np.ones(200)])
    assert side_by_side._ended(numbers, task, model, False) is None
    assert side_by_side._ended(numbers, task, model, True).solved is None


def test_norms_far_below_what_can_be_squared(x64):
    found = side_by_side.log_norms(jnp.array([[3e-200, 4e-200], [0.3, 0.4], [0.0, 0.0]]))
    np.testing.assert_allclose(found[:2], np.log10([5e-200, 0.5]), rtol=1e-12)
    assert np.isneginf(found[2])


@pytest.mark.slow
def test_networks_are_trained_alone_as_side_by_side():
    network = networks.networks(8, 6)["LSTM"]
    setting = side_by_side.Setting("recall", 4, updates=100, seeds=2)
    models = side_by_side.begin(network.init, 6, setting)
    both = side_by_side.train(network.run, models, setting)
    for seed in range(2):
        one = setting._replace(seed=seed, seeds=1)
        alone = side_by_side.train(network.run, side_by_side.begin(network.init, 6, one), one)
        np.testing.assert_allclose(both.losses[seed], alone.losses[0], rtol=1e-3, atol=1e-4)
    assert not np.allclose(both.losses[0], both.losses[1])
    # A right gradient has the cosine 1 with itself.
    beside = side_by_side.train(network.run, models, setting, side_by_side.same, network.run)
    np.testing.assert_allclose(beside.cosines, 1, atol=1e-4)


@pytest.mark.slow
def test_a_quick_run_keeps_what_its_tables_are_made_from(tmp_path, capsys):
    out = tmp_path / "out"
    assert run.main(["--quick", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert list(results["answers"]) == list(questions.QUESTIONS)
    printed = capsys.readouterr().out
    assert tables.tables(results) in printed
    for title in ("One part changed", "Weight decay", "Truncated", "Gates that stand at 1"):
        assert title in printed


def test_what_the_tables_show():
    row = {"solved": [300, None, 100], "seeds": 3, "diverged": [False, True, False]}
    assert tables.how_learned(row) == "2/3  200 (100 … 300)  1 diverged"
    assert tables.middle([1.0, None, 3.0, 2.0]) == "2.0 (1.0 … 3.0)"
    assert tables.middle(["-inf", "-inf", -3.0]) == "nothing (nothing … -3.0)"
    assert tables.middle([None]) == "-"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--questions", "parts", "colour"], "expected --questions from parts, weight_decay"),
        (["--seed", "-1"], "expected --seed from 0"),
        (["--seeds", "0"], "expected --seeds of at least 1, got 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path, capsys, words, said):
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
