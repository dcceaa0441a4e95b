r"""How far a run has come: all that decides where it goes on and where it ends, and is in each checkpoint.

    sums = Σ rows,   counts = Σ 1     over the finite steps since the last entry of the log

Rows are added one after the other in float64, so the sums do not depend on how steps are grouped.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Selection(NamedTuple):
    """The best of the evaluations until now.

    Attributes:
        by: the number and its direction, ``"min error"``.
        step: of the best one.
        value: of it.
        waited: evaluations since one that was better than all before.
    """

    by: str = ""
    step: int | None = None
    value: float | None = None
    waited: int = 0

    def after(self, step: int, value: float, maximise: bool) -> "Selection":
        """With an evaluation more; of two that are alike, the later one is kept."""
        sign = -1 if maximise else 1
        known = math.inf if self.value is None else sign * self.value
        better = sign * value < known
        waited = 0 if better else self.waited + 1
        if math.isfinite(value) and sign * value <= known:
            return self._replace(step=step, value=value, waited=waited)
        return self._replace(waited=waited)


class Progress(NamedTuple):
    """The progress of a run.

    Attributes:
        done: steps done.
        seconds: of training.
        sums: of the rows since the last entry of the log, by name.
        counts: of their finite steps; in a sweep, those of each run.
        selection: the best evaluation.
        ended: what ended the run before its last step, ``"until"`` or ``"patience"``.
        diverged: runs of a sweep that take no more steps, and their step that was not finite.
    """

    done: int = 0
    seconds: float = 0.0
    sums: Mapping[str, Any] = {}
    counts: Any = 0
    selection: Selection = Selection()
    ended: str | None = None
    diverged: Mapping[str, int] = {}

    def as_json(self) -> dict[str, Any]:
        """For a checkpoint: dicts, lists and numbers."""
        sums = {name: _texts(value.tolist()) for name, value in self.sums.items()}
        counts = np.asarray(self.counts).tolist()
        selection = self.selection._asdict()
        return {**self._asdict(), "sums": sums, "counts": counts, "selection": selection}

    def with_rows(self, rows: Mapping[str, np.ndarray], finite: np.ndarray) -> "Progress":
        """With the rows of further steps, ``[steps, …]``; in a sweep ``[steps, runs, …]``."""
        sums = {}
        for name, row in rows.items():
            mask = _with_axes(finite, row.ndim)
            counted = np.where(mask, row.astype(np.float64), 0.0)
            before = self.sums.get(name)
            if before is not None:
                counted = np.concatenate([before[None], counted])
            # One after the other: `sum` would add in pairs.
            sums[name] = np.add.accumulate(counted)[-1]
        return self._replace(sums=sums, counts=self.counts + finite.sum(0))

    def means(self) -> dict[str, Any]:
        """The means of the rows; NaN where no step was finite."""
        counts = np.asarray(self.counts)
        found = {}
        for name, total in self.sums.items():
            by = _with_axes(counts, total.ndim)
            found[name] = np.where(by > 0, total / np.maximum(by, 1), np.nan).tolist()
        return found

    def logged(self) -> "Progress":
        """Behind an entry of the log."""
        return self._replace(sums={}, counts=0)


def progress_of(found: Any) -> Progress | None:
    """The progress in a checkpoint; None if it is none."""
    if not isinstance(found, Mapping) or set(found) != set(Progress._fields):
        return None
    return Progress(**found)._replace(
        sums={name: np.asarray(value, np.float64) for name, value in found["sums"].items()},
        counts=np.asarray(found["counts"]),
        selection=Selection(**found["selection"]),
    )


def _with_axes(array: np.ndarray, count: int) -> np.ndarray:
    """With further axes of length 1 at its end."""
    return array.reshape(array.shape + (1,) * (count - array.ndim))


def _texts(value: Any) -> Any:
    """JSON has no numbers that are not finite."""
    if isinstance(value, list):
        return [_texts(part) for part in value]
    return value if math.isfinite(value) else str(value)
