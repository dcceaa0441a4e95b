"""The entries of the log, made from the metrics of steps and from what was evaluated."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lstm_jax.array_types import PyTree
from lstm_jax.training.checkpoint_contents import CheckpointError
from lstm_jax.training.hyperparameters import injected
from lstm_jax.training.log import NAME as LOG
from lstm_jax.training.log import Extent, Log
from lstm_jax.training.options import RunError, RunOptions
from lstm_jax.training.progress import Progress, progress_of
from lstm_jax.training.step import Metrics
from lstm_jax.training.watch import Recorder

TAKEN = ("step", "seconds", "diverged", "skipped")
"""Names that the log uses."""


class IncompleteRunWarning(UserWarning):
    """A resumed run whose log or records lack something that its checkpoint names."""


def rows_of(metrics: Metrics) -> dict[str, Any]:
    """The numbers of steps that are logged, by name.

    Raises:
        RunError: metrics with names that the log uses.
    """
    rows = {"loss": metrics.loss, "gradient_norm": metrics.gradient_norm}
    _require_other_names(metrics.more, (*TAKEN, *rows))
    return {**rows, **metrics.more}


def entry_of(
    progress: Progress, options: RunOptions, log: Log, runs: int, skips: bool
) -> dict[str, Any]:
    """An entry of the log: the means of the steps since the last one, and the speed.

    Args:
        progress: of the run.
        options: of it.
        log: up to the last entry.
        runs: of a sweep, else 1.
        skips: whether steps that are not finite are left out, and counted.
    """
    done, unit, seconds = progress.done, options.unit, progress.seconds
    before = log.entries[-1] if log.entries else {"step": 0}
    passed = max(seconds - before.get("seconds", 0.0), 1e-9)
    steps = done - before["step"]
    entry = {
        "step": done,
        **progress.means(),
        f"{unit[0]}_per_second": round(steps * unit[1] * runs / passed, 1),
        "seconds": round(seconds, 3),
    }
    if skips:
        entry["skipped"] = (steps - np.asarray(progress.counts)).tolist()
    if progress.diverged:
        entry["diverged"] = dict(progress.diverged)
    return entry


def learning_rate_of(optimizer: PyTree) -> dict[str, Any]:
    """The learning rate, where an optimizer's state has one: that of `optax.inject_hyperparams`."""
    found = injected(optimizer)
    if "learning_rate" not in found:
        return {}
    return {"learning_rate": np.asarray(found["learning_rate"]).astype(np.float64).tolist()}


def numbers_of(measured: Any) -> dict[str, Any]:
    """What was evaluated, as plain numbers; in a sweep, lists of them.

    Raises:
        RunError: something else than names and numbers.
    """
    if not isinstance(measured, Mapping):
        raise RunError(
            "Type mismatch: expected evaluate(params) as a dict of numbers, got "
            f"{type(measured).__name__}."
        )
    found = {}
    for name, value in measured.items():
        if not isinstance(name, str):
            raise RunError(
                f"Type mismatch: expected texts as names of evaluate(params), got {name!r}."
            )
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            if array.dtype.kind != "V" or array.dtype.names:
                raise RunError(
                    f"Type mismatch: expected {name} of evaluate(params) as a number, got {value!r}."
                )
            # bfloat16 and its like have a kind of their own.
            array = array.astype(np.float64)
        found[name] = array.tolist()
    return found


def asked_to_end(answer: Any) -> bool:
    """What ``until(entry)`` answered.

    Raises:
        RunError: neither True nor False.
    """
    one = isinstance(answer, (jax.Array, np.ndarray)) and answer.dtype == bool and not answer.ndim
    if not one and not isinstance(answer, (bool, np.bool_)):
        raise RunError(f"Type mismatch: expected until(entry) as True or False, got {answer!r}.")
    return bool(answer)


def selected(
    measured: Mapping[str, Any], options: RunOptions, runs: np.ndarray | None = None
) -> dict[str, float] | None:
    """The number that selects the best checkpoint, in a sweep the mean; not finite counts as the worst.

    Args:
        measured: what was evaluated.
        options: of the run.
        runs: of a sweep, those that have not diverged.

    Raises:
        RunError: a name that was not measured, or one that the log uses.
    """
    _require_other_names(measured, (*TAKEN, "loss", "gradient_norm"))
    best = options.best
    if best is None or not measured:
        return None
    if best not in measured:
        raise RunError(f"Name mismatch: expected best among {sorted(measured)}, got {best!r}.")
    values = np.asarray(measured[best], np.float64)
    value = float(np.mean(values if runs is None or values.shape != runs.shape else values[runs]))
    worst = float("-inf" if options.best_mode == "max" else "inf")
    return {best: value if np.isfinite(value) else worst}


def kept_with(
    progress: Progress, log: Log, recorder: Recorder, constants: Sequence[float] = ()
) -> dict[str, Any]:
    """What a checkpoint holds beside the state: the progress, and which entries and records there are."""
    return {
        "progress": progress.as_json(),
        "log": log.extent._asdict(),
        "records": {name: list(steps) for name, steps in recorder.records.items()},
        "optimizer": list(map(str, constants)),
    }


def found_with(more: Any, where: Path) -> tuple[Progress, Extent]:
    """The progress in a checkpoint, and how far the log went.

    Raises:
        CheckpointError: a checkpoint that `fit` has not written.
    """
    progress = progress_of(more.get("progress")) if isinstance(more, dict) else None
    if progress is None:
        raise CheckpointError(
            f"Checkpoint mismatch: expected one that fit has written in {where}, got another."
        )
    return progress, Extent(**more["log"])


def warn_if_incomplete(more: Mapping[str, Any], log: Log, recorder: Recorder, folder: Path) -> None:
    """Say which entries of the log and which records a checkpoint names and the folder does not have."""
    named, found = more["log"], log.extent._asdict()
    said = []
    if named != found:
        got = f"{found['entries']} of them" if named["entries"] != found["entries"] else "others"
        said.append(
            f"Incomplete log: expected the {named['entries']} entries of the checkpoint in "
            f"{folder / LOG}, got {got}."
        )
    for name, steps in more["records"].items():
        lost = sorted(set(steps) - set(recorder.records.get(name, steps)))
        if lost:
            said.append(
                f"Incomplete records: expected whole ones of {len(steps)} steps in {folder / name}, got none "
                f"of {', '.join(map(str, lost[:5]))}{' and others' if len(lost) > 5 else ''}."
            )
    if said:
        warnings.warn(
            f"{' '.join(said)} The run goes on, and the rest can be used.",
            IncompleteRunWarning,
            stacklevel=4,
        )


def shown(entry: Mapping[str, Any], unit: tuple[str, int], measured: Sequence[str]) -> str:
    """The text behind the progress bar: loss, speed, and what was evaluated last."""
    rate = tqdm.format_sizeof(entry[f"{unit[0]}_per_second"])
    numbers = {name: np.asarray(entry[name]) for name in ("loss", *measured)}
    means = [
        f"{name} {np.nanmean(value) if np.isfinite(value).any() else np.nan:.4g}"
        for name, value in numbers.items()
    ]
    return f"{', '.join(means)}, {rate} {unit[0]}/s"


def _require_other_names(found: Mapping[str, Any], taken: tuple[str, ...]) -> None:
    for name in found:
        if name in taken:
            raise RunError(
                f"Name mismatch: expected names other than {', '.join(taken)}, got {name!r}."
            )
