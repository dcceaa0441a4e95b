"""The published example of RNN back-propagation digit by digit, PyTorch's nn.RNN, the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from experiments.rnn_by_hand import published
from experiments.rnn_by_hand import run as by_hand
from experiments.running import Mismatch

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one whole run through the command line, without PyTorch."""
    out = tmp_path_factory.mktemp("rnn_by_hand") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_hand, "torch_if_installed", lambda: None)
        assert by_hand.main(["--out", str(out)]) == 0
    return out


def test_every_published_digit(x64):
    forward = by_hand.forward_pairs()
    cell, listed, sequence = by_hand.published_pairs()
    for pair in (*forward, *cell, *sequence):
        assert pair.same, pair
        assert pair.by_hand == pytest.approx(pair.autodiff, rel=1e-12, abs=1e-14)
    assert len(forward) == 12 and len(cell) == 5 and len(sequence) == 8
    # With the bias that its own listing draws, the example's printed gradients do not come out.
    assert not any(pair.same for pair in listed)


def test_the_published_digits_are_those_of_the_page(published_values):
    flat = {}
    for entry, printed in (
        ("dlai_rnn_cell_backward", published.CELL_BACKWARD),
        ("dlai_rnn_backward", published.BACKWARD),
    ):
        for name, value in published_values[entry]["expected"].items():
            for n, number in enumerate(value if isinstance(value, list) else [value]):
                flat[entry, name, n] = float(number)
        ours = [float(item.text) for item in printed]
        theirs = [value for (where, _, _), value in flat.items() if where == entry]
        assert ours == theirs


def test_by_numpy_loops(x64):
    """The side-by-side's gradients by hand, against the recursion written out in NumPy."""
    arrays = by_hand.random_arrays(5)
    hand = by_hand.our_sides(arrays)["by hand"]
    h, hs = np.zeros((3, 5)), [np.zeros((3, 5))]
    for x in arrays["x"]:
        h = np.tanh(x @ arrays["w_ih"].T + h @ arrays["w_hh"].T + arrays["b_ih"] + arrays["b_hh"])
        hs.append(h)
    d_h, d_w_hh, d_b = np.zeros((3, 5)), np.zeros((5, 5)), np.zeros(5)
    for t in reversed(range(3)):
        d_z = (d_h + arrays["d_h"][t]) * (1 - hs[t + 1] ** 2)
        d_w_hh += d_z.T @ hs[t]
        d_b += d_z.sum(0)
        d_h = d_z @ arrays["w_hh"]
    np.testing.assert_allclose(hand["h"], hs[1:], rtol=1e-12)
    np.testing.assert_allclose(hand["dW_hh"], d_w_hh, rtol=1e-12)
    np.testing.assert_allclose(hand["db_ih"], d_b, rtol=1e-12)


@pytest.mark.peer
def test_equals_pytorch(x64):
    torch = pytest.importorskip("torch")
    arrays = by_hand.random_arrays(1)
    sides = {**by_hand.our_sides(arrays), "PyTorch": by_hand.torch_side(torch, arrays)}
    found = by_hand.differences(sides)
    assert {name for name, side in found if side == "PyTorch"} == {
        "h",
        "dx",
        "dW_ih",
        "dW_hh",
        "db_ih",
        "db_hh",
    }
    assert max(found.values()) <= 1e-12


def test_a_run_writes_everything(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {"arrays.npz", "environment.json", "results.json", "tables.txt"}
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert all(pair["same"] for pair in results["published_forward"])
    assert all(pair["same"] for pair in results["published_cell_backward"])
    assert all(pair["same"] for pair in results["published_backward"])
    assert max(item["difference"] for item in results["max_differences"]) <= 1e-12
    assert results["pytorch_compared"] is False
    tables = (finished / "tables.txt").read_text(encoding="utf-8")
    assert tables.count("PyTorch is not installed") == 1
    with np.load(finished / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["by_hand_h"].shape == (3, 3, 5)


def test_a_digit_missed_is_refused(x64):
    cell, listed, sequence = by_hand.published_pairs()
    wrong = by_hand.WorkedExample(
        by_hand.forward_pairs(),
        listed,
        listed,
        sequence,
        by_hand.our_sides(by_hand.random_arrays(0)),
    )
    with pytest.raises(Mismatch, match=r"dxt\[1\]\[2\]: expected the published -0\.4605"):
        by_hand.require_agreement(wrong)
    by_hand.require_agreement(wrong._replace(cell=cell))


def test_a_finished_run_is_not_overwritten_unasked(finished, capsys):
    assert by_hand.main(["--out", str(finished)]) == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error and error.count("\n") == 1


@pytest.mark.parametrize("args", [["--sede", "1"], ["--seed", "one"]])
def test_a_wrong_option_is_refused(args, capsys):
    with pytest.raises(SystemExit) as stop:
        by_hand.main(args)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_negative_seed_is_refused(tmp_path, capsys):
    assert by_hand.main(["--out", str(tmp_path / "out"), "--seed", "-1"]) == 2
    assert "expected --seed from 0 to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_documented_command(finished):
    """`python -m experiments.rnn_by_hand` from the checkout, as a process of its own."""
    paths = [str(CHECKOUT / "src"), str(CHECKOUT / "analysis"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.rnn_by_hand", "--out", str(finished)],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
