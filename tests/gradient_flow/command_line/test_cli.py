"""The command line: a small comparison from end to end, the gradient check, and wrong input."""

import contextlib
import importlib.util
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest

import lstm_jax
from gradient_flow.command_line import cli, comparison, memory
from gradient_flow.command_line.comparison import networks, shared_cell, summarise
from gradient_flow.command_line.report_command import page_of_run
from gradient_flow.measurements.curve_summary import lag_grid
from gradient_flow.pictures import comparison_figures

pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL = ["compare", "--lengths", "12", "5", "--hidden-size", "4", "--samples", "2"]


def run_small(out, *words, only=("rnn", "lstm_1"), maps=("rnn",)):
    """A comparison of some of the networks: its exit code, standard output and standard error."""

    def some(*sizes):
        return {name: net for name, net in networks(*sizes).items() if name in only}

    printed, said = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "networks", some)
        patch.setattr(comparison, "MAP_NETWORKS", maps)
        kinds = {net.cell.kind for net in some(5, 4, 12).values()}
        patch.setattr(cli, "KINDS", [kind for kind in cli.KINDS if kind in kinds])
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            code = cli.main([*SMALL, *words, "--out", str(out)])
    return code, printed.getvalue(), said.getvalue()


class Run(NamedTuple):
    folder: Path
    printed: str
    said: str


