"""The folder of a run: whose it is, what is in it, and one writer at a time."""

import contextlib
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from lstm_jax.folder_lock import FolderInUseError, FolderLock
from lstm_jax.training.checkpoints import whole_steps
from lstm_jax.training.log import EVENTS, NAME, Extent, Log
from lstm_jax.training.options import CHECKPOINTS, RunError, RunOptions
from lstm_jax.training.processes import Processes

SHARED = ".shared"
"""The file that the first process writes and the others look for."""
SHARED_SECONDS = 5
"""How long they look."""
LOCK = ".lock"
"""The file that says that a run writes into the folder."""


class RunFolder:
    """A run's folder, or none: locked by the first process, from its first look to `release`.

    Args:
        folder: of the run; nothing is written if None.
        options: of the run.
        processes: of the run.

    Raises:
        RunError: a folder that has a run, unless the options say to resume or overwrite it, one to resume
            whose checkpoints are gone, one that another run writes into, or one that is not the same for all
            processes. Nothing is changed.
        ProcessError: in the other processes, for one of these.
    """

    def __init__(self, folder: Path | None, options: RunOptions, processes: Processes) -> None:
        self.path, self._options, self._processes = folder, options, processes
        self._lock: FolderLock | None = None
        self._processes.decided(self._look)
        if folder is not None and processes.several:
            held = processes.decided(lambda: whole_steps(folder / CHECKPOINTS))
            processes.each(lambda: self._require(lambda: whole_steps(folder / CHECKPOINTS) == held))

    def holds_checkpoints(self) -> bool:
        """Whether there is a complete checkpoint to resume from."""
        return self.path is not None and self._options.resume and holds_checkpoints(self.path)

    def open_log(
        self, upto: int | None, known: Extent | None = None, labels: Sequence[str] = ()
    ) -> Log:
        """Make the folder, or clear it if it may be overwritten, and open its log.

        Args:
            upto: steps of the checkpoint of a resumed run; None for a new run.
            known: how far the log went at this checkpoint.
            labels: of the runs of a sweep.

        Raises:
            RunError, LogError: a folder that cannot be written; in every process.
        """

        def prepare() -> Log:
            folder = self.path
            if folder is None:
                return Log(None)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # It was not there before; since then another run may have made it.
                self._look()
                if self._options.overwrite or _ended_early(folder):
                    for path in (folder / CHECKPOINTS, folder / EVENTS):
                        if path.exists():
                            shutil.rmtree(path)
            except OSError as error:
                raise _unwritable(folder, error) from None
            tensorboard = self._options.tensorboard
            return Log(folder, upto=upto, known=known, tensorboard=tensorboard, labels=labels)

        logs: list[Log] = []
        self._processes.decided(lambda: logs.append(prepare()))
        if self.path is not None and self._processes.several:
            self._require_shared(self.path / SHARED)
        # The other processes write nothing, but have the same entries.
        return logs[0] if logs else Log(self.path, upto=upto, known=known, writes=False)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others write into the folder."""
        if self._lock is not None:
            self._lock.release()

    def _require_shared(self, mark: Path) -> None:
        """Refuse a folder in which the other processes do not find what the first one has written."""

        def write() -> str:
            token = uuid.uuid4().hex
            mark.write_text(token)
            return token

        token = self._processes.decided(write)
        self._processes.each(lambda: self._require(lambda: mark.read_text() == token))
        self._processes.decided(mark.unlink)

    def _require(self, same: Callable[[], bool]) -> None:
        """Wait until this process sees what the first one does, which may take a while between hosts."""
        ends = time.monotonic() + SHARED_SECONDS
        while True:
            with contextlib.suppress(OSError):
                if same():
                    return
            if time.monotonic() > ends:
                raise RunError(
                    f"Folder mismatch: expected one that all processes see, got {self.path}, in which "
                    f"process {jax.process_index()} does not find what the first one does."
                )
            time.sleep(0.1)

    def _look(self) -> None:
        """Lock a folder that is there, and refuse what is in it."""
        folder, options = self.path, self._options
        if folder is None:
            return
        for path in (folder, folder / CHECKPOINTS):
            if path.exists() and not path.is_dir():
                raise RunError(f"Unwritable folder: expected a folder, got the file {path}.")
        if not folder.is_dir():
            return
        if self._lock is None:
            try:
                self._lock = FolderLock(folder / LOCK)
            except FolderInUseError as error:
                raise RunError(str(error)) from None
            except OSError as error:
                raise _unwritable(folder, error) from None
        try:
            _refuse(folder, options)
        except BaseException:
            self.release()
            raise


def _refuse(folder: Path, options: RunOptions) -> None:
    log = folder / NAME
    if options.overwrite:
        return
    whole, logged = holds_checkpoints(folder), log.exists() and log.stat().st_size > 0
    if options.resume and logged and not whole and not _ended_early(folder):
        raise RunError(
            f"Missing checkpoints: expected one to resume from in {folder / CHECKPOINTS}, got none, and a "
            "log of the run. Put the checkpoints back, overwrite the run or name another folder."
        )
    if not options.resume and (whole or logged):
        raise RunError(
            f"Occupied folder: expected one without a run, got {folder}. Either resume it, overwrite it "
            "or name another folder."
        )


def _ended_early(folder: Path) -> bool:
    """Whether a run ended before its first checkpoint: it makes their folder ahead of the first entry."""
    begun = (folder / NAME).exists() and (folder / CHECKPOINTS).is_dir()
    return begun and not holds_checkpoints(folder)


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"Unwritable folder: expected to write into {folder}, got: {error.strerror or error}."
    )


def holds_checkpoints(folder: Path) -> bool:
    """Whether there is a complete checkpoint; orbax names its folder by the step when it is complete."""
    found = folder / CHECKPOINTS
    return found.is_dir() and any(path.name.isdigit() for path in found.iterdir())
