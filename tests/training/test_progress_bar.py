"""What is shown of a run: a bar in a terminal or a notebook, some lines elsewhere."""

import struct

import jax.numpy as jnp
import pytest
from training.problems import run

from lstm_jax.training import RunOptions
from lstm_jax.training.progress_bar import ProgressBar


def test_where_no_terminal_is_a_line_for_each_tenth(capfd):
    measured = {"evaluate": lambda params: {"error": jnp.float32(0.25)}, "evaluate_every": 2}
    run(40, options=RunOptions(log_every=2), **measured)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == "" and [line.split(":")[0] for line in lines] == [
        f"step {step} of 40" for step in range(4, 41, 4)
    ]
    assert "loss " in lines[0] and "error 0.25" in lines[0] and "steps/s" in lines[0]
    run(4, options=RunOptions(progress=False))
    assert capfd.readouterr() == ("", "")


def test_a_resumed_run_shows_what_is_left(capfd, tmp_path):
    run(20, folder=tmp_path, options=RunOptions(log_every=10, progress=False))
    run(40, folder=tmp_path, options=RunOptions(log_every=10, resume=True))
    shown = [line.split(":")[0] for line in capfd.readouterr().err.splitlines()]
    assert shown == ["step 30 of 40", "step 40 of 40"]


@pytest.mark.parametrize("where", ["terminal", "notebook"])
def test_a_terminal_and_a_notebook_have_a_bar(monkeypatch, capsys, where):
    made = []

    class Bar:
        disable, n = False, 3

        def __init__(self, **words):
            made.append(words)

        def update(self, steps):
            made.append(steps)

        def set_postfix_str(self, text):
            made.append(text)

        def close(self):
            made.append("closed")

    if where == "notebook":
        Bar.__module__ = "tqdm.notebook"
    monkeypatch.setattr("lstm_jax.training.progress_bar.tqdm", Bar)
    with ProgressBar(10, 3, True) as bar:
        bar.advance(5)
        bar.show(5, "loss 1")
    # In a terminal, tqdm looks itself whether there is one.
    assert made[0]["disable"] is (None if where == "terminal" else False)
    assert made[1:] == [2, "loss 1", "closed"] and capsys.readouterr().err == ""
    ProgressBar(10, 3, False)
    assert made[-1]["disable"] is True


def test_events_have_the_numbers_of_each_run_of_a_sweep(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    options = RunOptions(log_every=4, tensorboard=True, progress=False)
    fitted = run(4, seed=(3, 5), folder=tmp_path, options=options)
    found = {}
    for path in (tmp_path / "tensorboard").iterdir():
        content, at = path.read_bytes(), 0
        while at < len(content):
            (size,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
            found |= {value.tag: value.simple_value for value in event.summary.value}
            at += 16 + size
    for n, seed in enumerate((3, 5)):
        (tag,) = (tag for tag in found if tag.startswith("loss/") and str(seed) in tag)
        assert found[tag] == pytest.approx(fitted.log[-1]["loss"][n], rel=1e-6)
