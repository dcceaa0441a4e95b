"""The folder of a run: one writer, and nothing in it that is lost without a word."""

import csv
import json
import threading
import warnings

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from comparison import slow
from training.problems import run

from lstm_jax import training
from lstm_jax.training import IncompleteRunWarning, RunOptions, Watch, read_log
from lstm_jax.training.checkpoints import TEMPORARY
from lstm_jax.training.log import Log

RESUME = RunOptions(log_every=4, resume=True)


def steps_of(fitted):
    return [entry["step"] for entry in fitted.log]


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_second_run_in_the_folder_is_refused_while_the_first_goes_on(tmp_path):
    """In the first log entry of one run, others try to begin: from its thread and from another."""
    refused = []

    def others(entry):
        for options in (RunOptions(), RunOptions(overwrite=True), RunOptions(resume=True)):
            with pytest.raises(training.RunError, match="Folder in use: .* process .* writes"):
                run(4, folder=tmp_path, options=options)
            refused.append(options)
        return False

    def until(entry):
        if not refused:
            others(entry)
            beside = threading.Thread(target=others, args=(entry,))
            beside.start()
            beside.join()
        return False

    assert steps_of(run(8, folder=tmp_path, until=until)) == [4, 8]
    assert len(refused) == 6
    assert steps_of(run(12, folder=tmp_path, options=RESUME)) == [4, 8, 12]
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "checkpoints"}


def test_of_two_runs_that_begin_in_a_new_folder_one_is_refused(tmp_path):
    """Both looked before there was a folder."""

    def evaluate(params):
        if not begun:
            begun.append(run(4, folder=tmp_path / "new"))
        return {"error": 1.0}

    begun = []
    with pytest.raises(training.RunError, match="Occupied folder"):
        run(8, folder=tmp_path / "new", evaluate=evaluate)
    assert [entry["step"] for entry in read_log(tmp_path / "new")] == [4]


def test_a_run_that_fails_lets_the_folder_go(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(8, folder=tmp_path, until=lambda entry: 1 / 0)
    assert steps_of(run(8, folder=tmp_path, options=RunOptions(overwrite=True, log_every=8))) == [8]


def test_a_log_without_checkpoints_is_not_begun_anew(tmp_path):
    run(8, folder=tmp_path)
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
    before = files(tmp_path)
    with pytest.raises(training.RunError, match="Missing checkpoints: .*, got none, and a log"):
        run(8, folder=tmp_path, options=RESUME)
    assert files(tmp_path) == before
    # Without a log either, nothing can be lost.
    (tmp_path / "log.jsonl").write_text("")
    assert steps_of(run(8, folder=tmp_path, options=RESUME)) == [4, 8]


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew(tmp_path):
    early, whole = tmp_path / "early", tmp_path / "whole"
    with pytest.raises(ZeroDivisionError):
        run(8, folder=early, until=lambda entry: 1 / 0)
    assert [entry["step"] for entry in read_log(early)] == [4]
    with pytest.raises(training.RunError, match="Occupied folder"):
        run(8, folder=early)
    # What a kill in the middle of the first checkpoint leaves.
    (early / "checkpoints" / f"8.{TEMPORARY}-1").mkdir()
    again, once = run(8, folder=early, options=RESUME), run(8, folder=whole)
    assert steps_of(again) == [4, 8] and [e["step"] for e in read_log(early)] == [4, 8]
    for one, other in zip(jax.tree.leaves(again.state), jax.tree.leaves(once.state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xff\xfe\n", "an entry after step 4 in line 2"),
        (b"[" * 100_000 + b"\n", "line 2"),
        (b"[1]\n", "line 2"),
        (b'{"loss": 1.0}\n', "line 2"),
        (b'{"step": "6"}\n', "line 2"),
        (b'{"step": true}\n', "line 2"),
        (b'{"step": 4}\n', "an entry after step 4 in line 2"),
        (b"\0\0\0\n", "line 2"),
    ],
)
def test_a_damaged_log_says_which_lines_are_whole(tmp_path, line, message):
    first, second = b'{"step": 4, "loss": 1.0}\n', b'{"step": 8, "loss": 1.0}\n'
    path = tmp_path / "log.jsonl"
    path.write_bytes(first + line + second)
    with pytest.raises(training.LogError, match=f"Damaged log: expected .*{message} of ") as caught:
        read_log(str(tmp_path))
    assert str(caught.value).endswith("Line 1 can be used: cut the file behind it.")
    assert len(str(caught.value)) < 300
    path.write_bytes(line + first)
    if line != b'{"step": 4}\n':
        with pytest.raises(
            training.LogError, match="in line 1 of .* No line before it can be used"
        ):
            read_log(tmp_path)
    # A power failure fills the end of a file with zeros, a kill cuts it off.
    for end in (b"\0" * 30, b'{"step": 12', "{\u20ac".encode()[:-1]):
        path.write_bytes(first + second + end)
        assert [entry["step"] for entry in read_log(tmp_path)] == [4, 8]


def test_a_damaged_log_is_not_overwritten_by_a_resumed_run(tmp_path):
    run(8, folder=tmp_path)
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\xff" + path.read_bytes())
    before = files(tmp_path)
    with pytest.raises(training.LogError, match="Damaged log"):
        run(12, folder=tmp_path, options=RESUME)
    assert files(tmp_path) == before


@pytest.mark.parametrize("left", [slow("nothing"), "first", slow("changed")])
def test_a_log_that_lacks_entries_of_the_checkpoint_is_told(tmp_path, left):
    whole = run(8, folder=tmp_path)
    path = tmp_path / "log.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    if left == "nothing":
        path.unlink()
    elif left == "first":
        path.write_bytes(first)
    else:
        path.write_bytes(first + json.dumps(whole.log[1] | {"loss": 0.0}).encode() + b"\n")
    got = {"nothing": "got 0 of them", "first": "got 1 of them", "changed": "got others"}[left]
    with pytest.warns(IncompleteRunWarning, match=f"expected the 2 entries .*, {got}") as told:
        fitted = run(12, folder=tmp_path, options=RESUME)
    assert len(told) == 1
    assert steps_of(fitted) == {"nothing": [12], "first": [4, 12], "changed": [4, 8, 12]}[left]


@pytest.mark.parametrize("damage", [slow("gone"), slow("cut"), "flipped", slow("no archive")])
def test_a_record_that_is_not_whole_is_told(tmp_path, damage):
    words = {"folder": tmp_path, "watches": [Watch("w", 4, lambda p: {"w": np.arange(100)})]}
    run(8, **words)
    path = tmp_path / "w" / "000000004.npz"
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-30])
    elif damage == "flipped":
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    else:
        path.write_bytes(b"")
    with pytest.warns(IncompleteRunWarning, match="whole ones of 3 steps in .*w, got none of 4"):
        run(12, options=RESUME, **words)
    # It is told once: the next checkpoint names what there was.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(16, options=RESUME, **words)


