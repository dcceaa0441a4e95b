"""The experiments that train: their quick runs, going on after a stop, and what they refuse."""

import json
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from experiments.char_lm import run as char_lm
from experiments.char_lm import scratch, settings
from experiments.lag_tasks import Model
from experiments.long_lag import problems, temporal_order, trials
from experiments.long_lag import run as long_lag
from experiments.ptb import run as ptb
from experiments.readout_bias import run as readout_bias
from experiments.running import keep
from experiments.training import training_exit_code

import lstm_jax
from gradient_flow.command_line.memory import TooLargeError
from gradient_flow.command_line.short_training import Trained
from gradient_flow.results_folder import claim_folder
from lstm_jax import tasks, training, unroll
from lstm_jax.language import Batch, language_model, token_loss
from lstm_jax.layers.stack import stack
from lstm_jax.training import read_log

CHECKOUT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.usefixtures("standard_promotion"),
    pytest.mark.filterwarnings("ignore:Pass an optional dtype:DeprecationWarning"),
]


def results(out):
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


@pytest.fixture
def time_machine(tmp_path):
    """A text in the place of the book."""
    path = tmp_path / "text.txt"
    path.write_text("the time traveller for so it will be convenient to speak of him " * 80)
    return path


@pytest.mark.slow
def test_ptb_in_quick_and_again_after_a_stop(tmp_path, capsys):
    out = tmp_path / "out"
    assert ptb.main(["--quick", "--out", str(out), "--epochs", "1"]) == 0
    assert "test perplexity" in capsys.readouterr().out
    first = results(out)
    assert first["test_perplexity"] < 300 and len(first["valid_perplexity"]) == 1
    assert ptb.main(["--quick", "--out", str(out)]) == 2
    assert "Occupied folder" in capsys.readouterr().err
    (out / "results.json").unlink()
    assert ptb.main(["--quick", "--out", str(out)]) == 2
    assert "Unfinished run" in capsys.readouterr().err
    assert ptb.main(["--quick", "--out", str(out), "--resume"]) == 0
    second = results(out)
    assert len(second["valid_perplexity"]) == 2
    assert second["valid_perplexity"][0] == first["valid_perplexity"][0]


@pytest.mark.slow
def test_ptb_in_two_processes_is_ptb_in_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    words = [sys.executable, "-m", "experiments.ptb", "--quick", "--epochs", "1"]
    words += ["--log-every", "1"]
    together = ["--data-parallel", "--coordinator", coordinator, "--processes", "2", "--process"]
    runs = [
        [*words, "--out", str(tmp_path / "two"), *together, "0"],
        [*words, "--out", str(tmp_path / "two"), *together, "1"],
        [*words, "--out", str(tmp_path / "one")],
    ]
    running = [
        subprocess.Popen(
            run, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for run in runs
    ]
    printed = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], printed
    assert "test perplexity" in printed[0][0] and "perplexity" not in printed[1][0]
    # The first entry is the evaluation before the first step.
    two, one = (read_log(tmp_path / name)[1:] for name in ("two", "one"))
    assert len(two) == len(one)
    # With a learning rate of 1 training multiplies what rounding makes different, by ten in some ten steps.
    np.testing.assert_allclose(
        [entry["nats"] for entry in two[:10]], [entry["nats"] for entry in one[:10]], rtol=1e-5
    )
    assert results(tmp_path / "two")["test_perplexity"] < 300


def test_ptb_has_the_numbers_of_the_paper():
    assert ptb.SIZES["small"][:8] == (200, 0.1, 20, 0.0, 13, 4, 2.0, 5.0)
    assert ptb.SIZES["medium"][:8] == (650, 0.05, 35, 0.5, 39, 6, 1.2, 5.0)
    assert ptb.SIZES["large"][:8] == (1500, 0.04, 35, 0.65, 55, 14, 1.15, 10.0)
    net = ptb.network(ptb.SIZES["small"], 10_000)
    params = jax.eval_shape(net.init, jax.random.key(0))
    # 4 H (2 H + 1) a layer, V H for the embedding, (H + 1) V for the readout.
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == (
        2 * 4 * 200 * 401 + 10_000 * 200 + 201 * 10_000
    )
    drawn = net.init(jax.random.key(0))
    for leaf in jax.tree.leaves(drawn):
        assert abs(leaf).max() <= 0.1 and abs(leaf).max() > 0.099


