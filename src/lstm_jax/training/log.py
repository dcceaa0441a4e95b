r"""The log of a run: a line of JSON for each entry, and TensorBoard events beside it on request.

    {"step": 200, "loss": 1.83, "gradient_norm": 0.41, "tokens_per_second": 51200.0, "seconds": 7.1}

A resumed run first removes a half-written line and the lines past its checkpoint. So its log is that of a run
without a break.
"""

import contextlib
import csv
import importlib.util
import io
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lstm_jax.atomic_write import write_whole
from lstm_jax.validation import AnyPath, require_path

NAME = "log.jsonl"
EVENTS = "tensorboard"


class LogError(RuntimeError):
    """A log that cannot be written or read."""


class Entries(Sequence[dict[str, Any]]):
    """The entries of a log. Those that a resumed run has found are parsed when they are asked for.

    Args:
        text: the lines of the first entries, as they are in the file.
        count: of these lines.
    """

    def __init__(self, text: bytes = b"", count: int = 0) -> None:
        self._text, self._count = text, count
        self._parsed: list[dict[str, Any]] | None = None
        self._more: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return self._count + len(self._more)

    def __getitem__(self, index: Any) -> Any:
        if index == -1 and not self._more and self._count:
            # All that a run needs of those before it.
            return _entry(self._text.rstrip(b"\n").rpartition(b"\n")[2])
        return self._all()[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._all())

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Sequence) and self._all() == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._all())

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry."""
        self._more.append(entry)

    def to_csv(self, path: AnyPath) -> None:
        """Write the entries as a table: a column for each name, in a sweep for each name and run, ``loss.0``.

        Args:
            path: of the file, which is replaced.

        Raises:
            OSError: a file that cannot be written.

        Example:
            >>> import pathlib, tempfile
            >>> from lstm_jax.training.log import Entries
            >>> entries = Entries()
            >>> entries.append({"step": 10, "loss": [0.5, 0.25]})
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     entries.to_csv(folder + "/log.csv")
            ...     print(pathlib.Path(folder, "log.csv").read_text().splitlines())
            ['step,loss.0,loss.1', '10,0.5,0.25']
        """
        rows = [dict(_columns(entry)) for entry in self]
        text = io.StringIO()
        table = csv.DictWriter(
            text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
        )
        table.writeheader()
        table.writerows(rows)
        write_whole(path, text.getvalue().encode())

    def _all(self) -> list[dict[str, Any]]:
        if self._parsed is None:
            self._parsed = [_parsed(line) for line in self._text.splitlines()]
        return self._parsed + self._more if self._more else self._parsed


class Extent(NamedTuple):
    """How far a log goes, in entries and bytes: what a checkpoint says of it."""

    entries: int = 0
    size: int = 0
    checksum: int = 0

    def beyond(self, line: bytes) -> "Extent":
        """With a line more."""
        return Extent(self.entries + 1, self.size + len(line), zlib.crc32(line, self.checksum))


class Log:
    """The log in a folder, or in memory alone.

    Args:
        folder: where ``log.jsonl`` is; None keeps it in memory.
        upto: entries of later steps are dropped; None drops all.
        known: how far the log went when the checkpoint of step ``upto`` was written, if it is known.
        tensorboard: whether to write events as well, into ``tensorboard``.
        labels: of the runs of a sweep, for the names of their events, ``loss/0``.
        writes: whether this process writes; if False it has the same entries in memory.

    Raises:
        LogError: a folder that cannot be written, or TensorBoard events without the package.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        upto: int | None = None,
        known: Extent | None = None,
        tensorboard: bool = False,
        labels: Sequence[str] = (),
        writes: bool = True,
    ) -> None:
        self._file = self._events = None
        self._labels = labels
        self.entries, self.extent, in_place = _found(folder, upto, known)
        if folder is None or not writes:
            return
        self._path = folder / NAME
        try:
            if tensorboard:
                self._events = _events(folder / EVENTS, None if upto is None else upto + 1)
            if in_place:
                os.truncate(self._path, self.extent.size)
            else:
                write_whole(self._path, b"".join(map(_line, self.entries)))
            self._file = self._path.open("ab")
        except OSError as error:
            raise self._unwritten(error) from None

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add an entry, which has a ``step``.

        Raises:
            LogError: a full or unwritable disk.
        """
        line = _line(entry)
        self.entries.append(dict(entry))
        self.extent = self.extent.beyond(line)
        try:
            if self._file is not None:
                self._file.write(line)
                self._file.flush()
            if self._events is not None:
                for name, value in _columns(entry, self._labels):
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


def _found(
    folder: Path | None, upto: int | None, known: Extent | None
) -> tuple[Entries, Extent, bool]:
    """The entries up to a step, their extent, and whether the file begins with these lines."""
    path = None if folder is None else folder / NAME
    if path is None or upto is None or not path.exists():
        return Entries(), Extent(), False
    if known is not None:
        # A million lines are read and summed up in a moment, and parsed in many.
        try:
            with path.open("rb") as file:
                text = file.read(known.size)
        except OSError as error:
            raise LogError(f"Unreadable log: expected {path}, got: {error.strerror}.") from None
        if len(text) == known.size and zlib.crc32(text) == known.checksum:
            return Entries(text, known.entries), known, True
    entries, extent = Entries(), Extent()
    for entry in read_log(path.parent):
        if entry["step"] <= upto:
            entries.append(entry)
            extent = extent.beyond(_line(entry))
    return entries, extent, False


def _columns(entry: Mapping[str, Any], labels: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Names and numbers of an entry; those of a list or a dict one by one."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from _columns({f"{name}.{key}": part for key, part in value.items()}, labels)
        elif isinstance(value, (list, tuple)):
            parts: Sequence[Any] = labels if len(labels) == len(value) else range(len(value))
            joint = "/" if labels else "."
            yield from _columns(
                {f"{name}{joint}{part}": one for part, one in zip(parts, value, strict=True)}
            )
        else:
            yield name, value


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
        entry, before = _entry(line), entries[-1]["step"] if entries else -1
        if entry is None or entry["step"] <= before:
            # A killed process leaves half a line, and what a full disk cut off ends without a line's end.
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise LogError(
                f"Damaged log: expected an entry {f'after step {before} ' if entries else ''}in line "
                f"{number} of {path}, got "
                f"{line.decode(errors='replace')[:60]!r}. {_whole(number - 1)}"
            )
        if line.endswith(b"\n"):
            entries.append(entry)
    return entries


def _entry(line: bytes) -> dict[str, Any] | None:
    """The entry in a line; None if there is none."""
    try:
        entry = _parsed(line)
    except (ValueError, RecursionError):
        return None
    step = entry.get("step") if isinstance(entry, dict) else None
    return entry if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None


def _parsed(line: bytes) -> Any:
    entry = json.loads(line)
    # JSON has no such numbers.
    return _numbers(entry) if b'"nan"' in line or b'inf"' in line else entry


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _numbers(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_numbers(part) for part in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def _whole(count: int) -> str:
    lines = {0: "No line before it", 1: "Line 1"}.get(count, f"Lines 1 to {count}")
    return f"{lines} can be used{': cut the file behind it' if count else ''}."


def _line(entry: Mapping[str, Any]) -> bytes:
    return (json.dumps(_plain(entry), ensure_ascii=False, allow_nan=False) + "\n").encode()


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
