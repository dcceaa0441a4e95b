"""Runs that are killed at random moments, and runs whose disk is full."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.training import read_log

SCRIPT = Path(__file__).with_name("a_run.py")


def start(**words):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def records(folder):
    found = {}
    for path in sorted((folder / "norms").glob("*.npz")):
        with np.load(path) as file:
            found[path.name] = float(file["norm"])
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_numbers(tmp_path):
    whole = ended(start(steps=60, folder=str(tmp_path / "whole")))

    folder, chance, kills = tmp_path / "killed", random.Random(0), 0
    words = {"steps": 60, "folder": str(folder), "resume": True, "pause": 0.05}
    for _ in range(30):
        process = start(**words)
        # A random while after the run has gone on, so that most kills fall into checkpoints and records.
        before = set((folder / "checkpoints").glob("*"))
        begun, delay = time.monotonic(), chance.uniform(0, 0.4)
        while process.poll() is None and time.monotonic() - begun < 120:
            # By name: of a run that has as many as it keeps, the number stays.
            if set((folder / "checkpoints").glob("*")) - before or kills >= 4:
                break
            time.sleep(0.005)
        if kills >= 4:
            last = ended(process)
            break
        time.sleep(delay)
        if process.poll() is not None:
            last = ended(process)
            break
        process.kill()
        process.communicate()
        kills += 1
    assert kills >= 2
    assert last["digest"] == whole["digest"]
    assert last["log"] == whole["log"]
    assert [e["step"] for e in read_log(folder)] == [
        e["step"] for e in read_log(tmp_path / "whole")
    ]
    assert records(folder) == records(tmp_path / "whole")
    assert not list(folder.rglob("*tmp*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits on file sizes")
def test_a_full_disk_is_one_sentence_and_leaves_the_last_checkpoint_whole(tmp_path):
    words = {"steps": 12, "folder": str(tmp_path), "checkpoint_every": 3, "log_every": 3}
    # By then the first checkpoint, which is written while training goes on, is whole.
    process = start(**words, full_at=9)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    sentence = err.strip().splitlines()[-1]
    assert sentence.startswith(("CheckpointError: Unwritten", "LogError: Unwritten")), err
    assert "Traceback" not in err
    # It goes on from before the disk was full, to the numbers of a run that never saw one.
    resumed = ended(start(**words, resume=True))
    assert resumed["digest"] == ended(start(steps=12, log_every=3))["digest"]
