"""The quick run end to end, attention by its definition, and what is refused."""

import json

import jax
import numpy as np
import pytest
from experiments.where_it_goes import attention, report, run

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    out = tmp_path / "out"
    assert run.main(["--quick", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "by the number of detours" in printed and "attention, trained" in printed
    results = json.loads((out / "results.json").read_text())
    found = results["numbers"]
    # The tables are made from what is kept, of one seed or of several.
    assert report.report(found, results["attention"]) in printed
    twice = {name: seeds * 2 for name, seeds in found.items()}
    assert "…" in report.report(twice, {n: s * 2 for n, s in results["attention"].items()})
    assert len(found) == len(run.NETWORKS)
    assert {path.name for path in out.iterdir()} >= {
        "where_it_goes.png",
        "arrays.npz",
        "tables.txt",
        "environment.json",
    }
    arrays = np.load(out / "arrays.npz")
    for name in found:
        # Without a detour, and with no gate kept, there is the carousel; with all gates the whole.
        carousel, whole = arrays[f"{name}/detours"][:, 0], arrays[f"{name}/whole"]
        np.testing.assert_allclose(arrays[f"{name}/kept"][0], carousel, atol=1e-3)
        np.testing.assert_allclose(arrays[f"{name}/kept"][-1], whole, atol=1e-3)
    assert run.main(["--quick", "--out", str(out)]) == 2  # finished, and not to be overwritten
    assert "--overwrite" in capsys.readouterr().err


def test_attention_by_its_definition():
    params = attention.init(jax.random.key(0), 3, 4)
    xs = jax.random.normal(jax.random.key(1), (6, 3))
    found = np.asarray(attention.attend(params, xs))
    q, k, v = (np.asarray(xs @ w) for w in params)
    for t in range(6):
        weights = np.exp(k[: t + 1] @ q[t] / 2)
        np.testing.assert_allclose(
            found[t], weights @ v[: t + 1] / weights.sum(), rtol=1e-4, atol=1e-5
        )
    later = np.asarray(attention.attend(params, xs.at[4:].add(10.0)))
    np.testing.assert_array_equal(later[:4], found[:4])
    assert (later[4:] != found[4:]).all()


def test_refusals(tmp_path, capsys):
    assert run.main(["--seed", "-1", "--out", str(tmp_path / "out")]) == 2
    assert "expected --seed from 0 to 2^32 − 1, got -1" in capsys.readouterr().err
    assert run.main(["--seeds", "0", "--out", str(tmp_path / "out")]) == 2
    assert "expected --seeds of at least 1, got 0" in capsys.readouterr().err


def test_what_is_shown_of_several_seeds():
    assert report.shown([-3.0]) == "-3.0"
    assert report.shown([-3.0, -1.0, -2.0]) == "-2.0 (-3.0 … -1.0)"
    assert report.shown([report.NOTHING] * 3) == "- (- … -)"
