"""Workers that fail are named and the rest go on; none outlives its race."""

import os
import sys
from pathlib import Path

import pytest
from benchmarks.interleaved_timing import Pace, race
from benchmarks.process import Entrant, WorkerLost, started

PACE = Pace(rounds=3, seconds=0.0, limit=60.0, turn_ms=1.0, patience=60.0, threads=1, seed=0)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def entrant(name):
    # In a turn of a contestant whose calls say 0.25 s there is one call; before it, one to warm up.
    return Entrant(name, "dying", {"calls": 2})


def test_failures_are_named_and_the_rest_go_on():
    names = [
        "sound",
        "missing",
        "refusing",
        "killed in compiling",
        "killed in a turn",
        "raising",
    ]
    found = race([entrant(name) for name in names], PACE)
    assert {name: entry["status"] for name, entry in found.items()} == {
        "sound": "ok",
        "missing": "not installed (nowhere)",
        "refusing": "has no such cell",
        "killed in compiling": "died: SIGKILL",
        "killed in a turn": "died: SIGKILL",
        "raising": "failed: ValueError: two lines",
    }
    assert found["sound"]["rounds"] == [[0.25]] * 3
    assert found["sound"]["peak_mb"] > 0
    assert [len(found[name]["rounds"]) for name in names[1:]] == [0, 0, 0, 1, 1]


def test_limit_ends_a_race():
    pace = Pace(50, 0.0, 0.0, 1.0, 60.0, 1, 0)
    assert race([entrant("sound")], pace)["sound"]["rounds"] == [[0.25]]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_no_worker_is_left_behind():
    pids = []
    with pytest.raises(KeyboardInterrupt), started([entrant("sound")] * 2, 1, 1.0) as workers:
        pids = [worker.pid for worker in workers]
        raise KeyboardInterrupt
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_silence_is_not_waited_out():
    with started([entrant("sound")], 1, 1.0) as (worker,):
        worker.hear(60.0)
        with pytest.raises(WorkerLost, match="no answer within 0 s"):
            worker.hear(0.05)
    assert os.getpid() != worker.pid