@pytest.mark.slow
def test_char_lm_in_quick(tmp_path, time_machine, capsys):
    out = tmp_path / "out"
    words = ["--quick", "--corpus", str(time_machine), "--out", str(out)]
    assert char_lm.main(words) == 0
    printed = capsys.readouterr().out
    assert printed.count("time traveller|") == 5
    for name in settings.SETTINGS:
        assert np.isfinite(results(out)[name]["perplexity"])
        # Where there is a validation part, it is measured before the first step as well.
        assert len(read_log(out / name)) == 4 + (name == "book")


def test_the_cell_from_scratch_is_the_library_s(x64):
    key, size = jax.random.key(0), 6
    params = scratch.init(5, size, key)
    params = jax.tree.map(lambda leaf: 30 * leaf, params)
    tokens = jax.random.randint(key, (9, 3), 0, 5)
    made = scratch.problem(5, size, 3, lambda *_: None)
    batch = Batch(tokens[:-1], tokens[1:], jnp.bool_(True))
    value, (state, _) = made.loss(params, jax.tree.map(jnp.float64, made.carry()), batch, key)
    net = language_model(stack(settings.lstm(5, size)), 5, embedding=False)
    ours, states = token_loss(net, scratch.to_library(params), None, tokens[:-1], tokens[1:])
    np.testing.assert_allclose(value, ours, rtol=1e-12)
    np.testing.assert_allclose(state[0], states[0].h, rtol=1e-12)
    np.testing.assert_allclose(state[1], states[0].c, rtol=1e-12)


def test_the_book_s_setting_has_eight_steps_an_epoch():
    made = settings.ready(settings.SETTINGS["library"], 28, 10_000)
    assert made.steps_per_epoch == 8


@pytest.mark.slow
def test_long_lag_in_quick(tmp_path, capsys):
    out = tmp_path / "out"
    assert long_lag.main(["--quick", "--out", str(out), "--studies", "adding", "order"]) == 0
    assert "Adding as in 1997" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} >= {"adding", "order", "learning.png"}
    found = {t["study"]: t for t in results(out)["trials"]}
    assert found["adding"]["valid_wrong"] > 1  # and so it went on to its last step
    assert found["order"]["test_wrong"]["30"] > 0 and float(found["adding"]["reach_first"]) > 0
    assert found["order"]["best_step"] == 40  # its one validation
    assert long_lag.main(["--report", "--out", str(out)]) == 0


