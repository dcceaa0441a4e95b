"""Make the log's entries from the metrics of steps, and refuse metrics that are not finite."""

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from lstm_jax.array_types import PyTree
from lstm_jax.training.checkpoint_contents import CheckpointError
from lstm_jax.training.log import NAME as LOG
from lstm_jax.training.log import Log
from lstm_jax.training.options import RunError
from lstm_jax.training.step import Metrics
from lstm_jax.training.watch import Recorder
from lstm_jax.validation import NonFiniteError

TAKEN = ("step", "seconds", "diverged")
"""Names that the log uses."""


class DivergedError(NonFiniteError):
    """A loss, a gradient or parameters that are not finite; the run is stopped."""


class IncompleteRunWarning(UserWarning):
    """A resumed run whose log or records lack something that its checkpoint names."""


class Progress(NamedTuple):
    """The progress of a run.

    Attributes:
        done: steps done.
        pending: rows of the steps since the last entry of the log.
        seconds: of training.
        stopped_early: whether ``until`` ended the run before its last step.
    """

    done: int = 0
    pending: Any = ()
    seconds: float = 0.0
    stopped_early: bool = False


def row_of(metrics: Metrics) -> dict[str, Any]:
    """One step for the log: plain numbers; in a sweep, lists of them."""
    row = {"loss": metrics.loss, "gradient_norm": metrics.gradient_norm}
    _require_other_names(metrics.more, (*TAKEN, *row))
    return {name: np.asarray(value).tolist() for name, value in {**row, **metrics.more}.items()}


def entry_of(
    done: int,
    rows: list[dict[str, Any]],
    unit: tuple[str, int],
    seconds: float,
    log: Log,
    count: int,
) -> dict[str, Any]:
    """An entry of the log: the means of the steps since the last one, and the speed."""
    means = {
        name: np.mean([row[name] for row in rows], axis=0, dtype=np.float64).tolist()
        for name in rows[0]
    }
    before = log.entries[-1] if log.entries else {"step": 0, "seconds": 0.0}
    passed = max(seconds - before.get("seconds", 0.0), 1e-9)
    rate = (done - before["step"]) * unit[1] * count / passed
    return {
        "step": done,
        **means,
        f"{unit[0]}_per_second": round(rate, 1),
        "seconds": round(seconds, 3),
    }


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


def lowest(measured: Mapping[str, Any], best: str | None) -> dict[str, float] | None:
    """The number that selects the best checkpoint, in a sweep the mean; not finite counts as infinite.

    Raises:
        RunError: a name that was not measured, or one that the log uses.
    """
    _require_other_names(measured, (*TAKEN, "loss", "gradient_norm"))
    if best is None or not measured:
        return None
    if best not in measured:
        raise RunError(f"Name mismatch: expected best among {sorted(measured)}, got {best!r}.")
    value = float(np.mean(measured[best]))
    return {best: value if np.isfinite(value) else float("inf")}


def kept_with(progress: Progress, log: Log, recorder: Recorder) -> dict[str, Any]:
    """What a checkpoint holds beside the state: the progress, and which entries and records there are."""
    return {
        "progress": progress._asdict(),
        "log": log.extent(),
        "records": {name: list(steps) for name, steps in recorder.records.items()},
    }


def progress_of(more: Any, where: Path) -> Progress:
    """The progress in a checkpoint.

    Raises:
        CheckpointError: a checkpoint that `fit` has not written.
    """
    if not isinstance(more, dict) or set(more.get("progress", ())) != set(Progress._fields):
        raise CheckpointError(
            f"Checkpoint mismatch: expected one that fit has written in {where}, got another."
        )
    return Progress(**more["progress"])


def warn_if_incomplete(more: Mapping[str, Any], log: Log, recorder: Recorder, folder: Path) -> None:
    """Say which entries of the log and which records a checkpoint names and the folder does not have."""
    named, found = more["log"], log.extent()
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


def shown(entry: Mapping[str, Any], unit: tuple[str, int]) -> str:
    """The text behind the progress bar."""
    rate = tqdm.format_sizeof(entry[f"{unit[0]}_per_second"])
    return f"loss {np.mean(entry['loss']):.4f}, {rate} {unit[0]}/s"


def require_finite_rows(
    rows: list[Metrics],
    before: Metrics | None,
    done: int,
    names: list[str],
    seeds: tuple[int, ...] | None,
) -> None:
    """Refuse a loss or a gradient that is not finite.

    Args:
        rows: of the latest steps.
        before: of the step before them, if there was one.
        done: steps, the latest included.
        names: of the parameters.
        seeds: of a sweep, else None.

    Raises:
        DivergedError: naming the step, the seed, and the norm of every parameter's gradient.
    """
    for n, row in enumerate(rows):
        bad = np.asarray(~(np.isfinite(row.loss) & np.isfinite(row.gradient_norm)))
        if not bad.any():
            continue
        which, whose = _first(bad, seeds)
        earlier = rows[n - 1] if n else before
        then = f" (before it: {_named(names, earlier.gradient_norms[which])})" if earlier else ""
        raise DivergedError(
            f"Diverged: expected a finite loss and gradient{whose}, got a loss of {row.loss[which]:g} at "
            f"step {done - len(rows) + n + 1}; norms of the gradient: "
            f"{_named(names, row.gradient_norms[which])}{then}"
        )


def require_finite_params(
    params: PyTree, row: Metrics, done: int, names: list[str], seeds: tuple[int, ...] | None
) -> None:
    """Refuse parameters that are not finite, before they are saved, watched or evaluated.

    Raises:
        DivergedError: naming the parameters, the step, and the norm of every parameter's gradient.
    """
    finite = np.asarray(_finite(params, seeds is not None))
    if finite.all():
        return
    bad = np.asarray(~finite.all(-1))
    which, whose = _first(bad, seeds)
    wrong = ", ".join(name for name, fine in zip(names, finite[which], strict=True) if not fine)
    raise DivergedError(
        f"Diverged: expected finite parameters{whose}, got some that are not in {wrong} after step {done}; "
        f"norms of the gradient: {_named(names, row.gradient_norms[which])}"
    )


@partial(jax.jit, static_argnums=1)
def _finite(params: PyTree, sweep: bool) -> Any:
    axes = (lambda leaf: tuple(range(1, leaf.ndim))) if sweep else (lambda leaf: None)
    return jnp.stack([jnp.isfinite(p).all(axes(p)) for p in jax.tree.leaves(params)], axis=-1)


def _first(bad: np.ndarray, seeds: tuple[int, ...] | None) -> tuple[Any, str]:
    """In a sweep, the first seed that is not finite."""
    if seeds is None:
        return (), ""
    which = int(np.argmax(bad))
    return which, f" of seed {seeds[which]}"


def _named(names: list[str], norms: Any) -> str:
    return ", ".join(f"{name} {norm:.3g}" for name, norm in zip(names, norms, strict=True))


def _require_other_names(found: Mapping[str, Any], taken: tuple[str, ...]) -> None:
    for name in found:
        if name in taken:
            raise RunError(
                f"Name mismatch: expected names other than {', '.join(taken)}, got {name!r}."
            )
