r"""The log of a run: a line of JSON for each entry, and TensorBoard events beside it on request.

    {"step": 200, "loss": 1.83, "gradient_norm": 0.41, "tokens_per_second": 51200.0, "seconds": 7.1}

A resumed run first removes a half-written line and the lines past its checkpoint. So its log is that of a run
without a break.
"""

import contextlib
import importlib.util
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lstm_jax.atomic_write import write_whole
from lstm_jax.validation import AnyPath, require_path

NAME = "log.jsonl"
EVENTS = "tensorboard"


class LogError(RuntimeError):
    """A log that cannot be written or read."""


class Log:
    """The log in a folder, or in memory alone.

    Args:
        folder: where ``log.jsonl`` is; None keeps it in memory.
        upto: entries of later steps are dropped; None drops all.
        tensorboard: whether to write events as well, into ``tensorboard``.
        entries: the present entries of a log in memory.

    Raises:
        LogError: a folder that cannot be written, or TensorBoard events without the package.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        upto: int | None = None,
        tensorboard: bool = False,
        entries: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.entries = list(entries)
        self._checksum = checksum_of(self.entries)
        self._file = self._events = None
        if folder is None:
            return
        self._path = folder / NAME
        self.entries = entries_upto(folder, upto)
        self._checksum = checksum_of(self.entries)
        try:
            if tensorboard:
                self._events = _events(folder / EVENTS, None if upto is None else upto + 1)
            write_whole(self._path, "".join(map(_line, self.entries)).encode())
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._unwritten(error) from None

    def extent(self) -> dict[str, int]:
        """The number of entries and their checksum, for a checkpoint."""
        return {"entries": len(self.entries), "checksum": self._checksum}

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add an entry, which has a ``step``.

        Raises:
            LogError: a full or unwritable disk.
        """
        line = _line(entry)
        self.entries.append(dict(entry))
        self._checksum = zlib.crc32(line.encode(), self._checksum)
        try:
            if self._file is not None:
                self._file.write(line)
                self._file.flush()
            if self._events is not None:
                for name, value in entry.items():
                    if name != "step" and isinstance(value, (int, float)):
                        self._events.add_scalar(name, value, entry["step"])
        except OSError as error:
            raise self._unwritten(error) from None

    def close(self) -> None:
        """Close the files. All entries have been flushed, so nothing can be lost."""
        for file in (self._file, self._events):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()

    def _unwritten(self, error: OSError) -> LogError:
        return LogError(
            f"Unwritten log: expected to write {self._path}, got: {error.strerror or error}. The "
            "entries in the file stay."
        )


def entries_upto(folder: Path | None, upto: int | None) -> list[dict[str, Any]]:
    """The entries of a log up to a step; none if ``upto`` is None or there is no log.

    Raises:
        LogError: as `read_log`.
    """
    if folder is None or upto is None or not (folder / NAME).exists():
        return []
    return [entry for entry in read_log(folder) if entry["step"] <= upto]


def read_log(folder: AnyPath) -> list[dict[str, Any]]:
    """The entries of a log, without an unfinished last line.

    Args:
        folder: of the run.

    Raises:
        LogError: no log, or a line before the last that is not an entry; with the lines that are whole.
    """
    path = require_path("folder", folder) / NAME
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise LogError(f"Unreadable log: expected {path}, got: {error.strerror}.") from None
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        entry, before = _entry(line), entries[-1]["step"] if entries else 0
        if entry is None or entry["step"] <= before:
            # A killed process leaves half a line, and what a full disk cut off ends without a line's end.
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise LogError(
                f"Damaged log: expected an entry {f'after step {before} ' if before else ''}in line "
                f"{number} of {path}, got "
                f"{line.decode(errors='replace')[:60]!r}. {_whole(number - 1)}"
            )
        if line.endswith(b"\n"):
            entries.append(entry)
    return entries


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry in a line; None if there is none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    return entry if isinstance(step, int) and not isinstance(step, bool) and step > 0 else None


def _whole(count: int) -> str:
    lines = {0: "No line before it", 1: "Line 1"}.get(count, f"Lines 1 to {count}")
    return f"{lines} can be used{': cut the file behind it' if count else ''}."


def checksum_of(entries: Sequence[Mapping[str, Any]]) -> int:
    """CRC-32 of entries as the file holds them."""
    return zlib.crc32("".join(map(_line, entries)).encode())


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(_plain(entry), ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def require_tensorboard(wanted: bool) -> None:
    """Refuse TensorBoard events without the package that writes them.

    Raises:
        LogError: naming the package to install.
    """
    if wanted and importlib.util.find_spec("tensorboardX") is None:
        raise LogError(
            "Missing package: expected tensorboardX for TensorBoard events, got none. Do pip install "
            "lstm-jax[tensorboard]."
        )


def _events(folder: Path, purge_step: int | None) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), purge_step=purge_step)
