"""The command line: one tiny run from end to end, and what it refuses."""

import json

import pytest
from benchmarks import __main__ as command


def test_end_to_end(tmp_path, capsys):
    out = tmp_path / "run"
    words = "unroll --quick --cell lstm --shape 3,2,2,2 --pass gradient --rounds 2 --threads 1"
    chosen = ["--competitor", "plain scan", "--out", str(out)]
    assert command.main([*words.split(), *chosen]) == 0
    printed = capsys.readouterr().out
    assert "| LSTM 3,2,2,2 gradient |" in printed
    found = json.loads((out / "results.json").read_text())
    (case,) = found["parts"]["unroll"]
    assert found["finished"] and list(case["entries"]) == ["lstm_jax", "plain scan"]
    for entry in case["entries"].values():
        assert entry["status"] == "ok" and len(entry["rounds"]) == 2
        assert all(second > 0 for turn in entry["rounds"] for second in turn)
        assert entry["compile_s"] > 0 and entry["peak_mb"] > 0
    assert json.loads((out / "environment.json").read_text())["threads"] == 1
    assert (out / "tables.md").read_text().strip() in printed
    assert command.main(["report", str(out)]) == 0
    assert capsys.readouterr().out.strip() in printed
    assert command.main([*words.split(), *chosen]) == 2
    assert "Occupied folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["unroll", "--shape", "1,2,3"], "expected --shape as four positive whole numbers"),
        (["unroll", "--competitor", "keras"], "expected --competitor from"),
        (["--rounds", "0"], "expected --rounds of at least 1"),
        (["memory", "--seconds", "-1"], "expected --seconds of at least 0"),
        (["memory", "--limit", "nan"], "expected --limit of at least 0"),
        (["jacobians", "--threads", "100000"], "expected --threads from 1 to"),
        (["report", "/nowhere"], "No benchmark: expected results.json"),
    ],
)
def test_refusals(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["unroll", "--cell", "qrnn"], ["sprint"], ["unroll", "--pass", "x"]]
)
def test_options_that_do_not_parse(words, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_every_part_has_its_cases():
    parts = [job.part for job in command.jobs(command.All())]
    assert {part: parts.count(part) for part in parts} == {
        "matmul": 1,
        "unroll": 20,
        "jacobians": 4,
        "memory": 1,
    }
