"""What looks at a run every so often, and the records it leaves: ``<folder>/<name>/<step>.npz``."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.training.log import LogError


class Watch(NamedTuple):
    """Something that looks at the parameters every so often, as the microscope does.

    Attributes:
        name: of the folder its records go to, ``<step>.npz``.
        every: steps between two looks; there is one before the first step and one after the last.
        look: ``look(params) -> {name: array}``.
    """

    name: str
    every: int
    look: Callable[[PyTree], Mapping[str, Any]]


class Recorder:
    """Keeps what the watches see, a file for each look, and counts their time."""

    def __init__(
        self, folder: Path | None, watches: Sequence[Watch], done: int, steps: int
    ) -> None:
        self.seconds = 0.0
        self._folder, self._watches, self._steps = folder, watches, steps
        self._done: dict[str, int] = {}
        if folder is None:
            return
        for watch in watches:
            for path in (folder / watch.name).glob("*.npz"):
                # Looks past the checkpoint that the run goes on from come again.
                if not path.stem.isdigit() or int(path.stem) > done or not done:
                    path.unlink()

    def look(self, done: int, params: PyTree, *, last: bool = False) -> None:
        """Let every watch look that is due after ``done`` steps, and keep what it saw.

        Raises:
            LogError: a record that cannot be written.
        """
        for watch in self._watches:
            if done % watch.every and done != self._steps and not last:
                continue
            begun = time.perf_counter()
            seen = {name: np.asarray(value) for name, value in watch.look(params).items()}
            if self._folder is not None:
                folder = self._folder / watch.name
                try:
                    folder.mkdir(exist_ok=True)
                    partial_path = folder / f".partial-{done}.npz"
                    np.savez_compressed(partial_path, **seen)  # type: ignore[arg-type]
                    partial_path.replace(folder / f"{done:09d}.npz")
                except OSError as error:
                    raise LogError(
                        f"Unwritten record: expected to write into {folder}, got: {error.strerror}."
                    ) from None
            self.seconds += time.perf_counter() - begun
