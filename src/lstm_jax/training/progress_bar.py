"""The display of a run: a bar in a terminal or a notebook, otherwise a line for each tenth of the run."""

import sys
from types import TracebackType
from typing import Any

import jax
from tqdm.auto import tqdm

PARTS = 10
"""Lines of a run whose output is no terminal."""


class ProgressBar:
    """The display of a run, in the first process alone.

    Args:
        steps: of the run.
        done: of them.
        wanted: whether anything is shown.
    """

    def __init__(self, steps: int, done: int, wanted: bool) -> None:
        self._steps, self._wanted = steps, wanted and not jax.process_index()
        self._part = done * PARTS // steps
        notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
        self._bar: Any = tqdm(
            total=steps,
            initial=done,
            unit="step",
            # None: no bar unless the output is a terminal.
            disable=(False if notebook else None) if self._wanted else True,
            dynamic_ncols=True,
            leave=notebook,
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, done: int) -> None:
        """Show the steps done."""
        self._bar.update(done - self._bar.n)

    def show(self, done: int, text: str) -> None:
        """Show the numbers of an entry of the log."""
        self._bar.set_postfix_str(text)
        if self._wanted and self._bar.disable and done * PARTS // self._steps > self._part:
            self._part = done * PARTS // self._steps
            print(f"step {done} of {self._steps}: {text}", file=sys.stderr, flush=True)
