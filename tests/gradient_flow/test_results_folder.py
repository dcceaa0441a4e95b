"""Folders of results: claimed before the work, whole or not at all."""

import json
import threading
import zipfile

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
    stage = tmp_path / results_folder.STAGE
    assert [path.name for path in stage.iterdir()] == [results_folder.LOCK]
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
    with pytest.raises(
        results_folder.OutputError, match="Unreadable file: .*arrays.npz, got no whole"
    ):
        results_folder.read_run(tmp_path)


def test_the_environment_names_versions_and_no_place():
    data = results_folder.environment()
    assert data["packages"]["jax"]
    assert "/" not in json.dumps(data["packages"])


def test_a_folder_has_one_run_at_a_time(tmp_path):
    """Another thread stands for another process: both have an open file of their own."""
    refused = []

    def another():
        for overwrite in (False, True):
            with pytest.raises(results_folder.OutputError, match=f"Folder in use: .*{tmp_path}, "):
                results_folder.claim_folder(tmp_path, "compare", overwrite=overwrite)
            refused.append(overwrite)

    folder = results_folder.claim_folder(str(tmp_path), "compare", overwrite=False)
    # The same thread may claim its folder again, as after a run that failed.
    results_folder.claim_folder(folder, "compare", overwrite=False)
    (folder / results_folder.STAGE / "arrays.npz").write_text("whole")
    beside = threading.Thread(target=another)
    beside.start()
    beside.join()
    assert refused == [False, True]
    results_folder.publish(folder, finishes=False)
    assert [path.name for path in tmp_path.iterdir()] == ["arrays.npz"]
    results_folder.claim_folder(folder, "compare", overwrite=True)
    results_folder.release_folder(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["arrays.npz"]


def test_a_run_that_ended_in_between_is_not_replaced(tmp_path, monkeypatch):
    """It ended after the look into the folder and before the lock."""
    lock = results_folder._lock

    def late(folder):
        (tmp_path / results_folder.FINISHED).write_text("{}")
        lock(folder)

    monkeypatch.setattr(results_folder, "_lock", late)
    with pytest.raises(results_folder.OutputError, match="Occupied folder: .* a finished run"):
        results_folder.claim_folder(tmp_path, "compare", overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == [results_folder.FINISHED]


def test_results_come_in_parts_and_take_old_pictures_away(tmp_path):
    (tmp_path / "old.png").write_text("of an earlier run")
    (tmp_path / "mine.png").write_text("mine")
    stage = results_folder.claim_folder(tmp_path, "x", overwrite=True) / results_folder.STAGE
    (stage / results_folder.FINISHED).write_text("{}")
    results_folder.publish(tmp_path, replaces=["old.png"], more=True)
    assert not (tmp_path / "old.png").exists() and (tmp_path / "mine.png").exists()
    (stage / "new.png").write_text("new")
    results_folder.publish(tmp_path, finishes=False)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["mine.png", "new.png", results_folder.FINISHED]


@pytest.mark.parametrize("out", ["", 3, b"out"])
def test_what_is_no_path_is_refused(tmp_path, monkeypatch, without_type_checker, out):
    monkeypatch.chdir(tmp_path)
    for function in (
        lambda: results_folder.claim_folder(out, "x", overwrite=True),
        lambda: results_folder.read_run(out),
        lambda: results_folder.publish(out),
    ):
        with pytest.raises(results_folder.OutputError, match="expected (out|folder) as a path"):
            function()
    assert list(tmp_path.iterdir()) == []


def objects(path):
    np.savez(path, a=np.array([{"run": "me"}], dtype=object))


@pytest.mark.parametrize(
    ("write", "got"),
    [
        (lambda path: path.write_bytes(b"PK half"), "no whole archive"),
        (lambda path: path.write_bytes(b""), "no whole archive"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00"), "no whole archive"),
        (objects, "Python objects, which are not read"),
        (lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "text"), "got the file a.txt"),
        (
            lambda path: zipfile.ZipFile(path, "w").writestr("a.npy", b"\x93NUMPY\x01\x00v\x00{"),
            "damage",
        ),
    ],
    ids=["cut", "empty", "folder", "npy", "objects", "text", "header"],
)
def test_a_file_that_has_no_arrays_is_one_sentence(tmp_path, write, got):
    path = tmp_path / "arrays.npz"
    write(path)
    with pytest.raises(results_folder.OutputError, match=f"Unreadable file: .*{got}") as caught:
        results_folder.read_arrays(str(path))
    sentence = str(caught.value)
    assert "\n" not in sentence and "allow_pickle" not in sentence


def test_every_byte_of_an_archive_may_be_damaged(tmp_path):
    path = tmp_path / "arrays.npz"
    results_folder.write_arrays(path, {"a": np.arange(5.0), "b": np.ones((2, 2))})
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            arrays = results_folder.read_arrays(path)
        except results_folder.OutputError as error:
            assert "\n" not in str(error) and "pickle" not in str(error)
        else:
            assert arrays.get("a", np.arange(5.0)).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b'{"a": 1', "something else in line 1, expecting ',' delimiter"),
        (b"\xff{}", "bytes that are no text"),
        (b"[" * 100_000, "lists within lists"),
        (b"[1, 2]", "names and values .*got a list"),
        (b"", "something else in line 1"),
    ],
)
def test_a_file_that_is_no_json_is_one_sentence(tmp_path, content, got):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(results_folder.OutputError, match=f"Unreadable file: .*{got}") as caught:
        results_folder.read_json(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(results_folder.OutputError, match="got Is a directory"):
        results_folder.read_json(tmp_path)


def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path, bounded_work):
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array_header_1_0(
                entry, {"descr": "<f8", "fortran_order": False, "shape": (2**24,)}
            )
            for _ in range(2**7):
                entry.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(
        results_folder.OutputError, match="expected arrays of at most 100 times the file in"
    ):
        results_folder.read_arrays(path)
