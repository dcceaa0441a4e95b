"""The options of a run, and the checks before it starts."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lstm_jax.array_types import PyTree
from lstm_jax.training.log import EVENTS, NAME, Log, LogError, entries_upto, require_tensorboard
from lstm_jax.training.watch import Watch
from lstm_jax.validation import require_positive_int

CHECKPOINTS = "checkpoints"


class RunError(ValueError):
    """A run that cannot be started."""


@dataclass(frozen=True)
class RunOptions:
    """Log, checkpoints and display of a run. They change no number, but ``until`` may end the run."""

    resume: bool = False
    """Go on from the last checkpoint in the folder."""
    overwrite: bool = False
    """Replace the log and the checkpoints in the folder."""
    log_every: int = 100
    """Steps between two entries of the log."""
    checkpoint_every: int | None = 1000
    """Steps between two checkpoints; none but at the end if None."""
    evaluate_every: int | None = None
    """Steps between two evaluations; at the end only if None."""
    keep: int = 3
    """How many of the latest checkpoints are kept; the best one is kept as well."""
    tensorboard: bool = False
    """Write TensorBoard events beside the log."""
    progress: bool = True
    """Show a progress bar, where the output is a terminal."""
    settings: Mapping[str, Any] | None = None
    """The settings that define the run, as JSON; a checkpoint of other settings is refused."""
    unit: tuple[str, int] = ("steps", 1)
    """The unit of the speed, and its number in a step: ``("tokens", 1120)``."""
    evaluate: Callable[[PyTree], Mapping[str, Any]] | None = None
    """``evaluate(params) -> {name: number}``, logged; in a sweep, with the seeds as the first axis of the
    parameters and of the numbers."""
    best: str | None = None
    """Which of those numbers selects the best checkpoint, by its lowest value."""
    until: Callable[[Mapping[str, Any]], bool] | None = None
    """``until(entry)`` on each entry of the log; true ends the run."""
    watches: Sequence[Watch] = ()
    """Measurements of the parameters during the run."""


class Computation(NamedTuple):
    """How a step is computed, as for `train_step`.

    Attributes:
        accumulate: parts of a batch, one after the other.
        compute_dtype: that of the loss and its gradient; the parameters' dtype if None.
        mesh: from `data_mesh`: the samples are spread over it; in a sweep, the seeds.
    """

    accumulate: int = 1
    compute_dtype: Any = None
    mesh: Mesh | None = None


def checked_seeds(
    steps: int,
    seed: int | Sequence[int],
    options: RunOptions,
    computation: Computation,
    folder: Path | None,
) -> tuple[int, ...]:
    """Refuse options that no run could use.

    Returns:
        The seeds.

    Raises:
        RunError: naming the expected and the actual value.
    """
    try:
        require_positive_int("steps", steps)
        require_positive_int("log_every", options.log_every)
        for name in ("checkpoint_every", "evaluate_every"):
            if getattr(options, name) is not None:
                require_positive_int(name, getattr(options, name))
        require_positive_int("keep", options.keep)
        require_positive_int("accumulate", computation.accumulate)
        require_positive_int(f"{options.unit[0]} in a step", options.unit[1])
        for watch in options.watches:
            require_positive_int(f"{watch.name}: every", watch.every)
        require_tensorboard(options.tensorboard)
    except ValueError as error:
        raise RunError(str(error)) from None
    if len({watch.name for watch in options.watches}) < len(options.watches):
        raise RunError("Name mismatch: expected watches of different names, got some alike.")
    one = not isinstance(seed, Sequence)
    seeds: tuple[Any, ...] = tuple(seed) if isinstance(seed, Sequence) else (seed,)
    if not seeds or len(set(seeds)) != len(seeds):
        raise RunError(f"Seed mismatch: expected one seed or different ones, got {seed!r}.")
    for value in seeds:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, np.integer))
            or not 0 <= value < 2**32
        ):
            raise RunError(f"Range mismatch: expected seed from 0 to 2^32 − 1, got {value!r}.")
    mesh = computation.mesh
    if not one and mesh is not None and len(seeds) % mesh.size:
        raise RunError(
            f"Seed mismatch: expected a number of seeds that {mesh.size} devices divide, got {len(seeds)}."
        )
    if options.resume and options.overwrite:
        raise RunError("Option mismatch: expected resume or overwrite, got both.")
    if options.resume and folder is None:
        raise RunError("Option mismatch: expected a folder to resume from, got none.")
    return tuple(int(value) for value in seeds)


def holds_checkpoints(folder: Path) -> bool:
    """Whether there is a complete checkpoint; orbax names its folder by the step when it is complete."""
    found = folder / CHECKPOINTS
    return found.is_dir() and any(path.name.isdigit() for path in found.iterdir())


def refuse_occupied(folder: Path | None, options: RunOptions) -> None:
    """Refuse a folder that has a run, unless the options say to resume or overwrite it. Nothing is changed.

    Raises:
        RunError: naming the folder or file; in every process.
    """

    def refuse() -> None:
        if folder is None:
            return
        for path in (folder, folder / CHECKPOINTS):
            if path.exists() and not path.is_dir():
                raise RunError(f"Unwritable folder: expected a folder, got the file {path}.")
        log = folder / NAME
        if options.resume or options.overwrite:
            return
        if holds_checkpoints(folder) or (log.exists() and log.stat().st_size):
            raise RunError(
                f"Occupied folder: expected one without a run, got {folder}. Either resume it, overwrite it "
                "or name another folder."
            )

    together(refuse)


def prepared_log(folder: Path | None, options: RunOptions, upto: int | None) -> Log:
    """Make the folder, or clear it if it may be overwritten, and open its log.

    Args:
        folder: of the run.
        options: of the run.
        upto: steps of the checkpoint of a resumed run; None for a new run.

    Raises:
        RunError, LogError: a folder that cannot be written; in every process.
    """

    def prepare() -> Log:
        if folder is None:
            return Log(None)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if options.overwrite:
                for path in (folder / CHECKPOINTS, folder / EVENTS):
                    if path.exists():
                        shutil.rmtree(path)
        except OSError as error:
            raise RunError(
                f"Unwritable folder: expected to write into {folder}, got: {error.strerror or error}."
            ) from None
        return Log(folder, upto=upto, tensorboard=options.tensorboard)

    log = together(prepare)
    # The other processes write nothing, but have the same entries.
    return Log(None, entries=entries_upto(folder, upto)) if log is None else log


def together(action: Callable[[], Any]) -> Any:
    """Run an action in the first process; if it fails there, it fails in all.

    Returns:
        The action's result; None in the other processes.
    """
    failure, result = None, None
    if jax.process_index() == 0:
        try:
            result = action()
        except (RunError, LogError) as error:
            failure = error
    if jax.process_count() > 1:
        told = multihost_utils.broadcast_one_to_all(np.int32(failure is not None))
        if told and failure is None:
            failure = RunError(
                "Refused: expected the first process to begin, got an error. See its message."
            )
    if failure is not None:
        raise failure
    return result
