"""A run: what it logs, keeps, watches and refuses, and how it ends and goes on."""

import json
import os
import re
import signal
import struct

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparison import slow
from training.problems import (
    DATA,
    OPTIONS,
    TARGETS,
    B,
    fit_flat,
    leaves,
    line,
    numbers,
    recurrent,
    run,
)

from lstm_jax import training
from lstm_jax.training import (
    DivergedError,
    DivergedWarning,
    RunOptions,
    Watch,
    init_state,
    read_log,
    train_step,
)
from lstm_jax.training.watch import Recorder


def test_the_log_has_the_means_of_every_step_in_between(tmp_path, x64):
    problem, optimizer, data = recurrent(), optax.adam(0.01), np.float64(1)
    fitted = fit_flat(
        problem, optimizer, 10, data=data, options=OPTIONS, folder=tmp_path, unit=("samples", B)
    )
    step, state = jax.jit(train_step(problem, optimizer)), init_state(problem, optimizer, 0)
    losses = []
    for _ in range(10):
        state, metrics = step(state, data)
        losses.append(float(metrics.loss))
    # Every 4 steps, whatever else is due in between, and at the end.
    assert [entry["step"] for entry in fitted.log] == [4, 8, 10]
    expected = [np.mean(losses[a:b]) for a, b in ((0, 4), (4, 8), (8, 10))]
    np.testing.assert_allclose([entry["loss"] for entry in fitted.log], expected, rtol=1e-12)
    assert {"gradient_norm", "worst", "samples_per_second", "seconds"} <= set(fitted.log[0])
    assert read_log(tmp_path) == fitted.log
    for came, wanted in zip(leaves(fitted.state), leaves(state), strict=True):
        np.testing.assert_allclose(came, wanted, rtol=1e-11)


@pytest.mark.parametrize("asked", [slow(signal.SIGINT), signal.SIGTERM])
def test_a_run_asked_to_stop_goes_on_to_the_same_numbers(tmp_path, asked):
    problem, optimizer = recurrent(dropout=0.3), optax.adam(0.01)
    words = {"data": DATA, "options": OPTIONS, "settings": {"rate": 0.01}}
    whole = fit_flat(problem, optimizer, 17, folder=tmp_path / "whole", **words)

    def stop(params):
        looks.append(asked)
        if len(looks) == 2:
            os.kill(os.getpid(), asked)
        return {}

    looks, before = [], signal.getsignal(asked)
    with pytest.raises(
        training.InterruptedRun, match=f"by {asked.name} after step 2 of 17. .*/2 with"
    ):
        fit_flat(
            problem,
            optimizer,
            17,
            folder=tmp_path / "cut",
            watches=[Watch("stop", 1, stop)],
            **words,
        )
    assert signal.getsignal(asked) is before
    words["options"] = RunOptions(log_every=4, checkpoint_every=6, progress=False, resume=True)
    cut = fit_flat(problem, optimizer, 17, folder=tmp_path / "cut", **words)
    assert numbers(cut.log) == numbers(whole.log)
    for came, wanted in zip(leaves(cut.state), leaves(whole.state), strict=True):
        np.testing.assert_array_equal(came, wanted)


def test_a_signal_during_the_last_step_is_not_lost(tmp_path):
    def stop(params):
        if looks.append(1) or len(looks) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    looks = []
    with pytest.raises(training.InterruptedRun, match="after step 3 of 3"):
        run(3, folder=tmp_path, watches=[Watch("stop", 2, stop)])
    assert [entry["step"] for entry in read_log(tmp_path)] == [3]


def test_a_signal_before_the_first_step_or_without_one_is_not_lost(tmp_path, monkeypatch):
    """Orbax may be at work then, and an interrupt in the middle of it leaves threads behind."""

    def evaluate(params):
        if not asked.append(1) and len(asked) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return {"error": 1.0}

    asked = []
    with pytest.raises(training.InterruptedRun, match="after step 1 of 4"):
        run(4, folder=tmp_path, evaluate=evaluate)
    run(4, folder=tmp_path, options=RunOptions(resume=True))

    # All steps are done: there is none after which a run could stop.
    opened = Recorder.open
    monkeypatch.setattr(
        Recorder, "open", lambda *all: os.kill(os.getpid(), signal.SIGTERM) or opened(*all)
    )
    with pytest.raises(training.InterruptedRun, match="by SIGTERM after step 4 of 4"):
        run(4, folder=tmp_path, options=RunOptions(resume=True))


