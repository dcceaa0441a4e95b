"""Checkpoints that are damaged, or of another run: refused, and nothing is changed."""

import json
import logging
import sys

import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from comparison import slow
from training.problems import leaves, line, run

from lstm_jax import training
from lstm_jax.training import RunOptions, read_log
from lstm_jax.training.orbax_noise import without_noise
from lstm_jax.training.system_errors import reason


def settings_of(step):
    """What a checkpoint says of its run."""
    about = json.loads((step / "about" / "metadata").read_text())
    return about["settings"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        slow(flip),
        slow(lambda path: path.write_bytes(path.read_bytes()[: -1 - path.stat().st_size // 2])),
        slow(lambda path: path.unlink()),
    ],
    ids=["flipped", "cut", "gone"],
)
def test_a_damaged_checkpoint_is_refused_or_harmless_and_nothing_is_overwritten(
    tmp_path, capfd, damage
):
    words = {"folder": tmp_path, "settings": {"rate": 0.1}}
    fitted = run(6, **words)
    step = tmp_path / "checkpoints" / "6"
    settings = settings_of(step)
    files = sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size > 1)
    assert len(files) > 4
    refused = 0
    for path in files:
        whole = path.read_bytes()
        damage(path)
        before = {p: p.read_bytes() for p in step.rglob("*") if p.is_file()}
        checkpoints = None
        try:
            checkpoints = training.Checkpoints(tmp_path / "checkpoints", settings)
            found = checkpoints.restore(fitted.state).state
        except training.CheckpointError as error:
            refused += 1
            assert "Damaged checkpoint" in str(error) and "\n" not in str(error)
        else:
            for came, wanted in zip(leaves(found), leaves(fitted.state), strict=True):
                np.testing.assert_array_equal(came, wanted)
        finally:
            if checkpoints is not None:
                checkpoints.close()
        assert {p: p.read_bytes() for p in step.rglob("*") if p.is_file()} == before
        path.write_bytes(whole)
    assert refused >= 2
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_of_other_settings_or_shapes_is_refused_by_name(tmp_path):
    run(6, folder=tmp_path, settings={"rate": 0.1, "net": {"size": 3}})
    resume = RunOptions(resume=True)
    for settings, message in (
        ({"rate": 0.2, "net": {"size": 3}}, r"expected rate 0\.1, as in .*6, got 0\.2"),
        ({"rate": 0.1, "net": {"size": 4}}, r"expected net\.size 3, as in .*6, got 4"),
        ({"net": {"size": 3}}, r"expected rate 0\.1, as in .*6, got None"),
    ):
        with pytest.raises(training.CheckpointError, match=message):
            run(9, folder=tmp_path, settings=settings, options=resume)
    with pytest.raises(training.CheckpointError, match=r"expected seed \[0\]"):
        run(9, folder=tmp_path, settings={"rate": 0.1, "net": {"size": 3}}, options=resume, seed=1)
    other = line._replace(init=lambda key: {"w": jnp.zeros(1)})
    with pytest.raises(
        training.CheckpointError, match=r"expected params\.w 'float32\[3\]', as in .*'float32\[1\]'"
    ):
        run(9, other, folder=tmp_path, options=resume,
            settings={"rate": 0.1, "net": {"size": 3}})  # fmt: skip
    assert [entry["step"] for entry in read_log(tmp_path)] == [4, 6]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("0.1", "0.2"),
        lambda text: text.replace('"seconds": ', '"seconds": 9'),
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: text[:50],
        lambda text: "\udcff",
    ],
    ids=["setting", "progress", "null", "deep", "cut", "bytes"],
)
def test_what_a_checkpoint_says_of_itself_has_a_checksum(finished, change):
    path = finished / "checkpoints" / "6" / "about" / "metadata"
    whole = path.read_bytes()
    path.write_text(change(whole.decode()), encoding="utf-8", errors="surrogateescape")
    assert path.read_bytes() != whole
    checkpoints = training.Checkpoints(finished / "checkpoints", SETTINGS)
    with pytest.raises(training.CheckpointError) as caught:
        checkpoints.restore(None)
    checkpoints.close()
    path.write_bytes(whole)
    sentence = str(caught.value)
    assert sentence.startswith("Damaged checkpoint: expected a whole one in ")
    assert "about/metadata" in sentence and len(sentence) < 400
    assert sentence.endswith("Move it away to go on from step 3.")