@pytest.mark.slow
def test_long_lag_of_other_sizes(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--hidden-size", "3", "--length", "22", "--steps", "8", "--batch-size", "2"]
    assert long_lag.main(["--studies", "copy", "--seeds", "2", "--out", str(out), *words]) == 0
    assert "Copy memory, T = 22, 3 units" in capsys.readouterr().out
    found = results(out)["trials"]
    assert [(t["trial"]["network"], t["seed"]) for t in found] == [
        ("lstm_chrono", 0), ("lstm_chrono", 1), ("lstm_1", 0), ("lstm_1", 1),
    ]  # fmt: skip
    sizes = {
        tuple(t["trial"][n] for n in ("hidden_size", "length", "steps", "batch_size"))
        for t in found
    }
    assert sizes == {(3, 22, 8, 2)}
    # Nothing is learned in eight steps, and log 8 an answer is what one has without a memory.
    assert all(set(t["below_floor"].values()) == {None} for t in found)
    # Studies whose trials differ by their length alone are one trial of that length.
    assert len(long_lag.trials_of("adding", {"length": 50}, quickly=False)) == 1


def test_when_a_loss_came_below_its_floor():
    one = {"trial": {"length": 20, "hidden_size": 3, "network": "lstm_1", "batch_size": 2},
           "study": "copy", "label": "LSTM", "sequences": 60, "last_loss": 0.25, "floor": 0.5,
           "steps": 40, "below_floor": {"0.98": 10, "0.9": 20, "0.8": None}}  # fmt: skip
    row = long_lag.report([one, one | {"below_floor": {"0.98": 30, "0.9": None}}]).splitlines()[-1]
    assert re.split(r"\s{2,}", row.strip())[1:4] == [
        "20 (10 to 30)",
        "20 (20 to 20, 1 of 2)",
        "30 (30 to 30)",
    ]


def test_the_criterion_of_1997_is_met_when_the_last_2000_are_right_and_not_before():
    trial = trials.STUDIES["adding"][0]
    record = problems.problem(trial).carry()
    add = jax.jit(lambda record, wrong: problems.recorded(trial, record, wrong))
    good, bad = jnp.full(20, 0.005), jnp.full(20, 0.005).at[7].set(0.04)
    for _ in range(50):
        record = add(record, good)
    record = add(record, bad)
    for _ in range(99):
        record = add(record, good)
    # The last wrong one was the eighth of its batch: 12 + 99 · 20 right ones since.
    assert int(record.solved) == 0
    record = add(record, good)
    assert int(record.solved) == int(record.seen) == 20 * 151
    assert int(add(record, bad).solved) == int(record.solved)
    record = problems.problem(trial).carry()
    for _ in range(100):
        record = add(record, jnp.full(20, 0.02))
    assert int(record.solved) == 0


@pytest.mark.parametrize(("task", "classes"), [("order_two", 4), ("order_three", 8)])
def test_temporal_order_as_in_1997_is_right_within_three_tenths(task, classes):
    (trial,) = [trial for trial in trials.STUDIES["order_1997"] if trial.task == task]
    given = problems.examples(trial, jax.random.key(0), 64)
    assert given.xs.shape == (110, 64, 8) and set(np.asarray(given.targets)) == set(range(classes))
    answers = jax.random.normal(jax.random.key(1), (64, classes))
    outputs = np.exp(answers) / np.exp(answers).sum(1, keepdims=True)
    wanted = np.eye(classes)[given.targets]
    found = problems.errors(trial, answers, given)
    np.testing.assert_allclose(found, abs(outputs - wanted).max(1), rtol=1e-5)
    assert problems.right(trial, jnp.array([0.29, 0.31])).tolist() == [True, False]
    record = problems.problem(trial).carry()
    for mean, solved in ((0.11, 0), (0.09, 2_000)):
        after = problems.recorded(trial, record, jnp.full(2_000, mean))
        assert int(after.solved) == solved


@pytest.mark.slow
def test_the_penalty_adds_its_immediate_gradient_and_no_value():
    trial = trials.quick(trials.STUDIES["order"][0])
    model = temporal_order.smart_start(jax.random.key(0), jax.random.key(1), trial.hidden_size)
    given = tasks.temporal_order(jax.random.key(2), 6, 30, form="fractions")

    h0 = jnp.zeros((6, trial.hidden_size))

    def value_and_gradient(weight, noise):
        def loss(model):
            amounts = jnp.float32(weight), jnp.float32(noise)
            return temporal_order.penalised_loss(
                trial, model, given, *amounts, jax.random.key(3), h0
            )[0]

        return jax.jit(jax.value_and_grad(loss))(model)

    value, d = value_and_gradient(2.0, 0.1)
    bare, d_bare = value_and_gradient(0.0, 0.1)
    np.testing.assert_allclose(value, bare, rtol=1e-6)
    assert abs(d.cell.w_h - d_bare.cell.w_h).max() > 1e-4
    np.testing.assert_allclose(d.cell.w_x, d_bare.cell.w_x, rtol=1e-5, atol=1e-9)
    # Without noise the loss is that of the plain network.
    value, d = value_and_gradient(0.0, 0.0)
    answers = problems.predict(trial, model, given)
    plain = optax.softmax_cross_entropy_with_integer_labels(answers, given.targets).mean()
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    assert abs(float(value_and_gradient(0.0, 0.5)[0]) - float(plain)) > 1e-4
    radius = max(abs(np.linalg.eigvals(np.asarray(model.cell.w_h))))
    np.testing.assert_allclose(radius, 0.95, rtol=1e-2)


def test_a_gradient_is_clipped_and_then_slowed_down():
    model = Model(None, jnp.ones(3), jnp.ones(2))
    kept = Model(None, jnp.array([1.0, 2.0, -3.0]), jnp.zeros(2))

    def gradient(weight, share, back=False):
        def loss(model):
            undone = temporal_order.Undone(kept, jnp.bool_(back), jnp.float32(0.5))
            model = temporal_order.limited(model, jnp.float32(share), undone)
            # Used twice: the norm is that of the sum.
            return weight * (model.w_y.sum() + model.w_y.sum() + 3 * model.b_y[0])

        return jax.grad(loss)(model)

    given = np.array([2, 2, 2, 3, 0]) / np.sqrt(21)
    for weight, share, expected in [
        (5.0, 0.3, 0.3 * given),
        (0.1, 0.3, 0.03 * np.sqrt(21) * given),
    ]:
        d = gradient(weight, share)
        np.testing.assert_allclose(np.concatenate([d.w_y, d.b_y]), expected, rtol=1e-5)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(gradient(np.inf, 1.0)))
    # A step of descent at the rate 0.5 is then the way back, whatever the gradient is.
    for weight in (5.0, np.inf):
        d = gradient(weight, 0.3, back=True)
        stepped = jax.tree.map(lambda p, d: p - 0.5 * d, model, d)
        jax.tree.map(np.testing.assert_array_equal, stepped, kept)