def test_a_finished_run_goes_on_when_more_steps_are_asked_for(tmp_path):
    run(8, folder=tmp_path)
    longer = run(16, folder=tmp_path, options=RunOptions(log_every=4, resume=True))
    assert [entry["step"] for entry in longer.log] == [4, 8, 12, 16]
    with pytest.raises(training.RunError, match="steps of at least 16, .* got 12"):
        run(12, folder=tmp_path, options=RunOptions(resume=True))


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    values = iter([9.0, 5.0, 1.0, 4.0, 3.0, 2.0, 6.0])
    options = RunOptions(log_every=2, checkpoint_every=2, evaluate_every=2, keep=2)
    fitted = run(
        12,
        folder=tmp_path,
        options=options,
        evaluate=lambda params: {"error": next(values)},
        best="error",
    )
    held = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.is_dir())
    assert held == [4, 10, 12]
    assert [entry["step"] for entry in fitted.log] == [0, 2, 4, 6, 8, 10, 12]
    assert [entry["error"] for entry in fitted.log] == [9, 5, 1, 4, 3, 2, 6]


def test_the_best_checkpoint_stays_through_a_stop_and_whatever_is_measured(tmp_path):
    values = iter([9.0, 5.0, 1.0, np.nan, 3.0, 2.0, 6.0, 7.0])
    words = {
        "folder": tmp_path,
        "evaluate": lambda params: {"error": next(values)},
        "best": "error",
    }
    every = {"log_every": 2, "checkpoint_every": 2, "evaluate_every": 2, "keep": 1}
    run(8, options=RunOptions(**every), **words)
    run(14, options=RunOptions(**every, resume=True), **words)
    held = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.is_dir())
    assert held == [4, 14]


def test_until_ends_a_run_and_it_stays_ended(tmp_path):
    fitted = run(400, folder=tmp_path, until=lambda entry: entry["loss"] < 0.1)
    assert fitted.stopped_early and fitted.log[-1]["loss"] < 0.1 and len(fitted.log) < 20
    resumed = RunOptions(resume=True)
    again = run(400, folder=tmp_path, options=resumed, until=lambda entry: entry["loss"] < 0.1)
    assert again.stopped_early and again.log == fitted.log
    further = run(400, folder=tmp_path, options=resumed, until=lambda entry: False)
    assert not further.stopped_early and further.log[-1]["step"] == 400
    for came, wanted in zip(leaves(further.state), leaves(run(400).state), strict=True):
        np.testing.assert_array_equal(came, wanted)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_run_that_diverges_names_step_gradients_and_checkpoint(tmp_path, where):
    def loss(params, carry, batch, key):
        value, bad = (params["w"] ** 2).sum(), batch.sum() > 0
        if where == "loss":
            return value + jnp.where(bad, jnp.nan, 0.0), (carry, {})
        # √0 has a value and no slope.
        return value + jnp.sqrt(jnp.where(bad, params["w"].sum() * 0, 1.0)), (carry, {})

    data = np.zeros((20, 3), np.float32)
    data[8] = 1
    with pytest.raises(training.DivergedError) as caught:
        run(20, line._replace(loss=loss), data=data, folder=tmp_path)
    sentence = str(caught.value)
    of_w = r"w (nan|[\d.e+-]+) \(before it: w [\d.e+-]+\)"
    assert re.search(rf"at step 9; norms of the gradient: {of_w}; last", sentence), sentence
    assert sentence.endswith(f"last good checkpoint: {tmp_path / 'checkpoints' / '6'}.")
    assert read_log(tmp_path)[-1]["diverged"] is True


def test_parameters_that_are_not_finite_are_never_kept(tmp_path):
    """Of the first step loss and gradient are finite, and what it leads to is not."""
    wild = optax.sgd(1e38)
    steep = line._replace(loss=lambda p, c, b, k: (100 * p["w"].sum(), (c, {})))
    for steps, options in ((1, OPTIONS), (5, RunOptions(checkpoint_every=1))):
        with pytest.raises(
            training.DivergedError, match="finite parameters, got .* w after step 1"
        ):
            run(steps, steep, wild, folder=tmp_path, options=options)
        assert not list(tmp_path.glob("checkpoints/[0-9]*"))
        (tmp_path / "log.jsonl").unlink()
    watch = Watch(
        "never", 1, lambda params: pytest.fail("looked") if looked else looked.append(1) or {}
    )
    looked = []
    with pytest.raises(training.DivergedError):
        run(5, steep, wild, options=OPTIONS, watches=[watch])


