"""Sums of the rows that are not logged yet, and the best of the evaluations."""

import json

import numpy as np
import pytest

from lstm_jax.training.progress import Progress, Selection, progress_of


def test_sums_do_not_depend_on_how_rows_are_grouped():
    rng = np.random.default_rng(0)
    rows = {"loss": rng.normal(size=50).astype("f"), "more": rng.normal(size=(50, 3)).astype("f")}
    finite = rng.random(50) > 0.2
    rows["loss"][~finite] = np.nan
    found = []
    for size in (1, 7, 50):
        progress = Progress()
        for at in range(0, 50, size):
            part = {name: row[at : at + size] for name, row in rows.items()}
            progress = progress.with_rows(part, finite[at : at + size])
            # As a checkpoint keeps it.
            progress = progress_of(json.loads(json.dumps(progress.as_json(), allow_nan=False)))
        found.append(progress)
    assert found[0].means() == found[1].means() == found[2].means()
    expected = rows["loss"][finite].astype(float).mean()
    np.testing.assert_allclose(found[0].means()["loss"], expected, rtol=1e-14)
    expected = rows["more"][finite].astype(float).mean(0)
    np.testing.assert_allclose(found[0].means()["more"], expected, rtol=1e-14)
    # However many rows there were, a checkpoint holds their sums.
    assert len(json.dumps(found[0].as_json())) < 500
    assert found[0].logged() == Progress()


def test_each_run_of_a_sweep_has_the_mean_of_its_own_steps():
    rows = {"loss": np.array([[1.0, 2.0, np.nan], [3.0, np.inf, np.nan]])}
    progress = Progress().with_rows(rows, np.isfinite(rows["loss"]))
    assert progress.counts.tolist() == [2, 1, 0]
    assert progress.means()["loss"][:2] == [2.0, 2.0] and np.isnan(progress.means()["loss"][2])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_selection_waits_for_what_is_better(sign):
    selection, waited = Selection("error"), []
    for step, value in enumerate([3.0, np.inf, 2.0, 2.0, 5.0, 1.0], start=1):
        selection = selection.after(step, sign * value, sign == -1)
        waited.append(selection.waited)
    assert waited == [0, 1, 0, 1, 2, 0]
    assert (selection.step, selection.value) == (6, sign * 1.0)
    # Of two that are alike the later one is kept, as orbax does.
    assert selection.after(7, sign * 1.0, sign == -1)[1:] == (7, sign * 1.0, 1)
    assert Selection().after(1, sign * np.inf, sign == -1) == Selection(waited=1)
    assert progress_of({"done": 3}) is None and progress_of(None) is None