@pytest.mark.slow
def test_the_rate_and_the_penalty_follow_the_longest_length():
    trial = trials.STUDIES["order"][0]
    made = temporal_order.problem(trials.replace(trial, batch_size=4, hidden_size=4))
    model, record = made.init(jax.random.key(0)), made.carry()
    norm = jax.jit(
        lambda record: optax.tree.norm(
            jax.grad(lambda model: 1e6 * made.loss(model, record, (), jax.random.key(1))[0])(model)
        )
    )
    norms = [float(norm(record._replace(longest=jnp.int32(longest)))) for longest in (60, 110, 120)]
    np.testing.assert_allclose(norms, [1.0, 0.3, 0.1], rtol=1e-3)


def test_the_lengths_grow_when_a_thousand_batches_are_learned():
    trial = trials.STUDIES["order"][0]
    record = temporal_order.problem(trial).carry()
    weights = record.kept
    grow = jax.jit(lambda record, loss: temporal_order.longer(record, loss, weights, 200))
    for _ in range(999):
        record = grow(record, jnp.float32(0.1))
    assert int(record.longest) == 60
    record = grow(record, jnp.float32(0.1))
    assert int(record.longest) == 70 and int(record.batches) == 0 and float(record.total) == 0
    for _ in range(1_000):
        record = grow(record, jnp.float32(0.3))
    assert int(record.longest) == 70
    top = record._replace(longest=jnp.int32(195), batches=jnp.int32(999))
    assert int(grow(top, jnp.float32(0.1)).longest) == 200


def test_one_batch_in_three_is_short():
    keys = jax.random.split(jax.random.key(0), (2, 6_000))
    draw = jax.jit(jax.vmap(temporal_order.drawn_length, (0, 0, None, None, None)))
    lengths = np.asarray(draw(*keys, 50, 60, 200))
    assert (lengths.min(), lengths.max()) == (50, 200)
    np.testing.assert_allclose((lengths <= 60).mean(), 1 / 3 + 2 / 3 * 11 / 151, atol=0.02)
    long = lengths[lengths > 60]
    np.testing.assert_allclose(long.mean(), 130.5, atol=2)
    assert np.asarray(draw(*keys, 50, 60, 60)).max() == 60


def test_a_thousand_batches_that_lost_the_task_are_undone():
    trial = trials.STUDIES["order"][0]
    record = temporal_order.problem(trial).carry()
    one, other = (jax.tree.map(lambda a, n=n: jnp.full_like(a, n), record.kept) for n in (1.0, 2.0))

    @jax.jit
    def after(record, loss, weights):
        """The record after the last of a thousand batches of this loss."""
        last = record._replace(batches=jnp.int32(999), total=999 * loss)
        return temporal_order.longer(last, loss, weights, 200)

    def kept(record):
        return {float(leaf.ravel()[0]) for leaf in jax.tree.leaves(record.kept)}

    # A longer L begins anew: with these weights, whatever was lower before.
    grown = after(record._replace(lowest=jnp.float32(0.05)), jnp.float32(0.1), one)
    assert int(grown.longest) == 70 and kept(grown) == {1.0} and not grown.back
    np.testing.assert_allclose(grown.lowest, 0.1, rtol=1e-5)
    assert after(grown, jnp.float32(0.35), other).back
    record = record._replace(longest=jnp.int32(200))
    for loss, weights, lowest, now, calm, back in [
        (2.0, one, 2.0, 1.0, 1.0, False),
        (0.1, other, 0.1, 2.0, 1.0, False),
        (0.19, one, 0.1, 2.0, 1.0, False),
        (0.25, one, 0.1, 2.0, 1.0, False),
        (0.35, one, 0.1, 2.0, 0.5, True),
        (0.15, one, 0.1, 2.0, 0.5, False),
        (np.nan, one, 0.1, 2.0, 0.25, True),
        (0.02, one, 0.02, 1.0, 0.25, False),
        (0.15, other, 0.02, 1.0, 0.25, False),
    ]:
        record = after(record, jnp.float32(loss), weights)
        np.testing.assert_allclose(record.lowest, lowest, rtol=1e-5)
        assert (kept(record), float(record.calm), bool(record.back)) == ({now}, calm, back)
    assert not temporal_order.longer(record._replace(back=jnp.bool_(True)), 0.0, one, 200).back