def with_seed_that_diverges(steps_before=0):
    """`line`, whose seed 7 has a loss of NaN after some steps."""
    marked = jax.random.key_data(jax.random.split(jax.random.key(7))[0])[0]

    def init(key):
        return line.init(key) | {"bad": jnp.where(jax.random.key_data(key)[0] == marked, 1.0, 0.0)}

    def loss(params, carry, batch, key):
        value = line.loss(params, None, batch, key)[0]
        bad = (params["bad"] > 0.5) & (carry >= steps_before)
        return value + jnp.where(bad, jnp.nan, 0.0), (carry + 1, {})

    return line._replace(
        init=init, loss=loss, carry=lambda: jnp.zeros((), jnp.int32), carry_axes=None
    )


def test_a_diverging_seed_of_a_sweep_is_told_and_the_others_go_on(tmp_path):
    words = {"problem": with_seed_that_diverges(5), "seed": (3, 7), "folder": tmp_path}
    told = r"gradient of seed 7, got a loss of nan at step 6; .*before it: .* The others go on"
    with pytest.warns(DivergedWarning, match=told) as found:
        swept = run(8, **words)
    assert len(found) == 1 and swept.diverged == {"seed 7": 6}
    alone = run(8, words["problem"], seed=3)
    found, wanted = [e["loss"][0] for e in swept.log], [e["loss"] for e in alone.log]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(swept.state.params["w"][0], alone.state.params["w"], rtol=1e-6)
    # The seed is left where it was before the step, and its steps that were finite are counted.
    before = run(5, words["problem"], seed=7)
    np.testing.assert_allclose(swept.state.params["w"][1], before.state.params["w"], rtol=1e-6)
    assert swept.state.step.tolist() == [8, 5]
    assert np.isfinite(swept.log[0]["loss"]).all() and swept.log[-1]["diverged"] == {"seed 7": 6}
    # It is told once, and stays so when the run goes on.
    further = run(12, **words, options=RunOptions(log_every=4, resume=True))
    assert further.diverged == {"seed 7": 6} and np.isnan(further.log[-1]["loss"][1])
    assert np.isfinite(further.log[-1]["loss"][0])
    assert read_log(tmp_path)[:2] == list(swept.log)[:2]


def test_a_sweep_of_which_all_seeds_diverge_ends():
    with pytest.warns(DivergedWarning), pytest.raises(DivergedError, match="of seed 7.* step 6"):
        both = with_seed_that_diverges(5)
        first = jax.random.key_data(jax.random.split(jax.random.key(3))[0])[0]

        def loss(params, carry, batch, key):
            value, rest = both.loss(params, carry, batch, key)
            return value + jnp.where((params["other"] > 0) & (carry >= 2), jnp.nan, 0.0), rest

        def init(key):
            other = jnp.where(jax.random.key_data(key)[0] == first, 1.0, 0.0)
            return both.init(key) | {"other": other}

        run(8, both._replace(init=init, loss=loss), seed=(3, 7), log_every=1)


@pytest.mark.parametrize("large", [10_000, 1])
def test_a_sweep_logs_a_number_for_each_seed(monkeypatch, large):
    monkeypatch.setattr("lstm_jax.training.several_steps.LARGE_ON_A_CPU", large)
    swept = run(8, seed=(0, 4))
    for n, seed in enumerate((0, 4)):
        alone = run(8, seed=seed)
        np.testing.assert_allclose(
            [entry["loss"][n] for entry in swept.log],
            [entry["loss"] for entry in alone.log],
            rtol=1e-5,
        )


