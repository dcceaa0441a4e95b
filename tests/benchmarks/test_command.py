"""The command line: one tiny run from end to end, and what it refuses."""

import json

import pytest
from benchmarks import __main__ as command
from benchmarks import device_and_precision


@pytest.mark.slow
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
        (["unroll", "--precision", "tf32"], "expected --device gpu for --precision tf32, got cpu"),
        (["latency", "--device", "gpu"], "expected --device cpu for this part, got gpu"),
        (["report", "/nowhere"], "No benchmark: expected results.json"),
        (["roofline", "/nowhere"], "No benchmark: expected results.json"),
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
        "bandwidth": 2,
        "unroll": 20,
        "training": 2,
        "latency": 6,
        "jacobians": 4,
        "memory": 1,
    }


def test_on_a_gpu(monkeypatch, tmp_path, capsys):
    """Its cases, competitors and settings; and the refusal where there is none."""
    words = "unroll --device gpu --precision float32 tf32 float16".split()
    monkeypatch.setattr(device_and_precision, "CONTROL", tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    assert command.main(words) == 2
    assert "expected an NVIDIA device for --device gpu" in capsys.readouterr().err
    monkeypatch.setattr(device_and_precision, "CONTROL", tmp_path)
    config = command.Unroll(device="gpu", precision=("float32", "tf32", "float16"), cell="lstm")
    jobs = command.jobs(config)
    products, unrolls = jobs[:3], jobs[3:]
    assert [job.case["precision"] for job in products] == ["float32", "tf32", "float16"]
    assert len(unrolls) == 3 * 2 * 8
    assert unrolls[-1].title == "LSTM 512,64,512,512 gradient, float16"
    names = [entrant.name for entrant in unrolls[-1].entrants]
    assert names[:3] == ["lstm_jax", "lstm_jax, cudnn", "plain scan"]
    assert {e.device for job in jobs for e in job.entrants} == {"gpu"}
    settings = {e.precision: device_and_precision.jax_settings(e.device, e.precision) for e in
                (job.entrants[0] for job in jobs)}  # fmt: skip
    assert {s["JAX_PLATFORMS"] for s in settings.values()} == {"cuda"}
    products = {name: s["JAX_DEFAULT_MATMUL_PRECISION"] for name, s in settings.items()}
    assert products == {"float32": "float32", "tf32": "tensorfloat32", "float16": "float32"}
    on_cpu = device_and_precision.jax_settings("cpu", "bfloat16")
    assert on_cpu["JAX_PLATFORMS"] == "cpu" and "JAX_DEFAULT_MATMUL_PRECISION" not in on_cpu


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", "{"),
        ("results.json", "[]"),
        ("results.json", "{}"),
        ("results.json", '{"parts": []}'),
        ("results.json", '{"parts": {"unroll": [7]}}'),
        ("environment.json", "null"),
        ("environment.json", None),
    ],
)
def test_a_damaged_report_is_one_sentence(tmp_path, capsys, name, content):
    for path in ("results.json", "environment.json"):
        (tmp_path / path).write_text('{"parts": {"unroll": []}}')
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    assert command.main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and name in error or str(tmp_path) in error
    assert error.count("\n") == 1


def test_an_interrupted_run_keeps_its_cases(tmp_path, capsys, monkeypatch):
    def stop(*others):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "race", stop)
    out = tmp_path / "run"
    words = "unroll --quick --cell lstm --shape 3,2,2,2 --competitor".split()
    assert command.main([*words, "plain scan", "--out", str(out)]) == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == f"interrupted: the results so far are in {out}"
    assert list(out.iterdir()) == []
