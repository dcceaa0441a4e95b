"""How a run is kept and shown, and what is refused before it starts."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lstm_jax.training.log import NAME
from lstm_jax.training.watch import Watch
from lstm_jax.validation import require_positive_int

CHECKPOINTS = "checkpoints"


class RunError(ValueError):
    """A run that cannot be started."""


@dataclass(frozen=True)
class RunOptions:
    """How a run is kept and shown; none of it changes a number."""

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


def checked_seeds(
    steps: int,
    seed: int | Sequence[int],
    options: RunOptions,
    mesh: Mesh | None,
    unit: tuple[str, int],
    watches: Sequence[Watch],
    folder: Path | None,
) -> tuple[int, ...]:
    """Refuse options that no run could use.

    Returns:
        The seeds.

    Raises:
        RunError: with what was expected and what came.
    """
    try:
        require_positive_int("steps", steps)
        require_positive_int("log_every", options.log_every)
        for name in ("checkpoint_every", "evaluate_every"):
            if getattr(options, name) is not None:
                require_positive_int(name, getattr(options, name))
        require_positive_int("keep", options.keep)
        require_positive_int(f"{unit[0]} in a step", unit[1])
        for watch in watches:
            require_positive_int(f"{watch.name}: every", watch.every)
    except ValueError as error:
        raise RunError(str(error)) from None
    seeds = (seed,) if isinstance(seed, (int, np.integer)) else tuple(seed)
    if not seeds or len(set(seeds)) != len(seeds):
        raise RunError(f"Seed mismatch: expected one seed or different ones, got {seed!r}.")
    for value in seeds:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, np.integer))
            or not 0 <= value < 2**32
        ):
            raise RunError(f"Range mismatch: expected seed from 0 to 2^32 − 1, got {value!r}.")
    if not isinstance(seed, int) and mesh is not None and len(seeds) % mesh.size:
        raise RunError(
            f"Seed mismatch: expected a number of seeds that {mesh.size} devices divide, got {len(seeds)}."
        )
    if options.resume and options.overwrite:
        raise RunError("Option mismatch: expected resume or overwrite, got both.")
    if options.resume and folder is None:
        raise RunError("Option mismatch: expected a folder to resume from, got none.")
    return tuple(int(value) for value in seeds)


def require_free(folder: Path | None, options: RunOptions) -> None:
    """Make the folder; refuse one with a run in it, in all processes or in none.

    Raises:
        RunError: a folder with another run in it, or one that cannot be written.
    """
    if folder is None:
        return
    trouble = ""
    if jax.process_index() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = [path for path in (folder / CHECKPOINTS, folder / NAME) if path.exists()]
            if held and options.overwrite:
                _delete(held)
            elif held and not options.resume:
                trouble = (
                    f"Occupied folder: expected one without a run, got {held[0]}; resume it, overwrite it or "
                    "name another folder."
                )
        except OSError as error:
            trouble = f"Unwritable folder: expected to write into {folder}, got: {error.strerror}."
    if jax.process_count() > 1:
        told = multihost_utils.broadcast_one_to_all(np.int32(bool(trouble)))
        if told and not trouble:
            trouble = f"Unusable folder: expected {folder} to be free, got a refusal of the first process."
    if trouble:
        raise RunError(trouble)


def _delete(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
