"""The command line: a small comparison from end to end, the gradient check, and wrong input."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from gradient_flow.command_line import cli
from gradient_flow.command_line.comparison import networks, summarise
from gradient_flow.measurements.curve_summary import lag_grid
from gradient_flow.pictures import comparison_figures

pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL = ["compare", "--lengths", "12", "5", "--hidden-size", "4", "--samples", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    (out / "text").write_text("so it goes, and so it goes again. " * 20)
    code = cli.main(
        [*SMALL, "--train-steps", "12", "--text", str(out / "text"), "--out", str(out / "run")]
    )
    assert code == 0
    return out / "run"


def test_a_run_leaves_everything_and_nothing_half(finished):
    assert {path.name for path in finished.iterdir()} == {
        "results.json",
        "environment.json",
        "arrays.npz",
        *(
            f"{name}.{ending}"
            for name in ("norm_against_lag", "pair_maps", "inside_lstm", "gates")
            for ending in ("png", "svg")
        ),
    }


def test_the_results_say_what_was_measured(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["config"]["lengths"] == [12, 5]
    assert results["stages"] == ["untrained", "trained"]
    for stage in results["stages"]:
        for name in results["networks"]:
            rows = results["table"][stage][name]
            assert [row["length"] for row in rows] == [5, 12]
            assert all(np.isfinite(row["log10_hh"]) for row in rows)
            assert (rows[0]["log10_cc"] is not None) == name.startswith("lstm")
    assert set(results["bits_per_character"]) == set(results["networks"])
    assert len(results["gate_text"]) == 12


def test_the_table_agrees_with_the_arrays(finished):
    results = json.loads((finished / "results.json").read_text())
    with np.load(finished / "arrays.npz") as arrays:
        curve = arrays["trained/lstm_1/curve.hh"]
        plain = arrays["untrained/rnn/autodiff"]
        exact = arrays["untrained/rnn/curve.hh"][:, -1]
    lags = results["lags"]
    row = results["table"]["trained"]["lstm_1"][1]
    expected = np.median(curve[:, 1, lags.index(12)]) / np.log(10)
    assert row["log10_hh"] == pytest.approx(expected)
    # Nothing underflows in 12 steps, so plain autodiff and the exact curve are the same.
    np.testing.assert_allclose(np.log(plain[:, lags]), exact, rtol=1e-3, atol=1e-4)


def test_drawing_again_gives_the_same_picture(finished):
    before = (finished / "norm_against_lag.svg").read_bytes()
    assert cli.main(["draw", str(finished)]) == 0
    assert (finished / "norm_against_lag.svg").read_bytes() == before


def test_a_finished_run_is_not_overwritten_unasked(finished, capsys):
    before = (finished / "results.json").read_bytes()
    assert cli.main([*SMALL, "--out", str(finished)]) == 2
    error = capsys.readouterr().err
    assert "--overwrite" in error
    assert error.count("\n") == 1
    assert (finished / "results.json").read_bytes() == before


@pytest.mark.slow
def test_noise_is_measured_and_not_trained_on(tmp_path, capsys):
    assert cli.main([*SMALL, "--input", "noise", "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["stages"] == ["untrained"]
    assert "Bits per character" not in capsys.readouterr().out


def test_the_gradient_check_prints_a_table_for_each_cell(capsys):
    assert cli.main(["check", "--length", "4", "--hidden-size", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("gradients agree") == 3
    assert "params.b_hn" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lengths", "0"], "expected --lengths of at least 1 step, got [0]"),
        (["--lengths", "7", "-2"], "expected --lengths of at least 1 step, got [7, -2]"),
        (["--lengths", "99999999"], "expected --lengths of at most 20000 steps, got 99999999"),
        (["--hidden-size", "0"], "expected --hidden-size of at least 1, got 0"),
        (["--samples", "-1"], "expected --samples of at least 1, got -1"),
        (["--train-steps", "-1"], "expected --train-steps from 0 on, got -1"),
        (["--seed", "-1"], "expected --seed from 0 to"),
        (["--learning-rate", "nan"], "expected a positive --learning-rate, got nan"),
        (["--text", "/no/such/file"], "expected a text file, got /no/such/file"),
        (["--input", "noise", "--train-steps", "3"], "with --input noise, got --train-steps"),
        (["--input", "noise", "--text", "x"], "with --input noise, got --text"),
    ],
)
def test_wrong_settings(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "--lengths", "x"],
        ["compare", "--bogus"],
        ["compare", "--input", "foo"],
        ["draw"],
        [],
    ],
)
def test_words_that_do_not_parse(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_folder_without_a_run_cannot_be_drawn(tmp_path, capsys):
    assert cli.main(["draw", str(tmp_path)]) == 2
    assert "No finished run" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--length", "--batch-size", "--input-size", "--hidden-size"])
def test_wrong_sizes_for_the_check(option, capsys):
    assert cli.main(["check", option, "0"]) == 2
    assert f"expected {option} to be a positive integer, got 0" in capsys.readouterr().err


def test_networks_of_a_kind_share_what_is_compiled():
    nets = networks(5, 4, 100)
    assert len({id(net.measured) for net in nets.values()}) == 3
    assert len(nets) == 6


@pytest.mark.parametrize("lengths", [(1,), (2, 2), (7,), (1000, 50)])
def test_the_lag_grid_has_every_length_and_the_short_lags(lengths):
    lags = lag_grid(lengths)
    assert lags == sorted(set(lags))
    assert set(lengths) | set(range(min(11, max(lengths) + 1))) <= set(lags)
    assert max(lags) == max(lengths)


def test_the_summary_of_a_known_decay():
    lags = np.asarray(lag_grid((40,)))
    curve = np.broadcast_to(lags * np.log(0.5), (3, 1, len(lags)))
    plain = np.where(np.arange(41) < 30, 0.5 ** np.arange(41), 0.0)
    (row,) = summarise((40,), {"curve.hh": curve, "autodiff": np.broadcast_to(plain, (3, 41))})
    assert row["log10_hh"] == pytest.approx(40 * np.log10(0.5))
    assert row["log10_cc"] is None
    assert row["decades_per_100"] == pytest.approx(-100 * np.log10(0.5))
    assert row["horizon"] == pytest.approx(np.log(1e-3) / np.log(0.5), rel=1e-6)
    assert row["autodiff_zero_from"] == 30


def test_the_picture_ends_where_the_table_does():
    """Of an even number of samples the median is no sample."""
    lags = np.asarray(lag_grid((40,)))
    rates = np.log([0.3, 0.5, 0.6, 0.9])
    curve = lags * rates[:, None, None]
    plain = np.exp(np.arange(41) * rates[:, None])
    plain[:2, 30:] = 0.0  # in half of them
    arrays = {"untrained/rnn/curve.hh": curve, "untrained/rnn/autodiff": plain}
    (row,) = summarise((40,), {"curve.hh": curve, "autodiff": plain})
    figure = comparison_figures.norm_against_lag(
        {
            "lags": lags,
            "config": {"lengths": [40]},
            "stages": ["untrained"],
            "networks": {"rnn": "RNN"},
        },
        arrays,
    )
    (drawn,) = (line for line in figure.axes[0].get_lines() if line.get_label() == "RNN")
    dotted = next(line for line in figure.axes[0].get_lines() if line.get_linestyle() == ":")
    plt.close(figure)
    assert drawn.get_ydata()[-1] == pytest.approx(row["log10_hh"])
    assert row["log10_hh"] == pytest.approx(40 * np.log10(0.5 * 0.6) / 2)
    assert row["autodiff_zero_from"] == 30
    assert dotted.get_xdata()[-1] == 29
    np.testing.assert_allclose(dotted.get_ydata(), np.arange(30) * np.log10(0.5 * 0.6) / 2)