@pytest.mark.slow
def test_the_validation_is_the_loss_of_sequences_of_four_lengths(monkeypatch):
    monkeypatch.setattr(temporal_order, "VALID_LENGTHS", (20, 30))
    monkeypatch.setattr(temporal_order, "VALID_SEQUENCES", 5)
    trial = trials.replace(trials.STUDIES["order"][0], hidden_size=3)
    key = jax.random.key(4)
    model = temporal_order.smart_start(key, key, 3)._replace(b_y=jnp.arange(4.0))
    losses, wrong = [], 0
    for length in (20, 30):
        given = tasks.temporal_order(key, 5, length, form="fractions")
        state = lstm_jax.RNNState(jnp.zeros((5, 3)))
        hs = unroll(lstm_jax.rnn(8, 3), model.cell, given.xs, state)[1]
        scores = hs[given.lengths - 1, jnp.arange(5)] @ model.w_y + model.b_y[None]
        losses += list(-jax.nn.log_softmax(scores)[jnp.arange(5), given.targets])
        wrong += int((scores.argmax(1) != given.targets).sum())
    found = temporal_order.validation(trial, key, model)
    np.testing.assert_allclose(found["valid_loss"], np.mean(losses), rtol=1e-6)
    assert found["valid_wrong"] == wrong > 0


@pytest.mark.slow
def test_sequences_go_on_where_one_waited():
    trial = trials.quick(trials.STUDIES["order"][0])
    size = trial.batch_size
    made = temporal_order.problem(trial)
    model, record = made.init(jax.random.key(0)), made.carry()
    loss = jax.jit(made.loss)
    _, (after, _) = loss(model, record, (), jax.random.key(1))
    assert record.waited.shape == after.waited.shape == (size, trial.hidden_size)
    # From one and the same key: another beginning, another loss.
    value, _ = loss(model, after, (), jax.random.key(1))
    far, _ = loss(model, after._replace(waited=after.waited + 1), (), jax.random.key(1))
    assert abs(float(value) - float(far)) > 1e-6

    given = tasks.temporal_order(jax.random.key(2), size, 30, form="fractions")
    on = jnp.arange(size) % 2 == 0
    changed = temporal_order.continued(jax.random.key(3), given, on)
    np.testing.assert_array_equal(changed.xs[1:], given.xs[1:])
    first = np.argmax(np.asarray(changed.xs[0]), axis=-1)
    assert set(first[1::2]) == {6} and set(first[::2]) <= {0, 1, 2, 3}

    zero = jnp.float32(0)
    _, (_, _, waited) = temporal_order.penalised_loss(
        trial, model, given, zero, zero, jax.random.key(4), jnp.zeros_like(after.waited)
    )
    for n in range(size):
        steps = int(np.flatnonzero(given.xs[:, n, 4:6].any(-1))[0])
        state, _ = unroll(lstm_jax.rnn(8, trial.hidden_size), model.cell, given.xs[:steps, n])
        np.testing.assert_allclose(waited[n], state.h, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_batches_have_one_length_within_those_allowed(monkeypatch):
    trial = trials.replace(trials.STUDIES["order"][0], batch_size=2, hidden_size=4)
    made = temporal_order.problem(trial)
    model, record = made.init(jax.random.key(0)), made.carry()._replace(longest=jnp.int32(55))
    seen = []
    plain = temporal_order.temporal_order

    def spy(key, batch_size, steps, **options):
        jax.debug.callback(lambda lengths: seen.append(np.asarray(lengths)), options["lengths"])
        return plain(key, batch_size, steps, **options)

    monkeypatch.setattr(temporal_order, "temporal_order", spy)
    loss = jax.jit(made.loss)
    for n in range(40):
        loss(model, record, (), jax.random.key(n))
    jax.effects_barrier()
    assert all(len(set(lengths.tolist())) == 1 for lengths in seen)
    assert {int(lengths[0]) for lengths in seen} == set(range(50, 56))


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (ptb.main, ["--data", "/nowhere"], "/nowhere"),
        (ptb.main, ["--quick", "--epochs", "0"], "epochs of at least 1"),
        (ptb.main, ["--quick", "--seed", "-1"], "seed from 0 to"),
        (ptb.main, ["--quick", "--log-every", "0"], "--log-every of at least 1"),
        (ptb.main, ["--quick", "--resume", "--overwrite"], "--resume or --overwrite, got both"),
        (ptb.main, ["--quick", "--watch-flow", "5"], "--watch-flow"),
        (ptb.main, ["--quick", "--process", "1"], "coordinator, processes and process together"),
        (char_lm.main, ["--corpus", "nothing"], "expected one of"),
        (char_lm.main, ["--corpus", "embedded", "--characters", "0"], "--characters"),
        (char_lm.main, ["--corpus", "embedded", "--temperature", "-1"], "--temperature"),
        (char_lm.main, ["--corpus", "embedded", "--prompts", "ж"], "ж"),
        (char_lm.main, ["--corpus", "embedded", "--prompts", ""], "empty prompt"),
        (long_lag.main, ["--seeds", "0"], "--seeds from 1 to 10,000, got 0"),
        (long_lag.main, ["--seeds", "1000000000"], "--seeds from 1 to 10,000, got 1,000,000,000"),
        (long_lag.main, ["--hidden-size", "0"], "--hidden-size of at least 1, got 0"),
        (long_lag.main, ["--quick", "--length", "21"], "--length of at least 22, got 21"),
        (long_lag.main, ["--data-parallel"], "--data-parallel"),
        (long_lag.main, ["--report"], "expected some that are done"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(tmp_path, capsys, main, words, message):
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and error.count("\n") == 0
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            training.InterruptedRun("Interrupted: stopped. Resume it with resume=True."),
            130,
            "interrupted: stopped. Resume it with --resume.$",
        ),
        (KeyboardInterrupt(), 130, "interrupted: finished parts are kept"),
        (training.CheckpointError("Damaged."), 1, "error: Damaged."),
        (training.RunError("Occupied."), 2, "error: Occupied."),
        (TooLargeError("Too large."), 2, "error: Too large."),
        (OSError(28, "No space left on device"), 1, "error: Stopped: .* No space left on device"),
    ],
)
def test_a_training_ends_with_one_line_and_a_code(capsys, error, code, said):
    def action():
        raise error

    assert training_exit_code(action) == code
    told = capsys.readouterr().err
    assert re.match(said, told) and told.count("\n") == 1


