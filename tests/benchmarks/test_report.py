"""Tables from canned results."""

import pytest
from benchmarks import report, results

from gradient_flow.results_folder import OutputError

ENVIRONMENT = {
    "date": "2026-01-02T03:04:05+00:00",
    "processor": "Abacus",
    "cores": 4,
    "cores_allowed": 2,
    "memory_gib": 8.0,
    "threads": 2,
    "system": "Linux",
    "python": "3.11.7",
    "load_at_start": 0.0,
    "packages": {"jax": "0.10.1", "torch": "not installed"},
}


def entry(*rounds, status="ok", base_mb=100.0):
    timed = {"compile_s": 0.5, "first_s": 0.25, "base_mb": base_mb, "peak_mb": 164.0}
    return {
        "status": status,
        "rounds": [list(turn) for turn in rounds],
        **(timed if rounds else {}),
    }


def unroll(title, kind, **entries):
    case = {"cell": title.split()[0].lower(), "pass_": kind}
    names = {
        name.replace("_", " ") if name != "lstm_jax" else name: e for name, e in entries.items()
    }
    return {"title": title, "ours": "lstm_jax", "case": case, "flops": 2e6, "entries": names}


RESULTS = {
    "settings": {"quick": False},
    "finished": False,
    "parts": {
        "matmul": [{"flops": 8e9, "entries": {"XLA": entry([0.1]), "PyTorch": entry([0.08])}}],
        "unroll": [
            unroll(
                "LSTM one",
                "gradient",
                lstm_jax=entry([0.001], [0.002], base_mb=None),
                haiku=entry([0.002], [0.003]),
                equinox=entry([0.0012], [0.0024], status="died: SIGKILL"),
                pytorch=entry(status="not installed (torch)"),
            ),
            unroll("RNN two", "forward", lstm_jax=entry([0.001]), haiku=entry([0.004])),
            unroll("LSTM three", "gradient", lstm_jax=entry([0.005]), haiku=entry([0.012])),
        ],
        "memory": [
            {
                "title": "long",
                "ours": "lstm_jax",
                "case": {},
                "flops": None,
                "entries": {"lstm_jax": entry([2.0]), "segments": entry(status="not available: x")},
            }
        ],
    },
}


def rows(text, title):
    """The rows of the table under a heading that begins so."""
    lines = text.split(f"# {title}", 1)[1].split("\n\n")[1].splitlines()
    return {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("|")}


def test_tables():
    text = report.render(RESULTS, ENVIRONMENT)
    over = rows(text, "Time over")
    assert over["cell T,B,D,H pass"] == "| cell T,B,D,H pass | haiku | equinox | pytorch |"
    assert over["LSTM one"] == (
        "| LSTM one | 1.75 (1.62–1.88) | 1.20 (1.20–1.20) | not installed |"
    )
    assert over["RNN two"] == "| RNN two | 4.00 (4.00–4.00) | – | – |"
    means = rows(text, "Geometric mean")
    assert means["cell pass"].startswith("| cell pass | cases | fastest in JAX | haiku | equinox |")
    lstm = "| LSTM gradient | 2 | **1.70** (1.20) | 2.05 (1.75) | 1.20 (1.20) | – | 0.50 |"
    assert means["LSTM gradient"] == lstm
    assert (
        means["RNN forward"] == "| RNN forward | 1 | **4.00** (4.00) | 4.00 (4.00) | – | – | 0.50 |"
    )
    assert rows(text, "Milliseconds")["LSTM one"].startswith("| LSTM one | 1.5 / 1 | 2.5 / 2 |")
    # 2 MFLOP in 1.5 ms, of 8 GFLOP in 80 ms.
    assert rows(text, "GFLOP/s")["LSTM one"].startswith("| LSTM one | 1.3, 1% | 0.8, 1% |")
    assert rows(text, "Seconds to")["RNN two"].startswith("| RNN two | 0.50 / 0.250 |")
    assert rows(text, "Peak")["LSTM one"].startswith("| LSTM one | 164 | 164 / 64 |")
    assert "- equinox: died: SIGKILL — 1 of 3 cases" in text
    assert "Best matrix product: 100 GFLOP/s" in text
    assert "Not finished" in text and "quick run" not in text
    assert rows(text, "long")["lstm_jax"] == "| lstm_jax | 1 | 2 | 2 | 0.5 | 164 / 64 | 1 |"
    assert rows(text, "long")["segments"].startswith("| segments | not available: x | – |")
    # Ratios come first.
    assert text.index("Time over") < text.index("Milliseconds") < text.index("GFLOP/s in the")


def test_without_ours_there_is_no_ratio():
    broken = unroll("LSTM one", "forward", lstm_jax=entry(status="failed: x"), haiku=entry([1.0]))
    text = report.render({"parts": {"unroll": [broken]}, "finished": True}, ENVIRONMENT)
    assert rows(text, "Time over")["LSTM one"] == "| LSTM one | – |"
    assert "lstm_jax: failed: x" in text and "Not finished" not in text


def test_files_there_and_back(tmp_path):
    folder = results.claim(tmp_path / "run")
    results.write(folder, RESULTS, ENVIRONMENT, "tables")
    assert results.read(folder) == (RESULTS, ENVIRONMENT)
    assert report.render(*results.read(folder)) == report.render(RESULTS, ENVIRONMENT)
    with pytest.raises(OutputError, match="Occupied folder"):
        results.claim(folder)
    with pytest.raises(OutputError, match="No benchmark"):
        results.read(tmp_path)


def test_next_free_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = results.claim(None), results.claim(None)
    assert first != second and second.name == f"{first.name}-2" and first.parent.name == "runs"


def test_latency_and_bandwidth():
    shape = {"time": 1, "batch": 1, "input_size": 32, "hidden_size": 64}
    entries = {"lstm_jax": entry([2e-6]), "haiku": entry([5e-6]), "pytorch": entry([1e-6])}
    case = {"title": "one step", "ours": "lstm_jax", "case": {"shape": shape}, "entries": entries}
    speed = {"case": {"level": "main memory", "bytes": 12.0}, "entries": {"XLA": entry([6e-10])}}
    parts = {"latency": [case], "bandwidth": [speed]}
    text = report.render({"parts": parts, "finished": True}, ENVIRONMENT)
    assert "Bandwidth: 20 GB/s in main memory." in text
    assert rows(text, "Time over")["one step"] == (
        "| one step | **2.50** | 2.50 (2.50–2.50) | 0.50 (0.50–0.50) |"
    )
    assert rows(text, "Microseconds")["one step"] == "| one step | 2 / 2 | 5 / 5 | 1 / 1 |"


def test_kernels():
    entry = {"status": "ok", "launches": 24, "temporary_mb": 1.4, "compile_s": 0.26}
    case = {"shape": {"time": 10}, "pass_": "forward", "cell": "rnn"}
    absent = {"status": "not installed (equinox)"}
    told = {"title": "RNN", "case": case, "entries": {"lstm_jax": entry, "equinox": absent}}
    found = {"settings": {}, "finished": True, "parts": {"kernels": [told]}}
    text = report.render(found, ENVIRONMENT)
    for row in ("| RNN | 2.4 |", "| RNN | 1.4 |", "| RNN | 0.3 |"):
        assert f"{row} not installed |" in text
