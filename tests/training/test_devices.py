"""Data parallel on four simulated devices and in two processes, against one device."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.training import load, read_log, start_processes

SCRIPT = Path(__file__).with_name("a_run.py")


def start(devices=1, **words):
    flags = os.environ.get("XLA_FLAGS", "")
    environment = os.environ | {
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps(words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ended(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def same_curves(log, expected):
    assert [entry["step"] for entry in log] == [entry["step"] for entry in expected]
    for name in ("loss", "gradient_norm", "worst"):
        np.testing.assert_allclose(
            [entry[name] for entry in log], [entry[name] for entry in expected], rtol=1e-5
        )


@pytest.fixture(scope="module")
def one_device():
    return ended(start(steps=40))


@pytest.mark.slow
def test_four_devices_give_the_curve_of_one(one_device):
    four = ended(start(4, steps=40, mesh=True))
    assert four["devices"] == 4
    # What is carried stays where its samples are.
    assert "('data',)" in four["placed"]["carry"]
    same_curves(four["log"], one_device["log"])


@pytest.mark.slow
def test_units_over_four_devices_and_samples_over_two_give_the_curve_of_one(one_device, tmp_path):
    """Parameters and Adam's moments are split; a run goes on where they are split otherwise, or not."""
    folder = str(tmp_path / "run")
    split = ended(start(8, steps=20, model=4, folder=folder))
    for name in ("params", "optimizer"):
        # Weights and biases of the cells; the readout and counts are on every device.
        assert split["placed"][name] == ["('model',)", "()", "(None, 'model')"]
    assert "('data',)" in split["placed"]["carry"]
    ended(start(8, steps=30, model=2, folder=folder, resume=True))
    ended(start(1, steps=40, folder=folder, resume=True))
    same_curves(read_log(folder), one_device["log"])


@pytest.mark.slow
def test_a_sweep_spread_over_devices_is_the_sweep_on_one():
    seeds = [0, 1, 2, 5]
    four = ended(start(4, steps=10, mesh=True, seed=seeds))
    same_curves(four["log"], ended(start(steps=10, seed=seeds))["log"])
    assert np.shape(four["log"][0]["loss"]) == (4,)


