"""Bounds, intensities and the picture from canned results; the bandwidths' additions."""

import numpy as np
import pytest
from benchmarks import __main__ as command
from benchmarks import bandwidth, results, roofline
from benchmarks.cases import Case, CaseError, Shape


def timed(seconds):
    return {"status": "ok", "rounds": [[seconds]]}


def a_run():
    case = Case("lstm", Shape(5, 2, 3, 4), "forward")
    entries = {"lstm_jax": timed(1e-6), "haiku": timed(4e-6), "equinox": timed(2e-6)}
    entries["pytorch"] = {"status": "not installed (torch)", "rounds": []}
    return {
        "finished": True,
        "parts": {
            "matmul": [{"flops": 8e9, "case": {}, "entries": {"XLA": timed(0.1)}}],
            "bandwidth": [
                {
                    "case": {"level": bandwidth.MEMORY, "bytes": 12e9},
                    "entries": {"XLA": timed(1.0)},
                },
                {"case": {"level": bandwidth.CACHE, "bytes": 12e9}, "entries": {"N": timed(0.5)}},
            ],
            "unroll": [{"case": case.as_json(), "flops": case.flops, "entries": entries}],
        },
    }


MACHINE = {"threads": 2, "processor": "Abacus", "date": "2026-01-02T03:04:05+00:00"}


def test_bounds_and_points():
    run = a_run()
    memory, cache = bandwidth.MEMORY, bandwidth.CACHE
    assert roofline.roofs(run["parts"], 2) == (8e10, {memory: 12e9, cache: 48e9})
    flops = 5 * 2 * 2 * (3 + 4) * 16
    # Forward: W_x and W_h, and for both rows x, h before and h after.
    at = 2 * 2 * 7 * 16 / (4 * (7 * 16 + 2 * (3 + 4 + 4)))
    assert roofline.points(run["parts"]["unroll"]) == [
        ("lstm_jax", "forward", pytest.approx(at), pytest.approx(flops / 1e-6)),
        ("fastest in JAX", "forward", pytest.approx(at), pytest.approx(flops / 2e-6)),
    ]


def test_more_rows_share_the_weights():
    for kind in ("forward", "gradient"):
        found = [roofline.intensity(Case("gru", Shape(9, b, 64, 64), kind)) for b in (1, 8, 64)]
        assert found[0] < 1 and found[0] < found[1] < found[2]


def test_the_picture(tmp_path, capsys):
    folder = results.claim(tmp_path / "run")
    results.write(folder, a_run(), MACHINE, "tables")
    pictures = []
    for name in ("one.svg", "two.svg"):
        assert command.main(["roofline", str(folder), "--out", str(tmp_path / name)]) == 0
        assert name in capsys.readouterr().out
        pictures.append((tmp_path / name).read_text("utf-8"))
    assert pictures[0] == pictures[1] and "<svg" in pictures[0]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("matmul", "expected a run with a matrix product in float32, got none"),
        ("bandwidth", "expected a run with bandwidths in float32, got none"),
        ("unroll", "expected a run with timed unrolls, got none"),
    ],
)
def test_what_is_missing_is_named(part, said, tmp_path):
    run = a_run()
    del run["parts"][part]
    with pytest.raises(CaseError, match=said):
        roofline.draw(run, MACHINE, tmp_path / "none.svg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [bandwidth.XLA, bandwidth.NUMPY])
def test_additions(name):
    call = bandwidth.contestant(name, {"count": 8}).compile()
    for _ in range(3):
        assert call() is None
    names = dict(zip(call.__code__.co_freevars, call.__closure__, strict=True))
    np.testing.assert_array_equal(names["a"].cell_contents, np.full(8, 4.0))