def written(folder):
    path = folder / "text"
    path.write_text("so it goes, and so it goes again. " * 60)
    return ["--text", str(path)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two of the six networks and one map, to compile less; `test_all_six_networks` has everything."""
    out = tmp_path_factory.mktemp("run")
    code, *words = run_small(out / "run", "--train-steps", "12", *written(out))
    assert code == 0
    return Run(out / "run", *words)


@pytest.fixture(scope="module")
def finished(run):
    return run.folder


def test_a_run_leaves_everything_and_nothing_half(finished):
    assert {path.name for path in finished.iterdir()} == {
        "results.json",
        "environment.json",
        "arrays.npz",
        "tables.txt",
        *(
            f"{name}.{ending}"
            for name in ("norm_against_lag", "pair_maps", "inside_lstm", "gates")
            for ending in ("png", "svg")
        ),
        *(["report.html"] if importlib.util.find_spec("plotly") else []),
    }


def test_a_run_has_a_page_or_a_sentence_says_how_to_get_one(run, tmp_path, capsys, monkeypatch):
    told = run.printed.splitlines()[-1]
    if importlib.util.find_spec("plotly"):
        assert told == f"page:     {run.folder / 'report.html'}"
        assert "LSTM, forget bias 1" in (run.folder / "report.html").read_text("utf-8")
        out = tmp_path / "page.html"
        assert cli.main(["report", str(run.folder), "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"page:     {out}\n"
        assert out.read_bytes() == (run.folder / "report.html").read_bytes()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert "pip install 'lstm-jax[report]'" in page_of_run(run.folder, tmp_path)
    assert cli.main(["report", str(run.folder), "--out", str(tmp_path / "none.html")]) == 2
    assert capsys.readouterr().err.endswith("Do pip install 'lstm-jax[report]'.\n")
    assert cli.main(["report", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("error: Missing folder: expected that of a run")


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
    assert list(results["networks"]) == ["rnn", "lstm_1"]
    assert set(results["bits_per_character"]) == set(results["networks"])
    for bits in results["bits_per_character"].values():
        assert list(bits) == ["first", "last", "held_out"]
        # Eleven different characters: at most log2 11 to begin with, and something is learned.
        assert 0 < bits["last"] < bits["first"] < 3.6 and 0 < bits["held_out"] < bits["first"]
    assert len(results["gate_text"]) == 12


def test_the_table_is_printed_as_it_comes(run):
    """A line of its own on the standard error for each part, where that is no terminal."""
    labels = ["RNN, uniform", "LSTM, forget bias 1"]
    measured = [f"measuring {label}" for label in labels]
    expected = [*measured, "training 1 RNN", measured[0], "training 1 LSTM", measured[1]]
    lines = run.said.splitlines()
    assert [line.rsplit(": ", 1)[0] for line in lines] == expected
    assert all(re.fullmatch(r"\d+\.\d s", line.rsplit(": ", 1)[1]) for line in lines)
    results = json.loads((run.folder / "results.json").read_text())
    assert comparison.LEGEND in run.printed
    assert "Plain float32 autodiff of the untrained networks" in run.printed
    for stage, title in (("untrained", "before training"), ("trained", "after 12 training steps")):
        assert title in run.printed
        for name, label in results["networks"].items():
            bits = results["bits_per_character"][name] if stage == "trained" else None
            rows = [
                row | {"horizon": float(row["horizon"])} for row in results["table"][stage][name]
            ]
            assert "\n".join(comparison.lines(label, rows, labels, bits)) in run.printed


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


@pytest.mark.slow
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
def test_noise_is_measured_and_not_trained_on(tmp_path):
    code, printed, said = run_small(tmp_path, "--input", "noise")
    assert code == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["stages"] == ["untrained"] and results["bits_per_character"] == {}
    assert "bits/char" not in printed and "training 1" not in said


@pytest.mark.slow
def test_all_six_networks(tmp_path):
    words = ["--train-steps", "2", *written(tmp_path)]
    maps = comparison.MAP_NETWORKS
    code, printed, said = run_small(tmp_path / "run", *words, only=networks(5, 4, 12), maps=maps)
    assert code == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["networks"]) == set(networks(5, 4, 12)) == set(results["table"]["trained"])
    assert set(results["bits_per_character"]) == set(results["networks"])
    with np.load(tmp_path / "run" / "arrays.npz") as arrays:
        of_maps = {name.split("/")[1] for name in arrays if name.endswith("map.hh")}
    assert of_maps == {"rnn", "lstm_1"}
    for number, kind in ((2, "RNN"), (3, "LSTM"), (1, "GRU")):
        assert f"training {number} {kind}: " in said
    assert all(label in printed for label in results["networks"].values())


@pytest.mark.slow
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


def test_a_text_that_is_too_short(capsys, tmp_path):
    (tmp_path / "text").write_text("so it goes. " * 20)
    assert cli.main([*SMALL, "--text", str(tmp_path / "text"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "characters for --lengths 12 5 and 800 training steps, got 240 in text" in error
    assert not (tmp_path / "out").exists()


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
    assert len(nets) == 6
    assert len({shared_cell(net.cell) for net in nets.values()}) == 3
    for net in nets.values():
        shared = shared_cell(net.cell)
        assert shared.kind == net.cell.kind
        assert (shared.input_size, shared.hidden_size) == (5, 4)


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


def change(name, **entries):
    """Damage: other entries in a JSON file."""

    def damage(folder):
        found = json.loads((folder / name).read_text())
        for key, value in entries.items():
            found.pop(key) if value is None else found.__setitem__(key, value)
        (folder / name).write_text(json.dumps(found))

    return damage


def rewrite(name, content):
    """Damage: another content of a file; a folder if None."""

    def damage(folder):
        path = folder / name
        before = path.read_bytes()
        path.unlink()
        path.mkdir() if content is None else path.write_bytes(
            content(before) if callable(content) else content
        )

    return damage


def arrays_with(changed):
    """Damage: other arrays."""

    def damage(folder):
        with np.load(folder / "arrays.npz") as file:
            arrays = changed(dict(file))
        np.savez(folder / "arrays.npz", **arrays)

    return damage


HH = "trained/rnn/curve.hh"


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "results.json").unlink(), "got no results.json"),
        (lambda folder: (folder / "arrays.npz").unlink(), "got no arrays.npz"),
        (rewrite("results.json", lambda text: text[:100]), "expected JSON in .*results.json"),
        (rewrite("results.json", b"nonsense"), "expected JSON in .*results.json"),
        (rewrite("results.json", b"\xff{}"), "bytes that are no text"),
        (rewrite("results.json", b"[" * 100_000), "lists within lists"),
        (rewrite("results.json", b"[]"), "got a list"),
        (rewrite("results.json", None), "got Is a directory"),
        (rewrite("arrays.npz", lambda content: content[:-40]), "no whole archive"),
        (rewrite("arrays.npz", None), "got Is a directory"),
        (arrays_with(lambda a: {**a, HH: np.array([{}], object)}), "Python objects"),
        (arrays_with(lambda a: {n: v for n, v in a.items() if n != HH}), f"an array {HH}"),
        (arrays_with(lambda a: {**a, HH: a[HH][..., :-1]}), rf"numbers \[…, 2, \d+\] in {HH}"),
        (arrays_with(lambda a: {**a, HH: a[HH].ravel()}), rf"numbers .* in {HH}"),
        (arrays_with(lambda a: {**a, HH: a[HH].astype(str)}), rf"numbers .* in {HH}.*got str"),
        (arrays_with(lambda a: {n: v for n, v in a.items() if "map" not in n}), "map.hh"),
        (change("results.json", lags=None), "lags of a comparison .*got no lags"),
        (change("results.json", lags=["a"]), "lags as whole numbers"),
        (change("results.json", stages=7), "stages of a comparison .*got a int"),
        (change("results.json", stages=["later"]), "stages among"),
        (change("results.json", config={}), "config of a comparison"),
        (change("results.json", config={"lengths": 3}), "config.lengths as whole numbers"),
        (change("results.json", inside="cnn"), "the inside of one of its networks"),
        (change("results.json", networks={"cnn": "CNN"}), "networks among"),
    ],
)
def test_a_damaged_folder_is_told_in_one_sentence(finished, tmp_path, capsys, damage, told):
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("*.png", "*.svg"))
    damage(folder)
    before = sorted(path.name for path in folder.iterdir())
    assert cli.main(["draw", str(folder)]) == 2
    printed, said = capsys.readouterr()
    assert printed == "" and said.count("\n") == 1 and said.startswith("error: ")
    assert re.search(told, said), said
    assert "allow_pickle" not in said and str(folder) in said
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.fixture
def measured(finished, monkeypatch):
    """Noise, measured without any work: the numbers of the finished run; gives the list of what was asked."""
    with np.load(finished / "arrays.npz") as file:
        arrays = dict(file)
    asked = []

    def measure(name, *others, **more):
        asked.append(name)
        start = f"trained/{name}/"
        return {key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)}

    monkeypatch.setattr(comparison, "measure", measure)
    return asked


def test_a_run_stopped_while_it_draws_has_all_its_numbers(finished, tmp_path, capsys, measured):
    def stopped(folder, *others):
        assert (tmp_path / "results.json").exists() and (tmp_path / "tables.txt").exists()
        assert not (tmp_path / "gates.png").exists()
        (folder / "norm_against_lag.png").write_text("drawn")
        raise KeyboardInterrupt

    (tmp_path / "gates.png").write_text("of an earlier run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison_figures, "draw_all", stopped)
        code, printed, said = run_small(tmp_path, "--input", "noise", "--overwrite")
    assert code == 130
    last = said.splitlines()[-1]
    assert last == f"interrupted: all numbers are kept, gradient-flow draw {tmp_path} draws them"
    assert "Traceback" not in said and "numbers:" in printed
    table = (tmp_path / "tables.txt").read_text()
    assert table in printed and "LSTM, forget bias 1" in table
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison_figures, "draw_all", lambda *all: drawn.append(all) or [])
        assert cli.main(["draw", str(tmp_path)]) == 0
    assert len(drawn) == 1 and drawn[0][1]["stages"] == ["untrained"]


@pytest.mark.parametrize(
    ("stop", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted: the numbers so far are in {}"),
        (BrokenPipeError(), 141, ""),
        (comparison.ConfigError("no."), 2, "error: no."),
    ],
)
def test_a_run_stopped_while_it_measures_keeps_what_it_has(
    tmp_path, monkeypatch, measured, stop, code, said
):
    measure = comparison.measure

    def once(name, *others, **more):
        if measured:
            raise stop
        return measure(name, *others, **more)

    monkeypatch.setattr(comparison, "measure", once)
    ended, printed, told = run_small(tmp_path, "--input", "noise")
    assert ended == code and "Traceback" not in told
    lines = [line for line in told.splitlines() if not line.startswith("measuring")]
    assert lines == ([said.format(tmp_path)] if said else [])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"arrays.npz", "tables.txt", "environment.json"}
    assert list(np.load(tmp_path / "arrays.npz"))[0].startswith("untrained/rnn/")
    # Beside the results of an earlier run it keeps them apart.
    (tmp_path / "results.json").write_text("{}")
    measured.clear()
    run_small(tmp_path, "--input", "noise", "--overwrite")
    assert (tmp_path / "results.json").read_text() == "{}"
    assert (tmp_path / ".unfinished" / "arrays.npz").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "--hiddn-size", "3"], "got --hiddn-size. Did you mean --hidden-size?"),
        (["compare", "--smaples=3"], "got --smaples. Did you mean --samples?"),
        (["compare", "--seed", "1", "--colour"], "got --colour. --help lists them."),
        (["comapre"], "Unknown command: expected a known one, got comapre. Did you mean compare?"),
        (["--seed", "1", "compare"], ", report before the options, got --seed"),
        (["compare", "--out", ""], "Empty path: expected one after --out, got an empty text"),
        (["compare", "--out="], "Empty path: expected one after --out, got an empty text"),
        (["draw", ""], "Empty path: expected one, got an empty text"),
    ],
)
def test_a_word_that_does_not_parse_is_named(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error and error.count("\n") == 1


def test_underscores_are_hyphens_and_versions_are_told(capsys):
    assert cli.main(["check", "--hidden_size", "0"]) == 2
    assert "--hidden-size" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == (
        f"gradient-flow {lstm_jax.__version__}\n{lstm_jax.show_backends()}\n"
    )


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("compare --hidden-size 100000", "--lengths, --samples and --hidden-size"),
        ("compare --samples 1000000000", "--lengths, --samples and --hidden-size"),
        ("check --hidden-size 1000000", "--length, --batch-size, --input-size and --hidden-size"),
        ("check --length 1000000000", "--length, --batch-size, --input-size and --hidden-size"),
    ],
)
def test_sizes_beyond_the_memory_are_refused_with_both_numbers(
    words, options, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available_bytes", lambda: 8 * 2**30)
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"expected {options} that need at most 8.0 GiB of memory, got some that need " in error
    assert float(re.search(r"need ([\d,.]+) GiB", error.split("got")[1])[1].replace(",", "")) > 8
    assert list(tmp_path.iterdir()) == []


def test_the_sizes_of_the_demo_fit_and_memory_is_read(monkeypatch, tmp_path):
    assert comparison.bytes_needed(comparison.Compare(), 100) < 2**30
    assert memory.available_bytes() > 2**20
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   2048 kB\n")
    (tmp_path / "limit").write_text("max\n")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUPS", (tmp_path / "limit", tmp_path / "none"))
    assert memory.available_bytes() == 2 * 2**20
    (tmp_path / "limit").write_text("1000\n")
    assert memory.available_bytes() == 1000
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    memory.require_memory("--size", 10**18)


def test_the_command_and_the_module_are_one():
    from gradient_flow.__main__ import command

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gradient-flow", "--version"])
        with pytest.raises(SystemExit) as stop:
            command()
    assert stop.value.code == 0
