r"""Checkpoints of a run, by orbax: the latest ones and the best, each complete or absent.

    <folder>/<step>/state      the arrays of `TrainState`
    <folder>/<step>/about      JSON: the step, the settings of the run, what was measured there, the caller's
                               data, and checksums of every array and of the JSON itself

Orbax writes into a temporary folder and renames it, so a killed process never leaves half a checkpoint that
looks complete. The checksums find a checkpoint that was damaged later, and the step one that was renamed.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from lstm_jax.array_types import PyTree
from lstm_jax.training.checkpoint_contents import (
    ABOUT,
    FORMAT,
    CheckpointError,
    about_of,
    checksum_of,
    checksums,
    damaged,
    described,
    optimizer_parts,
    require_arrays_only,
    require_json,
    require_same,
    require_same_state,
)
from lstm_jax.training.orbax_noise import quiet_after_failure, without_noise
from lstm_jax.training.run_settings import settings_by_value
from lstm_jax.training.system_errors import reason
from lstm_jax.validation import (
    AnyPath,
    require_int,
    require_number,
    require_one_of,
    require_path,
    require_positive_int,
    require_text,
)

BEST_MODES = ("min", "max")
TEMPORARY = "orbax-checkpoint-tmp"
"""In the names of folders that a killed process leaves; orbax removes them."""


class Restored(NamedTuple):
    """The result of `Checkpoints.restore`.

    Attributes:
        state: with the structure, dtypes and shardings of ``like``.
        step: the number of steps after which it was written.
        more: the caller's data.
    """

    state: PyTree
    step: int
    more: Any


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: made where it does not exist.
        settings: of the run, stored by value; checkpoints of another run are refused.
        description: of the problem, as JSON; stored for `lstm_jax.training.load`.
        last: how many of the latest to keep.
        best: name of the measured number whose best checkpoint is kept as well; none if None.
        best_mode: ``"min"`` or ``"max"``: whether its lowest or its highest value is the best.

    Raises:
        CheckpointError: a folder that cannot be made, or whose checkpoints cannot be listed.
        ValueError: ``last`` is not a positive integer, or settings have no value (a function, a NaN).
    """

    def __init__(
        self,
        folder: AnyPath,
        settings: Mapping[str, Any],
        *,
        description: Any = None,
        last: int = 3,
        best: str | None = None,
        best_mode: str = "min",
    ) -> None:
        require_positive_int("last", last)
        if best is not None:
            require_text("best", best)
        require_one_of("best_mode", best_mode, BEST_MODES)
        self._best, self._best_mode = best, best_mode
        self._writing: int | None = None
        self._quiet = contextlib.ExitStack()
        self.folder = require_path("folder", folder).resolve()
        self._settings = settings_by_value(settings)
        require_json("description", description)
        self._description = description
        policies: list[Any] = [LatestN(last)]
        if best is not None:
            policies.append(
                BestN(
                    get_metric_fn=self._value,
                    # Orbax keeps the last of the sorted ones.
                    reverse=best_mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        try:
            with without_noise():
                self._manager = ocp.CheckpointManager(
                    self.folder,
                    options=ocp.CheckpointManagerOptions(
                        preservation_policy=AnyPreservationPolicy(policies),
                        # Without it orbax stores no measured numbers, and forgets the best one.
                        best_fn=None if best is None else self._value,
                        best_mode=best_mode,
                        cleanup_tmp_directories=True,
                        enable_async_checkpointing=True,
                    ),
                    item_names=("state", "about"),
                )
        except OSError as error:
            raise CheckpointError(
                f"Unwritable checkpoints: expected to write into {self.folder}, got: {reason(error)}."
            ) from None
        except Exception as error:  # From files that are damaged, of any type.
            raise CheckpointError(
                f"Damaged checkpoints: expected whole ones in {self.folder}, got: {reason(error)}. "
                "Move the damaged one away."
            ) from error

    def steps(self) -> list[int]:
        """The steps of the whole checkpoints, in order, once the last is written.

        Raises:
            CheckpointError: as `wait`.
        """
        self.wait()
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        measured: Mapping[str, float] | None = None,
        more: Any = None,
    ) -> None:
        """Write a checkpoint: the arrays are copied, and the files are written while the caller goes on.

        Args:
            step: steps done.
            state: a pytree of arrays.
            measured: numbers, among them the one that selects the best checkpoint.
            more: further data for `restore`, as JSON.

        Raises:
            CheckpointError: a full or unwritable disk, met by this checkpoint or by the one before it.
                Earlier checkpoints stay.
            ValueError: a step below 0; a number that is none, or is missing; data that JSON cannot hold.
            TypeError: a state of anything but arrays.
        """
        require_int("step", step)
        require_arrays_only("state", state)
        self._require_measured(measured)
        require_json("more", more)
        self.wait()
        about = {
            "format": FORMAT,
            "step": step,
            "settings": self._settings,
            "description": self._description,
            "arrays": described(state),
            "optimizer": optimizer_parts(state),
            "best": self._best,
            "best_mode": self._best_mode,
            "measured": dict(measured or {}),
            "checksums": checksums(state),
            "more": more,
        }
        about["checksum"] = checksum_of(about)
        self._writing = step
        self._quiet.enter_context(without_noise())
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_copied(state)), about=ocp.args.JsonSave(about)
                ),
                metrics=dict(measured) if measured else None,
                force=True,
            )
        except Exception as error:  # Orbax and tensorstore raise a dozen types.
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            CheckpointError: it cannot be written. Earlier checkpoints stay.
        """
        if self._writing is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error
        self._writing = None
        self._quiet.close()

    def _unwritten(self, error: Exception) -> CheckpointError:
        step, self._writing = self._writing, None
        with contextlib.suppress(Exception):  # The first error is told.
            self._manager.wait_until_finished()
        quiet_after_failure()
        self._quiet.close()
        return CheckpointError(
            f"Unwritten checkpoint: expected to write step {step} into {self.folder}, got: "
            f"{reason(error)}. The last whole one is {self.named_last()}."
        )

    def restore(self, like: PyTree, step: int | None = None) -> Restored:
        """Read a checkpoint.

        Args:
            like: a state of the expected structure, shapes, dtypes and shardings.
            step: of the checkpoint; the latest if None.

        Raises:
            CheckpointError: no checkpoint, a damaged one, or one of another run. Nothing is changed.
            TypeError: a ``like`` of anything but arrays.
        """
        require_arrays_only("like", like)
        self._require_own_names()
        steps = self.steps()
        if not steps or step not in (None, *steps):
            wanted = "a whole one" if step is None else f"that of step {step}"
            raise CheckpointError(
                f"No checkpoint: expected {wanted} in {self.folder}, got "
                f"{', '.join(map(str, steps)) or 'none'}."
            )
        step = steps[-1] if step is None else step
        where, about = self.folder / str(step), about_of(self.folder, step, steps)
        require_same(where, "Settings", about["settings"], self._settings)
        require_same_state(where, about, like)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            with without_noise():
                found = self._manager.restore(
                    step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                )
        except Exception as error:
            raise self._damaged(step, f"orbax cannot read it: {reason(error)}") from error
        state = found["state"]
        for name, actual in checksums(state).items():
            # An array that was spread over several processes has no checksum.
            if actual != about["checksums"].get(name, actual):
                raise self._damaged(step, f"the checksum of {name} is another one")
        return Restored(state, step, about["more"])

    def close(self) -> None:
        """Close orbax's manager, once the last checkpoint is written or has failed, which `wait` tells."""
        with self._quiet, contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        self._manager.close()

    def named_last(self) -> str:
        """The path of the last whole checkpoint, or ``none``."""
        steps = whole_steps(self.folder)
        return str(self.folder / str(steps[-1])) if steps else "none"

    def _value(self, measured: Mapping[str, float]) -> float:
        """The number that selects the best; of a checkpoint with another one, the worst."""
        worst = float("-inf" if self._best_mode == "max" else "inf")
        return worst if self._best is None else measured.get(self._best, worst)

    def _require_measured(self, measured: Any) -> None:
        """Refuse numbers that cannot select the best checkpoint."""
        if measured is None:
            return
        if not isinstance(measured, Mapping):
            raise TypeError(
                f"Type mismatch: expected measured as a dict of numbers, got {measured!r}."
            )
        for name, value in measured.items():
            require_text("a name in measured", name)
            # What was not finite comes from `fit` as an infinite number, and is never the best.
            if value not in (float("inf"), float("-inf")):
                require_number(f"measured.{name}", value)
        if self._best is not None and self._best not in measured:
            raise ValueError(
                f"Name mismatch: expected {self._best!r} in measured, got {sorted(measured)}."
            )

    def _require_own_names(self) -> None:
        """Refuse a checkpoint whose folder was renamed to something that is no step: orbax overlooks it."""
        steps = set(map(str, self.steps()))
        for path in sorted(self.folder.iterdir()):
            if path.name not in steps and (path / ABOUT).exists() and TEMPORARY not in path.name:
                raise CheckpointError(
                    f"Renamed checkpoint: expected folders named by their steps in {self.folder}, got "
                    f"{path.name!r}. Name it by its step or move it away."
                )

    def _damaged(self, step: int, what: str) -> CheckpointError:
        return damaged(self.folder, step, self.steps(), what)


def whole_steps(folder: Path) -> list[int]:
    """The steps of the whole checkpoints in a folder, which orbax names by the step when they are whole."""
    try:
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
    except OSError:
        return []


def _copied(state: PyTree) -> PyTree:
    """Arrays that stay while the next step takes the memory of the state.

    To write them, orbax copies them from the device first; on a CPU it reads them where they are.
    """
    if jax.default_backend() != "cpu":
        return state
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, state)
