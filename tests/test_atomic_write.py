"""A file appears whole or not at all."""

import os
import stat

import pytest

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
