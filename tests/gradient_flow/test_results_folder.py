"""Folders of results: claimed before the work, whole or not at all."""

import json

import numpy as np
import pytest

from gradient_flow import results_folder


def test_free_numbers_are_taken_in_turn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [results_folder.claim_folder(None, "compare", overwrite=False).name for _ in range(3)]
    assert names == ["compare-001", "compare-002", "compare-003"]


def test_a_finished_run_is_refused_and_kept(tmp_path):
    results_folder.write_json(tmp_path / results_folder.FINISHED, {"old": 1})
    with pytest.raises(
        results_folder.OutputError, match="got .* with a finished run in it.*--overwrite"
    ):
        results_folder.claim_folder(tmp_path, "compare", overwrite=False)
    assert results_folder.claim_folder(tmp_path, "compare", overwrite=True) == tmp_path
    assert json.loads((tmp_path / results_folder.FINISHED).read_text()) == {"old": 1}


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "taken").write_text("")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(results_folder.OutputError, match="Unwritable folder"):
            results_folder.claim_folder(out, "compare", overwrite=False)


def test_files_of_ones_own_are_refused_and_kept(tmp_path):
    (tmp_path / "arrays.npz").write_text("mine")
    with pytest.raises(
        results_folder.OutputError, match=r"Occupied folder.* with arrays.npz in it"
    ):
        results_folder.claim_folder(tmp_path, "compare", overwrite=False)
    assert (tmp_path / "arrays.npz").read_text() == "mine"


def test_a_run_that_died_leaves_no_trace_of_results_and_can_be_started_again(tmp_path):
    results_folder.claim_folder(tmp_path, "compare", overwrite=False)
    (tmp_path / results_folder.STAGE / "arrays.npz").write_text("half")
    assert results_folder.claim_folder(tmp_path, "compare", overwrite=False) == tmp_path
    assert list((tmp_path / results_folder.STAGE).iterdir()) == []
    results_folder.write_json(tmp_path / results_folder.STAGE / results_folder.FINISHED, {"new": 2})
    results_folder.publish(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [results_folder.FINISHED]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "numbers"
    path.write_text("old")

    def fail(partial):
        partial.write_text("half")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        results_folder.write_file(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["numbers"]


def test_json_takes_numpy_and_what_is_not_finite(tmp_path):
    data = {"a": np.float32(0.5), "b": [np.inf, np.int64(3)], "c": np.arange(2), "d": None}
    results_folder.write_json(tmp_path / "data.json", data)
    assert json.loads((tmp_path / "data.json").read_text()) == {
        "a": 0.5,
        "b": ["inf", 3],
        "c": [0, 1],
        "d": None,
    }


def test_reading_a_run_back(tmp_path):
    with pytest.raises(
        results_folder.OutputError, match=r"No finished run: .* got no results.json"
    ):
        results_folder.read_run(tmp_path)
    results_folder.write_arrays(tmp_path / "arrays.npz", {"a/b": np.arange(3)})
    results_folder.write_json(tmp_path / results_folder.FINISHED, {"x": 1})
    results, arrays = results_folder.read_run(tmp_path)
    assert results == {"x": 1}
    assert arrays["a/b"].tolist() == [0, 1, 2]
    (tmp_path / "arrays.npz").write_bytes(b"PK half a file")
    with pytest.raises(results_folder.OutputError, match="Unreadable run"):
        results_folder.read_run(tmp_path)


def test_the_environment_names_versions_and_no_place():
    data = results_folder.environment()
    assert data["packages"]["jax"]
    assert "/" not in json.dumps(data["packages"])
