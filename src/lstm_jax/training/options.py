"""The options of a run, and the checks before it starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from lstm_jax.array_types import PyTree
from lstm_jax.training.checkpoints import BEST_MODES
from lstm_jax.training.log import EVENTS, NAME, require_tensorboard
from lstm_jax.training.run_settings import SettingsError, settings_by_value
from lstm_jax.training.step import ON_NONFINITE, TrainState, require_mesh
from lstm_jax.training.watch import Watch
from lstm_jax.validation import (
    AnyPath,
    in_one_line,
    require_bool,
    require_floating_dtype,
    require_one_of,
    require_parameters,
    require_path,
    require_positive_int,
    require_text,
)

CHECKPOINTS = "checkpoints"


class RunError(ValueError):
    """A run that cannot be started."""


@dataclass(frozen=True)
class RunOptions:
    """Log, checkpoints and display of a run: no number depends on them, but when it ends may."""

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
    """The settings that define the run: numbers, texts, arrays, lists and dicts, stored by value. A
    checkpoint of other settings is refused."""
    unit: tuple[str, int] = ("steps", 1)
    """The unit of the speed, and its number in a step: ``("tokens", 1120)``."""
    evaluate: Callable[[PyTree], Mapping[str, Any]] | None = None
    """``evaluate(params) -> {name: number}``, logged, before the first step as well; in a sweep, with the
    seeds as the first axis of the parameters and of the numbers."""
    best: str | None = None
    """Which of those numbers selects the best checkpoint, among those after the first step."""
    best_mode: str = "min"
    """Whether its lowest value is the best, ``"min"``, or its highest, ``"max"``."""
    patience: int | None = None
    """Evaluations without a better value of ``best`` after which the run ends."""
    until: Callable[[Mapping[str, Any]], bool] | None = None
    """``until(entry)`` on each entry of the log from the first step on; true ends the run."""
    callback: Callable[[int, Mapping[str, Any], TrainState], object] | None = None
    """``callback(step, entry, state)`` on each entry of the log. The next step takes the memory of the state:
    copy what is to stay."""
    watches: Sequence[Watch] = ()
    """Measurements of the parameters during the run."""


class Computation(NamedTuple):
    """How a step is computed, as for `train_step`.

    Attributes:
        accumulate: parts of a batch, one after the other.
        compute_dtype: that of the loss and its gradient; the parameters' dtype if None.
        mesh: from `data_mesh` or `device_mesh`: the samples are spread over it; in a sweep, the seeds.
        on_nonfinite: a step whose loss or gradient is not finite ends the run, ``"stop"``, in a sweep that of
            its seed; or its update is left out and counted in the log, ``"skip"``.
    """

    accumulate: int = 1
    compute_dtype: Any = None
    mesh: Mesh | None = None
    on_nonfinite: str = "stop"


def checked_seeds(
    steps: int,
    seed: int | Sequence[int] | np.ndarray,
    options: RunOptions,
    computation: Computation,
    folder: AnyPath | None,
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
        for name in ("checkpoint_every", "evaluate_every", "patience"):
            if getattr(options, name) is not None:
                require_positive_int(name, getattr(options, name))
        require_positive_int("keep", options.keep)
        require_positive_int("accumulate", computation.accumulate)
        for name in ("resume", "overwrite", "tensorboard", "progress"):
            require_bool(name, getattr(options, name))
        _require_unit(options.unit)
        _require_watches(options.watches)
        require_one_of("best_mode", options.best_mode, BEST_MODES)
        require_one_of("on_nonfinite", computation.on_nonfinite, ON_NONFINITE)
        functions = {"evaluate": "params", "until": "entry", "callback": "step, entry, state"}
        for name, argument in functions.items():
            if getattr(options, name) is not None:
                require_parameters(name, getattr(options, name), argument)
        if options.best is not None:
            require_text("best", options.best)
        if computation.compute_dtype is not None:
            require_floating_dtype(computation.compute_dtype, "compute_dtype")
        require_mesh(computation.mesh)
        require_tensorboard(options.tensorboard)
    except (ValueError, TypeError) as error:
        raise RunError(str(error)) from None
    _require_together(options)
    if isinstance(seed, np.ndarray) and seed.ndim == 1:
        seed = seed.tolist()
    one = not isinstance(seed, Sequence) or isinstance(seed, (str, bytes))
    seeds: tuple[Any, ...] = (seed,) if one else tuple(seed)  # type: ignore[arg-type]
    if isinstance(seed, np.ndarray) and seed.ndim:
        raise RunError(
            f"Seed mismatch: expected seed as a number or a list, got {in_one_line(seed)}."
        )
    for value in seeds:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, np.integer))
            or not 0 <= value < 2**32
        ):
            raise RunError(
                f"Range mismatch: expected seed from 0 to 2^32 − 1, got {in_one_line(value)}."
            )
    if not seeds or len(set(seeds)) != len(seeds):
        raise RunError(
            f"Seed mismatch: expected one seed or different ones, got {in_one_line(seed)}."
        )
    if options.resume and options.overwrite:
        raise RunError("Option mismatch: expected resume or overwrite, got both.")
    if options.resume and folder is None:
        raise RunError("Option mismatch: expected a folder to resume from, got none.")
    return tuple(int(value) for value in seeds)


def checked_mesh(runs: int, computation: Computation) -> None:
    """Refuse a sweep whose runs cannot be spread over the devices alike.

    Raises:
        RunError: with their number.
    """
    mesh = computation.mesh
    if mesh is not None and runs % mesh.size:
        raise RunError(
            f"Seed mismatch: expected a number of seeds that {mesh.size} devices divide, got {runs}."
        )


def _require_together(options: RunOptions) -> None:
    """Refuse options that need others."""
    for name, other, why in (
        ("best", "evaluate", "which measures"),
        ("evaluate_every", "evaluate", "which is called by"),
        ("patience", "best", "which is waited for by"),
        ("patience", "evaluate_every", "by which is counted"),
    ):
        value = getattr(options, name)
        if value is not None and getattr(options, other) is None:
            raise RunError(f"Option mismatch: expected {other}, {why} {name}={value!r}, got none.")


def _require_unit(unit: Any) -> None:
    named = isinstance(unit, tuple) and len(unit) == 2 and isinstance(unit[0], str)
    if not named or not unit[0]:
        raise RunError(
            f"Type mismatch: expected unit as a name and a number, ('tokens', 1120), got {unit!r}."
        )
    require_positive_int(f"{unit[0]} in a step", unit[1])


def _require_watches(watches: Any) -> None:
    if not isinstance(watches, Sequence) or not all(isinstance(watch, Watch) for watch in watches):
        raise RunError(f"Type mismatch: expected watches as a list of Watch(...), got {watches!r}.")
    for watch in watches:
        name = watch.name
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise RunError(
                f"Name mismatch: expected the name of a watch as that of a folder, got {name!r}."
            )
        if name in (CHECKPOINTS, EVENTS, NAME):
            raise RunError(
                f"Name mismatch: expected the name of a watch other than {CHECKPOINTS}, {EVENTS} and {NAME}, "
                f"got {name!r}."
            )
        require_parameters(f"{name}: look", watch.look, "params")
        require_positive_int(f"{name}: every", watch.every)
    if len({watch.name for watch in watches}) < len(watches):
        raise RunError("Name mismatch: expected watches of different names, got some alike.")


def checked_folder(folder: AnyPath | None) -> Path | None:
    """The folder as a path.

    Raises:
        RunError: something else than a path, or an empty one.
    """
    try:
        return None if folder is None else require_path("folder", folder)
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from None


OWN_SETTINGS = ("seed", "accumulate", "compute_dtype", "data", "hyperparameters")
"""The names under which `fit` itself stores what defines a run."""


def checked_settings(options: RunOptions) -> dict[str, Any]:
    """The settings of the run, by value.

    Raises:
        RunError: settings without a value, or under a name of `fit`'s own.
    """
    try:
        return settings_by_value({} if options.settings is None else options.settings, OWN_SETTINGS)
    except SettingsError as error:
        raise RunError(str(error)) from None
