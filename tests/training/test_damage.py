"""Checkpoints that are damaged, or of another run: refused, and nothing is changed."""

import gc
import json

import jax.numpy as jnp
import numpy as np
import pytest
from comparison import slow
from training.problems import leaves, line, run

from lstm_jax import training
from lstm_jax.training import RunOptions, read_log

# What orbax leaves behind where a read fails, said when it is collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
    """Collect what a test leaves behind while the filter of this module holds."""
    yield
    gc.collect()


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
        flip,
        slow(lambda path: path.write_bytes(path.read_bytes()[: -1 - path.stat().st_size // 2])),
        slow(lambda path: path.unlink()),
    ],
    ids=["flipped", "cut", "gone"],
)
def test_a_damaged_checkpoint_is_refused_or_harmless_and_nothing_is_overwritten(tmp_path, damage):
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
        checkpoints = training.Checkpoints(tmp_path / "checkpoints", settings)
        before = {p: p.read_bytes() for p in step.rglob("*") if p.is_file()}
        try:
            found = checkpoints.restore(fitted.state).state
        except training.CheckpointError as error:
            refused += 1
            assert "checkpoint: expected" in str(error) and "\n" not in str(error)
        else:
            for came, wanted in zip(leaves(found), leaves(fitted.state), strict=True):
                np.testing.assert_array_equal(came, wanted)
        finally:
            checkpoints.close()
        assert {p: p.read_bytes() for p in step.rglob("*") if p.is_file()} == before
        path.write_bytes(whole)
    assert refused >= 2


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
