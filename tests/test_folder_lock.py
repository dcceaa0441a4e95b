"""One writer for a folder: refused in another process and in another thread, and free after a kill."""

import os
import subprocess
import sys
import threading

import pytest

from lstm_jax.folder_lock import FolderInUseError, FolderLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")


def test_a_second_lock_is_refused_until_the_first_is_released(tmp_path):
    path = tmp_path / ".lock"
    lock, refused = FolderLock(path), []

    def again():
        with pytest.raises(FolderInUseError, match=f"got .*, into which process {os.getpid()} on "):
            FolderLock(str(path))
        refused.append(1)

    again()
    other = threading.Thread(target=again)
    other.start()
    other.join()
    assert len(refused) == 2 and path.exists()
    lock.release()
    lock.release()
    assert not path.exists()
    FolderLock(path).release()


def test_a_lock_whose_file_went_while_it_was_waited_for_is_taken_anew(tmp_path, monkeypatch):
    """Else two could hold locks, one of them on a file that has no name any more."""
    from lstm_jax import folder_lock

    path, take, taken = tmp_path / ".lock", folder_lock._lock, []

    def slowly(file, path):
        if not taken.append(1) and len(taken) == 1:
            path.unlink()
        take(file, path)

    monkeypatch.setattr(folder_lock, "_lock", slowly)
    lock = FolderLock(path)
    assert len(taken) == 2
    with pytest.raises(FolderInUseError):
        FolderLock(path)
    lock.release()


def test_a_killed_process_leaves_no_lock_even_if_a_child_of_it_lives_on(tmp_path):
    path = tmp_path / ".lock"
    program = (
        "import os, sys, time, warnings; warnings.simplefilter('ignore')\n"
        "from lstm_jax.folder_lock import FolderLock\n"
        "lock = FolderLock(sys.argv[1])\n"
        # The child says that it is there, so it has forgotten the lock by then.
        "if not os.fork(): print(os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(FolderInUseError, match=f"process {holder.pid} on "):
            FolderLock(path)
        holder.kill()
        holder.wait()
        FolderLock(path).release()
    finally:
        os.kill(child, 9)
        holder.kill()
        holder.stdout.close()


def test_where_there_are_no_locks_nobody_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lstm_jax.folder_lock.fcntl", None)
    locks = [FolderLock(tmp_path / ".lock") for _ in range(2)]
    for lock in locks:
        lock.release()
    assert list(tmp_path.iterdir()) == []
