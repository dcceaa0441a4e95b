"""Measurements of the parameters during a run, recorded in ``<folder>/<name>/<step>.npz``."""

import re
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.atomic_write import PARTIAL, write_file
from lstm_jax.training.log import LogError

_RECORD = re.compile(r"(\d{9,})\.npz")


class Watch(NamedTuple):
    """A measurement of the parameters at regular steps, as by the microscope.

    Attributes:
        name: of the folder of its records, ``<step>.npz``.
        every: steps between two measurements; there is one before the first step and one after the last.
        look: ``look(params) -> {name: array}``.
    """

    name: str
    every: int
    look: Callable[[PyTree], Mapping[str, Any]]


class Recorder:
    """Runs the watches, writes a file for each measurement, and counts their time.

    Args:
        watches: of the run.
        steps: of the run; all watches measure after the last.

    Attributes:
        seconds: that the watches took.
        records: the steps of the whole records, by the watch.
    """

    def __init__(self, watches: Sequence[Watch], steps: int) -> None:
        self.seconds = 0.0
        self.records: dict[str, list[int]] = {}
        self._folder: Path | None = None
        self._watches, self._steps = watches, steps

    def open(self, folder: Path | None, upto: int | None) -> None:
        """Set the folder of the records, None for no records; delete those past ``upto`` steps."""
        self._folder = folder
        if folder is None:
            return
        for watch in self._watches:
            kept = self.records[watch.name] = []
            for path in sorted((folder / watch.name).glob("*.npz")):
                ours = _RECORD.fullmatch(path.name)
                if path.name.startswith(PARTIAL) or (
                    ours and (upto is None or int(ours[1]) > upto)
                ):
                    path.unlink()
                elif ours and _is_whole(path):
                    kept.append(int(ours[1]))

    def due(self, done: int) -> list[Watch]:
        """The watches that measure after ``done`` steps."""
        last = done == self._steps
        return [watch for watch in self._watches if last or done % watch.every == 0]

    def see(
        self, done: int, params: PyTree, *, last: bool = False
    ) -> dict[str, dict[str, np.ndarray]]:
        """The measurements of the watches that are due after ``done`` steps, by name."""
        begun, seen = time.perf_counter(), {}
        for watch in self._watches if last else self.due(done):
            looked = watch.look(params)
            if not isinstance(looked, Mapping):
                raise TypeError(
                    f"Type mismatch: expected {watch.name}: look(params) as a dict of arrays, got "
                    f"{type(looked).__name__}."
                )
            for name, value in looked.items():
                _require_measured(watch.name, name, value)
            seen[watch.name] = {name: np.asarray(value) for name, value in looked.items()}
        self.seconds += time.perf_counter() - begun
        return seen

    def keep(self, done: int, seen: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Write the measurements after ``done`` steps.

        Raises:
            LogError: a record that cannot be written.
        """
        if self._folder is None:
            return
        for name, arrays in seen.items():
            folder = self._folder / name
            try:
                folder.mkdir(exist_ok=True)
                write_file(
                    folder / f"{done:09d}.npz",
                    lambda partial, arrays=arrays: np.savez_compressed(partial, **arrays),  # type: ignore[misc]
                )
            except OSError as error:
                raise LogError(
                    f"Unwritten record: expected to write into {folder}, got: {error.strerror or error}."
                ) from None
            self.records.setdefault(name, []).append(done)


def _require_measured(watch: str, name: Any, value: Any) -> None:
    """Refuse what a record cannot hold without a pickle: anything but numbers by name."""
    if not isinstance(name, str):
        raise TypeError(f"Type mismatch: expected {watch}: texts as names of arrays, got {name!r}.")
    if np.asarray(value).dtype.kind in "OSUM":
        raise TypeError(
            f"Type mismatch: expected {watch}: {name} as an array of numbers, got "
            f"{type(value).__name__}."
        )


def _is_whole(path: Path) -> bool:
    """Whether each array of a record has its checksum; zip files have one for each."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # Damaged archives raise a dozen types.
        return False