def test_more_watches_or_fewer_are_no_loss(tmp_path):
    first, second = (Watch(name, 4, lambda p: {"w": np.arange(3)}) for name in ("a", "b"))
    run(4, folder=tmp_path, watches=[first])
    run(8, folder=tmp_path, watches=[first, second], options=RESUME)
    run(12, folder=tmp_path, watches=[second], options=RESUME)
    found = {name: len(list((tmp_path / name).iterdir())) for name in ("a", "b")}
    assert found == {"a": 3, "b": 2}


def test_a_checkpoint_that_fit_has_not_written_is_refused(tmp_path):
    run(4, folder=tmp_path)
    settings = json.loads((tmp_path / "checkpoints/4/about/metadata").read_text())["settings"]
    checkpoints = training.Checkpoints(tmp_path / "checkpoints", settings)
    state = run(4).state
    checkpoints.save(6, state, more={"mine": 1})
    checkpoints.close()
    with pytest.raises(
        training.CheckpointError, match="one that fit has written in .*6, got another"
    ):
        run(8, folder=tmp_path, options=RESUME)


def test_a_resumed_run_reads_the_log_and_parses_its_end_alone(tmp_path, monkeypatch):
    whole = run(8, folder=tmp_path)
    monkeypatch.setattr("lstm_jax.training.log.read_log", lambda folder: pytest.fail("parsed"))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 12, "loss": 1.0}\n{"step": 1')
    again = run(12, folder=tmp_path, options=RESUME)
    # It has all entries for whoever asks.
    assert steps_of(again) == [4, 8, 12] and list(again.log[:2]) == list(whole.log)
    assert len(again.log) == 3 and again.log[-1]["step"] == 12
    monkeypatch.undo()
    assert read_log(tmp_path) == list(again.log)


def test_the_log_as_a_table(tmp_path):
    run(8, folder=tmp_path, seed=(0, 1), evaluate=lambda params: {"error": params["w"][:, 0]})
    log = run(8, folder=tmp_path, seed=(0, 1), options=RESUME).log
    log.to_csv(tmp_path / "log.csv")
    with (tmp_path / "log.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["step"] for row in table] == ["0", "4", "8"]
    assert [float(row["loss.1"] or "nan") for row in table[1:]] == [e["loss"][1] for e in log[1:]]
    errors = [row["error.0"] for row in table]
    assert errors[1] == "" and [float(errors[n]) for n in (0, 2)] == [
        log[n]["error"][0] for n in (0, 2)
    ]


def test_numbers_that_are_not_finite_come_back_from_the_file(tmp_path):
    log = Log(tmp_path)
    log.write({"step": 1, "loss": [1.0, float("nan")], "error": float("-inf")})
    log.close()
    (entry,) = read_log(tmp_path)
    assert np.isnan(entry["loss"][1]) and entry["error"] == -np.inf
    again = Log(tmp_path, upto=1, known=log.extent)
    assert again.extent == log.extent and again.entries[-1]["error"] == -np.inf
    again.close()


def test_each_checkpoint_holds_the_state_of_its_step(tmp_path):
    """It is written while the next steps take the memory of the state."""
    seen = {}

    def callback(step, entry, state):
        seen[step] = np.array(state.params["w"])

    options = RunOptions(log_every=1, checkpoint_every=1, keep=30, progress=False)
    run(30, folder=tmp_path, callback=callback, options=options)
    for step in range(1, 31):
        np.testing.assert_array_equal(training.load(tmp_path, step).params["w"], seen[step])


@pytest.mark.parametrize("last", [False, slow(True)])
def test_a_checkpoint_that_fails_in_the_background_is_told(tmp_path, monkeypatch, last, capfd):
    """By the next one, or at the end."""
    write = ocp.CheckpointManager.wait_until_finished
    step, failed = 8 if last else 4, []

    def failing(manager):
        write(manager)
        if not failed and (tmp_path / "checkpoints" / str(step)).exists():
            failed.append(step)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", failing)
    told = f"write step {step} into .*checkpoints, got: No space left on device"
    with pytest.raises(training.CheckpointError, match=told):
        run(8, folder=tmp_path, options=RunOptions(log_every=4, checkpoint_every=4, progress=False))
    assert capfd.readouterr() == ("", "")
