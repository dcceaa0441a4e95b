"""The classroom LSTM: its numbers to the last digit, the soft cell, the wrong orders, the command line."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from experiments.gate_walkthrough import run as walkthrough
from experiments.gate_walkthrough.carried import READ, carried, signals
from experiments.gate_walkthrough.cells import WEIGHTS
from experiments.gate_walkthrough.plot import redraw
from experiments.running import Mismatch

CHECKOUT = Path(__file__).resolve().parents[2]

MEMORY_BEFORE = [0, 0, 3, 3, 7, 7, 7, 0, 6]
OUTPUT = [0, 0, 0, 0, 0, 7, 0, 0, 6]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one whole run through the command line, without PyTorch."""
    out = tmp_path_factory.mktemp("walkthrough") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walkthrough, "torch_if_installed", lambda: None)
        assert walkthrough.main(["--out", str(out)]) == 0
    return out


def test_step_gates_give_the_classroom_numbers_exactly(x64):
    trace = walkthrough.hard_trace("ifgo")
    assert trace.before.tolist() == MEMORY_BEFORE
    assert trace.h.tolist() == OUTPUT
    assert trace.i.tolist() == [0, 1, 0, 1, 0, 0, 0, 1, 0]
    assert trace.f.tolist() == [1, 1, 1, 1, 1, 1, 0, 1, 1]
    assert trace.o.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 1]


def test_another_number_than_the_classrooms_is_refused(x64):
    trace = walkthrough.hard_trace("ifgo")
    with pytest.raises(Mismatch, match="Classroom mismatch: expected the output"):
        walkthrough.require_classroom(trace._replace(h=trace.h + 1e-15))


def test_the_soft_cell_by_hand_formulas(x64):
    c, expected = 0.0, []
    for x in walkthrough.INPUTS:
        z = {name: float(np.dot(x, w)) for name, w in WEIGHTS.items()}
        i, f, o = (1 / (1 + np.exp(-z[name])) for name in "ifo")
        c = f * c + i * np.tanh(z["g"])
        expected.append(o * np.tanh(c))
    hs, _ = walkthrough.soft_unrolled("ifgo")
    np.testing.assert_allclose(hs, expected, rtol=1e-12)
    np.testing.assert_allclose(walkthrough.soft_trace("ifgo").h, expected, rtol=1e-12)


@pytest.mark.parametrize("order", ["ifog", "iofg", "igfo", "figo"])
def test_a_wrong_order_runs_and_gives_other_numbers(x64, order):
    assert walkthrough.hard_trace(order).h.tolist() != OUTPUT
    hs, _ = walkthrough.soft_unrolled(order)
    right, _ = walkthrough.soft_unrolled("ifgo")
    assert np.isfinite(hs).all()
    assert np.max(np.abs(hs - right)) > 0.1


def test_rounding_hides_that_input_and_forget_gates_have_changed_places(x64):
    right, _ = walkthrough.soft_unrolled("ifgo")
    swapped, _ = walkthrough.soft_unrolled("figo")
    assert [f"{right[5]:.3f}", f"{swapped[5]:.3f}"] == ["0.964", "0.642"]
    np.testing.assert_array_equal(np.round(swapped), np.round(right))


def test_gates_carry_the_first_signal_to_the_outputs_that_are_read(x64):
    found = carried()
    expected = np.zeros((7, 7))
    expected[[t - 1 for t in READ], 0] = 1
    np.testing.assert_array_equal(found["hard"].outputs, expected)
    np.testing.assert_array_equal(found["hard"].memory, [1, 0, 0, 0, 0, 0, 0])
    # The soft cell, by central differences of its own outputs.
    xs, cell = np.asarray(signals()), walkthrough.lstm_jax.lstm(4, 1)
    for k, eps in ((0, 1e-6), (3, 1e-3)):
        sides = []
        for sign in (1, -1):
            moved = xs.copy()
            moved[k, 0] += sign * eps
            xs_moved = jax.numpy.asarray(moved)
            sides.append(
                walkthrough.lstm_jax.unroll(cell, walkthrough.stacked("ifgo"), xs_moved)[1]
            )
        slope = (np.asarray(sides[0]) - np.asarray(sides[1]))[:, 0] / (2 * eps)
        np.testing.assert_allclose(found["soft"].outputs[:, k], slope, rtol=1e-4, atol=1e-11)


@pytest.mark.slow
@pytest.mark.peer
def test_equals_pytorch(x64):
    torch = pytest.importorskip("torch")
    found = walkthrough.torch_differences(torch, walkthrough.soft_trace("ifgo"))
    assert len(found) == 4
    assert max(found.values()) <= 1e-12


def test_a_run_writes_everything(finished):
    assert {path.name for path in finished.iterdir()} == {
        "arrays.npz",
        "carried.png",
        "environment.json",
        "gates.png",
        "gates.svg",
        "results.json",
        "tables.txt",
    }
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert results["classroom"]["memory_before"] == MEMORY_BEFORE
    assert results["classroom"]["output"] == OUTPUT
    assert results["pytorch_compared"] is False
    tables = (finished / "tables.txt").read_text(encoding="utf-8")
    assert tables.count("PyTorch is not installed") == 1


def test_what_is_kept_names_no_place(finished):
    import platform

    for name in ("environment.json", "results.json", "tables.txt", "gates.svg"):
        text = (finished / name).read_text(encoding="utf-8")
        assert str(CHECKOUT) not in text
        assert str(finished) not in text
        assert not platform.node() or platform.node() not in text
    environment = json.loads((finished / "environment.json").read_text(encoding="utf-8"))
    assert environment["packages"]["jax"] == jax.__version__
    assert {"python", "system", "packages", "devices"} <= environment.keys()


@pytest.mark.slow
def test_plotting_reads_what_is_kept_and_draws_the_same(finished, tmp_path):
    (tmp_path / "arrays.npz").write_bytes((finished / "arrays.npz").read_bytes())
    redraw(tmp_path)
    assert (tmp_path / "gates.svg").read_bytes() == (finished / "gates.svg").read_bytes()


def test_a_finished_run_is_not_overwritten_unasked(finished, capsys):
    before = (finished / "results.json").read_bytes()
    assert walkthrough.main(["--out", str(finished)]) == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error and error.count("\n") == 1
    assert (finished / "results.json").read_bytes() == before


@pytest.mark.slow
def test_overwriting_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(walkthrough, "torch_if_installed", lambda: None)
    (tmp_path / "results.json").write_text("old", encoding="utf-8")
    assert walkthrough.main(["--out", str(tmp_path), "--overwrite"]) == 0
    assert "old" not in (tmp_path / "results.json").read_text(encoding="utf-8")


def test_a_failed_run_leaves_the_finished_one_as_it_was(tmp_path, monkeypatch, capsys):
    def fails():
        raise Mismatch("h: expected 7, got 8.")

    monkeypatch.setattr(walkthrough, "compute", fails)
    (tmp_path / "results.json").write_text("old", encoding="utf-8")
    assert walkthrough.main(["--out", str(tmp_path), "--overwrite"]) == 1
    assert capsys.readouterr().err == "error: h: expected 7, got 8.\n"
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == "old"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    assert walkthrough.main(["--out", str(tmp_path / "taken")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("args", [["--ouf", "x"], ["--out"], ["--overwrite", "maybe"]])
def test_a_wrong_option_is_refused(args, capsys):
    with pytest.raises(SystemExit) as stop:
        walkthrough.main(args)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
