"""One writer for a folder: a lock that ends with its process, even if the process is killed.

The kernel holds the lock (``flock``) on an open file, so another process is refused, and so is another thread
of the same one. Where the system or the file system has no such locks, nobody is refused.
"""

import contextlib
import os
import socket
import weakref
from pathlib import Path
from typing import IO, Any

from lstm_jax.validation import AnyPath

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FolderInUseError(RuntimeError):
    """A folder into which another run writes."""


class FolderLock:
    """A lock that is held from its construction to its release or the end of the process.

    Args:
        path: of the lock's file, in the folder that it is for; removed at the release.

    Raises:
        FolderInUseError: the lock is held already; with the process that holds it.
        OSError: a folder that does not exist or cannot be written to.

    Example:
        >>> import pathlib, tempfile
        >>> from lstm_jax.folder_lock import FolderInUseError, FolderLock
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = FolderLock(pathlib.Path(folder) / ".lock")
        ...     try:
        ...         FolderLock(pathlib.Path(folder) / ".lock")
        ...     except FolderInUseError as error:
        ...         print(str(error).split(":")[0])
        ...     lock.release()
        Folder in use
    """

    def __init__(self, path: AnyPath) -> None:
        self._path = Path(path)
        self._file: IO[Any] | None = None
        while self._file is None:
            file = self._path.open("a+", encoding="utf-8")
            try:
                _lock(file, self._path)
            except BaseException:
                file.close()
                raise
            # Between opening and locking, its last holder may have removed the file.
            if _is_at(file, self._path):
                self._file = file
            else:
                file.close()
        _held.add(self)
        with contextlib.suppress(
            OSError
        ):  # On a full disk the lock does without its holder's name.
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._file.flush()

    def release(self) -> None:
        """Let others write; a second release does nothing."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._path.unlink()
        self.forget()

    def forget(self) -> None:
        """Close the file without removing it, as in a forked process, in which the lock is not its own."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    # Else a child would hold the lock of a parent that was killed.
    os.register_at_fork(after_in_child=_forget_all)


def _lock(file: IO[Any], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(200).strip() or "another run"
        raise FolderInUseError(
            f"Folder in use: expected a folder into which no other run writes, got {path.parent}, into which "
            f"{holder} writes. Wait for its end or name another folder."
        ) from None
    except OSError:
        return  # A file system without locks.


def _is_at(file: IO[Any], path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(file.fileno())
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