def test_watches_look_before_on_time_and_after_and_keep_what_they_see(tmp_path):
    seen = []

    def look(params):
        seen.append(np.asarray(params["w"]).copy())
        return {"w": params["w"]}

    run(10, folder=tmp_path, watches=[Watch("w", 4, look)])
    kept = sorted(path.name for path in (tmp_path / "w").iterdir())
    assert kept == [f"{n:09d}.npz" for n in (0, 4, 8, 10)]
    for name, value in zip(kept, seen, strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / "w" / name)["w"], value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"accumulate": 0},
        {"accumulate": 2},
        {"evaluate": lambda params: {"error": 1.0}, "best": "perplexity"},
        {"evaluate": lambda params: {"loss": 1.0}},
        {"watches": [Watch("w", 1, lambda params: params["nothing"])]},
        {"watches": [Watch("w", 1, lambda params: {}), Watch("w", 2, lambda params: {})]},
        {"seed": 1.5},
        {"tensorboard": True},
    ],
    ids=["0-parts", "2-parts", "best", "taken", "watch", "watches", "seed", "tensorboard"],
)
def test_what_is_refused_leaves_the_folder_as_it_was(
    tmp_path, monkeypatch, without_type_checker, wrong
):
    """An old run that was to be replaced stays, and a new folder is not begun."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    tensorboard = wrong.pop("tensorboard", False) if "tensorboard" in wrong else False
    run(6, folder=tmp_path / "old")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for name in ("old", "new"):
        options = RunOptions(overwrite=name == "old", tensorboard=tensorboard)
        with pytest.raises((training.RunError, training.LogError, KeyError)):
            run(6, folder=tmp_path / name, options=options, **wrong)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_a_folder_with_a_run_is_refused_until_it_may_be_replaced(tmp_path):
    run(6, folder=tmp_path)
    with pytest.raises(training.RunError, match="Occupied folder: .* resume it, overwrite it"):
        run(6, folder=tmp_path)
    run(4, folder=tmp_path, options=RunOptions(overwrite=True))
    assert [entry["step"] for entry in read_log(tmp_path)] == [4]
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        with pytest.raises(training.RunError, match="Unwritable folder: .*file"):
            run(4, folder=tmp_path / folder)
    # What is not the run's own stays.
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.npz").write_text("")
    watch = Watch("w", 2, lambda params: {"w": params["w"]})
    run(4, folder=tmp_path, options=RunOptions(overwrite=True), watches=[watch])
    assert (tmp_path / "w" / "mine.npz").exists()


def test_a_line_that_a_killed_process_left_is_cut_off(tmp_path):
    run(6, folder=tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(json.dumps({"step": 7, "loss": 3.0}) + '\n{"step": 8, "lo')
    assert [entry["step"] for entry in read_log(tmp_path)] == [4, 6, 7]
    run(8, folder=tmp_path, options=RunOptions(log_every=4, resume=True))
    assert [entry["step"] for entry in read_log(tmp_path)] == [4, 6, 8]
    path = tmp_path / "log.jsonl"
    path.write_text("nonsense\n" + path.read_text())
    with pytest.raises(training.LogError, match="expected an entry in line 1 of"):
        read_log(tmp_path)
    with pytest.raises(training.LogError, match="Unreadable log: expected .*nowhere"):
        read_log(tmp_path / "nowhere")


def test_tensorboard_events_hold_the_numbers_of_the_log(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    fitted = run(8, folder=tmp_path, options=RunOptions(log_every=4, tensorboard=True))
    found = {}
    for path in (tmp_path / "tensorboard").iterdir():
        content, at = path.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
            at += 16 + size
    for entry in fitted.log:
        np.testing.assert_allclose(found["loss", entry["step"]], entry["loss"], rtol=1e-6)


def test_without_tensorboardx_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(training.LogError, match=r"install lstm-jax\[tensorboard\]"):
        run(8, folder=tmp_path, options=RunOptions(tensorboard=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"options": RunOptions(log_every=0)}, "log_every"),
        ({"options": RunOptions(checkpoint_every=-1)}, "checkpoint_every"),
        ({"options": RunOptions(keep=0)}, "keep"),
        ({"options": RunOptions(resume=True)}, "expected a folder to resume from"),
        ({"options": RunOptions(resume=True, overwrite=True)}, "resume or overwrite, got both"),
        ({"seed": -1}, "seed from 0 to"),
        ({"seed": ()}, "one seed or different ones"),
        ({"accumulate": 0}, "accumulate"),
        ({"seed": (1, 1)}, "one seed or different ones"),
        ({"unit": ("tokens", 0)}, "tokens in a step"),
        ({"watches": [Watch("w", 0, lambda params: {})]}, "w: every"),
    ],
)
def test_options_that_no_run_can_use_are_refused(change, message):
    with pytest.raises(training.RunError, match=message):
        run(**({"steps": 5} | change))


def test_a_loss_that_is_not_finite_is_seen_at_its_step(tmp_path):
    """However seldom the log is written, and the numbers of the steps do not gather on the device."""
    seen = []

    def loss(params, carry, batch, key):
        value = jnp.where(carry == 30, jnp.nan, 1.0) * jnp.sum(params["w"] ** 2)
        jax.debug.callback(lambda n: seen.append(int(n)), carry)
        return value, (carry + 1, {})

    problem = line._replace(loss=loss, carry=lambda: jnp.zeros((), jnp.int32), carry_axes=None)
    options = RunOptions(log_every=1000, checkpoint_every=None, progress=False)
    with pytest.raises(DivergedError, match="step 31"):
        fit_flat(problem, optax.sgd(0.1), 500, data=TARGETS, options=options)
    # No step is taken behind it.
    assert max(seen) == 30
