"""A file appears whole or not at all."""

import os
import stat
from pathlib import Path

import jax
import pytest

import lstm_jax
from lstm_jax import language, training, weights
from lstm_jax.atomic_write import PARTIAL, write_file, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "weights.bin"
    write_whole(path, b"first")
    assert path.read_bytes() == b"first"
    write_whole(str(path), b"second, longer")
    assert path.read_bytes() == b"second, longer"
    assert names(tmp_path) == ["weights.bin"]


def test_until_it_is_whole_it_has_another_name_with_the_same_ending(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"before")

    def write(partial):
        partial.write_bytes(b"half")
        assert partial.parent == tmp_path
        assert partial.name.startswith(PARTIAL) and partial.suffix == ".npz"
        assert path.read_bytes() == b"before"

    write_file(path, write)
    assert path.read_bytes() == b"half"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_leaves_the_old_file_and_no_partial_one(tmp_path, error):
    def write(partial):
        partial.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        write_file(tmp_path / "new", write)
    assert names(tmp_path) == []
    (tmp_path / "old").write_bytes(b"before")
    with pytest.raises(error):
        write_file(tmp_path / "old", write)
    assert (tmp_path / "old").read_bytes() == b"before"
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file(tmp_path, monkeypatch, function):
    """Also where all was written, and only the disk has not taken it yet."""

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    (tmp_path / "old").write_bytes(b"before")
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "old", b"after")
    assert (tmp_path / "old").read_bytes() == b"before"
    assert names(tmp_path) == ["old"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_its_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "ours", b"")
        (tmp_path / "plain").write_bytes(b"")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    ours, plain = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain"))
    assert ours == plain == 0o666 & ~mask


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "file", b"")
    assert names(tmp_path) == []


@pytest.mark.parametrize("path", ["", "a\0b", 3, b"bytes", None])
def test_what_is_no_path_is_refused_wherever_one_is_taken(
    tmp_path, monkeypatch, without_type_checker, path
):
    monkeypatch.chdir(tmp_path)
    cell = lstm_jax.rnn(1, 1)
    params = cell.init(jax.random.key(0))
    for function in (
        lambda: write_whole(path, b""),
        lambda: weights.save_safetensors(path, cell, params),
        lambda: weights.load_safetensors(path),
        lambda: language.read_text(path),
        lambda: language.load_corpus(path),
        lambda: language.load_corpus("ptb", 3 if path is None else path),
        lambda: training.read_log(path),
        lambda: training.Checkpoints(path, {}),
    ):
        with pytest.raises((TypeError, ValueError), match="expected (path|name|data|folder) as a"):
            function()
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_may_be_a_text_wherever_one_is_taken(tmp_path, kind):
    cell = lstm_jax.rnn(1, 1)
    params = cell.init(jax.random.key(0))
    weights.save_safetensors(kind(tmp_path / "net"), cell, params)
    assert weights.load_safetensors(kind(tmp_path / "net"))[0] == cell
    (tmp_path / "text").write_text("so it goes")
    assert language.load_corpus(kind(tmp_path / "text")).name == "text"
    assert language.read_text(kind(tmp_path / "text")) == "so it goes"
    with pytest.raises(language.TextError, match=f"expected ptb.zip in {tmp_path}"):
        language.load_corpus("ptb", kind(tmp_path))
