"""What ends a run and what is selected on the way: the same with an interruption and without."""

import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest
from training.problems import line, numbers, run

from lstm_jax import training
from lstm_jax.training import InterruptedRun, RunError, RunOptions, Watch

EVERY = RunOptions(log_every=2, checkpoint_every=4, evaluate_every=2, progress=False)
# By the step: best at 6, and alike at 8.
ERRORS = dict(zip(range(0, 42, 2), [9, 5, 6, 3, 3, 4, 4, 8, 2, *[7] * 12], strict=True))


class Counted:
    """``evaluate`` that knows the step by a parameter that counts."""

    problem = line._replace(
        init=lambda key: line.init(key) | {"n": jnp.zeros(())},
        loss=lambda p, c, b, k: (line.loss(p, c, b, k)[0] - p["n"], (c, {})),
    )

    def __init__(self, sign=1):
        self.sign = sign

    def __call__(self, params):
        # Gradient descent at rate 0.1 adds a tenth in each step.
        return {"error": self.sign * ERRORS[round(10 * float(params["n"]))]}


def waiting(sign=1, **words):
    mode = {"best_mode": "max"} if sign < 0 else {}
    return run(
        words.pop("steps", 40),
        Counted.problem,
        evaluate=Counted(sign),
        best="error",
        **mode,
        **words,
    )


@pytest.mark.parametrize("sign", [1, -1], ids=["min", "max"])
def test_patience_ends_a_run_and_the_best_is_kept(tmp_path, sign):
    fitted = waiting(sign, options=EVERY, patience=3, folder=tmp_path)
    # Better at 6; no better at 8, 10 and 12.
    assert (fitted.ended, fitted.stopped_early, fitted.log[-1]["step"]) == ("patience", True, 12)
    assert fitted.log[0] == {"step": 0, "error": sign * 9, "seconds": 0.0}
    # Of two that are alike the later one is kept.
    assert fitted.best == 8
    best = training.load(tmp_path, "best")
    assert (best.step, best.measured) == (8, {"error": sign * 3})
    held = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert held == [8, 10, 12]


@pytest.mark.slow
def test_a_run_that_was_interrupted_runs_out_of_patience_at_the_same_step(tmp_path):
    def stop(params):
        if looks.append(1) or len(looks) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    looks = []
    words = {"options": EVERY, "patience": 3, "folder": tmp_path / "cut"}
    with pytest.raises(InterruptedRun, match="after step 9 of 40"):
        waiting(**words, watches=[Watch("stop", 8, stop)])
    words["options"] = RunOptions(**{**vars(EVERY), "resume": True})
    cut = waiting(**words)
    whole = waiting(options=EVERY, patience=3)
    assert numbers(cut.log) == numbers(whole.log) and cut.best == whole.best
    assert (cut.ended, cut.log[-1]["step"]) == ("patience", 12)
    # It stays ended, and goes on with more patience, which counts what was waited.
    assert waiting(**words).log == cut.log
    further = waiting(**{**words, "patience": 5})
    assert (further.ended, further.best, further.log[-1]["step"]) == ("patience", 16, 26)
    longest = waiting(**{**words, "patience": None}, steps=30)
    assert (longest.ended, longest.stopped_early, longest.log[-1]["step"]) == ("steps", False, 30)


def test_another_measure_begins_to_wait_anew(tmp_path):
    waiting(options=EVERY, patience=3, folder=tmp_path)
    again = run(
        18,
        Counted.problem,
        evaluate=lambda params: {"other": 10.0},
        best="other",
        options=RunOptions(**{**vars(EVERY), "resume": True}),
        patience=2,
        folder=tmp_path,
    )
    assert (again.ended, again.log[-1]["step"], again.best) == ("patience", 18, 18)
    # By the measure of the last part, not by the lower numbers of the first.
    best = training.load(tmp_path, "best")
    assert (best.step, best.measured) == (18, {"other": 10.0})


def test_a_run_that_until_ended_and_whose_log_is_lost_goes_on(tmp_path):
    def ended(entry):
        return entry["step"] == 4

    assert run(8, until=ended, folder=tmp_path).ended == "until"
    (tmp_path / "log.jsonl").unlink()
    with pytest.warns(training.IncompleteRunWarning, match="expected the 1 entries"):
        again = run(8, until=ended, folder=tmp_path, resume=True)
    assert (again.ended, [entry["step"] for entry in again.log]) == ("steps", [8])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluate_every": 2}, "expected evaluate, which is called by evaluate_every=2, got none"),
        ({"patience": 2}, "expected best, which is waited for by patience=2, got none"),
        (
            {"patience": 2, "best": "error", "evaluate": lambda params: {"error": 1.0}},
            "expected evaluate_every, by which is counted patience=2, got none",
        ),
        ({"patience": 0}, "patience"),
        ({"best_mode": "most"}, "Unknown best_mode: expected one of 'min', 'max', got 'most'"),
    ],
)
def test_options_without_those_that_they_need_are_refused(options, message):
    with pytest.raises(RunError, match=message):
        run(4, **options)


def test_a_callback_sees_step_entry_and_state():
    seen = []

    def callback(step, entry, state):
        seen.append((step, int(state.step), entry["step"], np.array(state.params["w"])))

    fitted = run(10, callback=callback)
    assert [one[:3] for one in seen] == [(n, n, n) for n in (4, 8, 10)]
    np.testing.assert_array_equal(seen[-1][3], fitted.state.params["w"])