SETTINGS = {"rate": 0.1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of six steps, which the tests leave as it is."""
    folder = tmp_path_factory.mktemp("finished")
    run(6, folder=folder, settings=SETTINGS, options=RunOptions(log_every=3, checkpoint_every=3))
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("12", "of step 12 in .*, got that of step 6"),
        ("6 old", "named by their steps in .*, got '6 old'"),
    ],
)
def test_a_renamed_checkpoint_is_noticed(finished, name, message):
    folder = finished / "checkpoints"
    (folder / "6").rename(folder / name)
    try:
        with pytest.raises(training.CheckpointError, match=f"Renamed checkpoint: .*{message}"):
            run(20, folder=finished, settings=SETTINGS, options=RunOptions(resume=True))
    finally:
        (folder / name).rename(folder / "6")
    assert [entry["step"] for entry in read_log(finished)] == [3, 6]


def test_a_step_without_a_checkpoint_is_named_beside_those_that_have_one(finished):
    checkpoints = training.Checkpoints(str(finished / "checkpoints"), SETTINGS)
    with pytest.raises(training.CheckpointError, match="expected that of step 5 in .*, got 3, 6"):
        checkpoints.restore(None, 5)
    checkpoints.close()


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (optax.sgd(0.1), optax.adam(0.1), "EmptyState, EmptyState, got one with ScaleByAdamState"),
        # The same arrays in other places.
        (optax.adam(0.1), optax.adamw(0.1), "ScaleByAdamState, EmptyState, got one with ScaleByA"),
        (optax.adam(0.1), optax.adam(0.1, mu_dtype="bfloat16"), "optimizer.0.mu.w 'float32"),
    ],
    ids=["other", "same-arrays", "dtype"],
)
def test_another_optimizer_is_called_another_optimizer(tmp_path, first, second, told):
    run(2, optimizer=first, folder=tmp_path)
    with pytest.raises(training.CheckpointError, match="Optimizer mismatch: ") as caught:
        run(4, optimizer=second, folder=tmp_path, options=RunOptions(resume=True))
    assert told in str(caught.value) and "Damaged" not in str(caught.value)


@pytest.mark.parametrize("wrapped", ["message", "cause", "context"])
def test_the_reason_of_an_error_is_never_cut_off(wrapped):
    disk = OSError(28, "No space left on device")
    long = ValueError(f"Error writing {'a/long/path/' * 40}\nof a driver: [OS error 28: {disk}]")
    if wrapped != "message":
        long = ValueError("Something\nelse")
        setattr(long, f"__{wrapped}__", disk)
    assert reason(long) == "No space left on device"
    assert reason(ValueError("a " * 300 + "\nend.")) == "a " * 300 + "end"
    assert reason(KeyError()) == "KeyError"


def test_only_the_noise_of_orbax_is_silent(caplog):
    heard = []
    before, sys.unraisablehook = sys.unraisablehook, lambda report: heard.append(report.exc_value)
    try:
        ours = sys.unraisablehook
        with pytest.raises(ValueError), without_noise():
            for error in (RuntimeError("Event loop is closed"), RuntimeError("of the user")):
                sys.unraisablehook(type("Report", (), {"exc_value": error, "object": None})())
            absl = logging.getLogger("absl")
            for words in ({"msg": "of orbax", "pathname": ocp.__file__}, {"msg": "of the user"}):
                absl.handle(logging.makeLogRecord({"name": "absl", "levelno": 40, **words}))
            logging.getLogger("mine").error("of the user")
            raise ValueError
        assert sys.unraisablehook is ours
    finally:
        sys.unraisablehook = before
    assert [str(error) for error in heard] == ["of the user"]
    assert [record.name for record in caplog.records] == ["absl", "mine"]
    assert {record.msg for record in caplog.records} == {"of the user"}
    absl.handle(logging.makeLogRecord({"name": "absl", "levelno": 40, "pathname": ocp.__file__}))
    assert len(caplog.records) == 3