def test_what_a_resumed_run_lacks_is_one_line(capsys):
    def action():
        warnings.warn("Incomplete log.", training.IncompleteRunWarning, stacklevel=1)

    assert training_exit_code(action) == 0
    assert capsys.readouterr().err == "warning: Incomplete log.\n"


def test_an_interrupted_experiment_keeps_its_parts(tmp_path, capsys, monkeypatch):
    def train(cells, codes, steps, rate, seed, **more):
        if found.append(steps) or len(found) > 2:
            raise KeyboardInterrupt
        return [Trained(None, [3.0, 2.0], 2.5)]

    found = []
    monkeypatch.setattr(readout_bias, "train", train)
    monkeypatch.setattr(readout_bias, "saturation", lambda *others: {"memories": 0.5})
    out = tmp_path / "out"
    assert readout_bias.main(["--out", str(out), "--hidden-size", "2"]) == 130
    told = capsys.readouterr().err
    assert told == f"interrupted: the parts so far are in {out / 'parts.json'}\n"
    parts = json.loads((out / "parts.json").read_text())
    assert [run["steps"] for run in parts["runs"]] == [readout_bias.EARLY, 800]
    assert [path.name for path in out.iterdir()] == ["parts.json"]
    # The results of a whole run take their place.
    claim_folder(out, "readout_bias", overwrite=True)
    keep(out, {}, {}, "tables")
    assert not (out / "parts.json").exists() and results(out) == {}


def test_a_refused_run_takes_no_earlier_results_away(tmp_path, capsys):
    (tmp_path / "results.json").write_text("{}")
    words = ["--quick", "--overwrite", "--out", str(tmp_path), "--batch-size", "1000000"]
    assert ptb.main(words) == 2
    assert "Length mismatch" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == "{}"


@pytest.mark.parametrize("damage", ["[", "[]", "{}", '{"reach_first": []}'])
def test_a_damaged_trial_is_one_sentence(tmp_path, capsys, damage):
    trial = tmp_path / "study" / "trial-0"
    trial.mkdir(parents=True)
    (trial / "results.json").write_text(damage)
    assert long_lag.main(["--report", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert re.match("error: Unreadable .*results.json", told) and told.count("\n") == 1