def both(folder, processes=2, devices=2, **words):
    """The same run in two processes, or more, of two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    words |= {"mesh": True, "coordinator": coordinator, "processes": processes}
    apart = words.pop("apart", False)
    folders = [str(folder / str(n)) if apart else str(folder) for n in range(processes)]
    return [start(devices, **words, process=n, folder=folders[n]) for n in range(processes)]


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one_and_go_on_to_it(one_device, tmp_path):
    for process in both(tmp_path, steps=20):
        ended(process)
    first, second = map(ended, both(tmp_path, steps=40, resume=True))
    assert first["devices"] == second["devices"] == 4
    same_curves(first["log"], one_device["log"])
    assert second["log"] == first["log"]
    # One of them writes.
    assert [entry["step"] for entry in read_log(tmp_path)] == list(range(5, 41, 5))


@pytest.mark.slow
def test_four_processes_two_of_them_and_one_make_one_run(one_device, tmp_path):
    """It goes on with another number of processes, its units split over two devices."""
    for processes, steps in ((4, 15), (2, 25)):
        for process in both(tmp_path, processes, steps=steps, model=2, resume=steps > 15):
            ended(process)
    ended(start(1, steps=40, folder=str(tmp_path), resume=True))
    same_curves(read_log(tmp_path), one_device["log"])


@pytest.mark.slow
def test_a_stream_is_read_by_each_process_in_part_and_goes_on_in_another_number_of_them(tmp_path):
    one = ended(start(steps=30, stream=True))
    for process in both(tmp_path, steps=10, stream=True):
        ended(process)
    first, second = map(ended, both(tmp_path, steps=20, stream=True, resume=True))
    assert first["log"] == second["log"]
    alone = ended(start(4, steps=30, stream=True, resume=True, mesh=True, folder=str(tmp_path)))
    same_curves(alone["log"], one["log"])


@pytest.mark.slow
def test_a_stream_that_breaks_in_one_process_ends_both_with_the_last_checkpoint_whole(tmp_path):
    running = both(tmp_path, steps=10**6, stream=True, broken=1)
    said = [process.communicate(timeout=100)[1] for process in running]
    assert all(process.returncode for process in running)
    assert "the disk of this process is gone" in said[0] and "the disk of this process" in said[1]
    for process in both(tmp_path, steps=12, stream=True, resume=True):
        assert [entry["step"] for entry in ended(process)["log"]] == [5, 10, 12]


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both(tmp_path):
    running = both(tmp_path, steps=10**6, checkpoint_every=10**6)
    begun = time.monotonic()
    while not (tmp_path / "log.jsonl").exists() or not read_log(tmp_path):
        assert time.monotonic() - begun < 200 and running[1].poll() is None
        time.sleep(0.1)
    running[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=100)[1] for process in running]
    assert [process.returncode for process in running] == [1, 1]
    assert "stopped by another process" in said[0] and "stopped by SIGTERM" in said[1]
    assert any(path.name.isdigit() for path in (tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("where", [0, 1])
def test_the_first_process_decides_and_its_numbers_count(tmp_path, where):
    """Both measure something else, and one of them says that the run has come to its end."""
    words = {"evaluate": True, "wrong": "until", "where": where, "checkpoint_every": 5}
    first, second = map(ended, both(tmp_path, steps=20, **words))
    assert first["ended"] == second["ended"] == ("steps" if where else "until")
    assert first["log"] == second["log"] and first["log"][-1]["step"] == (20 if where else 10)
    assert {entry["error"] for entry in second["log"]} == {1.0}


@pytest.mark.slow
@pytest.mark.parametrize("together", [False, True])
def test_an_error_in_one_process_is_a_sentence_in_all(tmp_path, together):
    """Also where the others are in the middle of a computation that waits for it."""
    words = {"evaluate": True, "wrong": "evaluate", "where": 1, "checkpoint_every": 5}
    running = both(tmp_path, steps=10**6, together=together, **words)
    said = [process.communicate(timeout=100)[1] for process in running]
    assert [process.returncode for process in running] == [1, 1]
    assert "ValueError: of the user" in said[1]
    told = "ProcessError: Failed process: expected all to go on, got an error in process 1: Value"
    assert told in said[0]
    held = [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert [path.name for path in held] == ["5"]


@pytest.mark.slow
def test_folders_that_are_not_shared_are_noticed(tmp_path):
    begun = time.monotonic()
    running = both(tmp_path, steps=20, apart=True)
    said = [process.communicate(timeout=100)[1] for process in running]
    assert [process.returncode for process in running] == [1, 1]
    assert all("Folder mismatch: expected one that all processes see" in one for one in said)
    assert time.monotonic() - begun < 60


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_within_the_heartbeat(tmp_path):
    running = both(tmp_path, steps=10**6, checkpoint_every=5)
    while not any(path.name.isdigit() for path in (tmp_path / "checkpoints").glob("*")):
        assert running[1].poll() is None
        time.sleep(0.1)
    running[1].kill()
    begun = time.monotonic()
    running[0].communicate(timeout=100)
    assert running[0].returncode != 0 and time.monotonic() - begun < 30
    running[1].communicate()
    # What was kept is whole: the run goes on from it, in one process.
    step = load(tmp_path).step
    end = ended(start(4, steps=step + 5, mesh=True, folder=str(tmp_path), resume=True))
    assert end["log"][-1]["step"] == step + 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("host:1", None, None), "coordinator, processes and process together"),
        (("host", 2, 0), "coordinator as host:port, got 'host'"),
        (("host:1", 0, 0), "processes"),
        (("host:1", 2, 2), "process as a whole number from 0 to 1, got 2"),
    ],
)
def test_processes_that_cannot_be_joined_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        start_processes(*words)
