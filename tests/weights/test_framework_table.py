"""The rows of the guide's table: each framework's own layer, in and out, with drawn sizes and weights."""

import os
import warnings
from pathlib import Path

import jax.numpy as jnp
import pytest
from framework_table import ROWS, difference, differences, drawn

import lstm_jax
from lstm_jax import weights

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "layers_and_weights.md"
MODULES = {"dm-haiku": "haiku"}
MOST = 3e-6


@pytest.mark.peer
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.framework} {row.layer}")
@pytest.mark.parametrize("seed", [11])
def test_a_framework_computes_the_same(row, seed):
    if row.framework == "Keras":
        os.environ["KERAS_BACKEND"] = "jax"
    if row.package:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs
            module = pytest.importorskip(MODULES.get(row.package, row.package))
        if row.framework == "Keras" and module.backend.backend() != "jax":
            pytest.skip("Keras was imported before, with another backend")
    found = differences(row, seed)
    assert found and max(found) <= MOST


def test_the_guide_has_the_rows():
    """What was measured once is a number in the guide; which rows there are is held here."""
    if not GUIDE.is_file():
        pytest.skip("needs a checkout")
    text = GUIDE.read_text(encoding="utf-8")
    table = text.partition("## What comes in and what goes out")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")]
    found = [(cells[1].strip(), cells[2].strip()) for cells in lines[2:]]
    assert found == [(row.layer, row.through) for row in ROWS]
    frameworks = [cells[0] for cells in lines[2:]]
    for row, name in zip(ROWS, frameworks, strict=True):
        assert row.framework in name
    assert all(float(cells[4]) <= MOST for cells in lines[2:])


def test_a_wrong_order_of_gates_is_seen():
    """The rows can fail: with the gates of another framework the difference is far above the limit."""
    draw = drawn(3)
    kernel, bias = draw.array(draw.d + draw.h, 4 * draw.h), draw.array(4 * draw.h)
    named = {"lstm_cell/kernel": kernel, "lstm_cell/bias": bias}
    net, params = weights.load(named)
    right = lstm_jax.unroll_stack(net, params, jnp.asarray(draw.xs))[1]
    assert difference(right, net, params, draw.xs) == 0
    wrong = weights.load(named, gate_order="ifgo")[1]
    assert difference(right, net, wrong, draw.xs) > 1e3 * MOST
