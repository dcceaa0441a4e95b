r"""Checkpoints of a run, by orbax: the latest ones and the best, each complete or absent.

    <folder>/<step>/state      the arrays of `TrainState`
    <folder>/<step>/about      JSON: the settings of the run, a checksum of every array, the caller's data

Orbax writes into a temporary folder and renames it, so a killed process never leaves half a checkpoint that
looks complete. The checksums find a checkpoint that was damaged later.
"""

import json
import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from lstm_jax.array_types import PyTree
from lstm_jax.validation import leaf_name, require_positive_int, show_shape

FORMAT = 1
"""The format of ``about``; a checkpoint of another format is refused."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used."""


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
        settings: of the run, as JSON; checkpoints of another run are refused.
        last: how many of the latest to keep.
        best: name of the measured number whose lowest checkpoint is kept as well; none if None.

    Raises:
        CheckpointError: a folder that cannot be made.
        ValueError: ``last`` is not a positive integer.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, last: int = 3, best: str | None = None
    ) -> None:
        require_positive_int("last", last)
        self.folder = folder.resolve()
        self._settings = json.loads(json.dumps(settings, default=str))
        policies: list[Any] = [LatestN(last)]
        if best is not None:
            policies.append(
                BestN(
                    get_metric_fn=lambda measured: measured[best],
                    # Orbax keeps the last of the sorted ones, and the best is the lowest.
                    reverse=True,
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        logging.getLogger("absl").setLevel(logging.ERROR)
        try:
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=AnyPreservationPolicy(policies),
                    # Without it orbax stores no measured numbers, and forgets the best one.
                    best_fn=None if best is None else lambda measured: measured[best],
                    best_mode="min",
                    cleanup_tmp_directories=True,
                    enable_async_checkpointing=False,
                ),
                item_names=("state", "about"),
            )
        except OSError as error:
            raise CheckpointError(
                f"Unwritable checkpoints: expected to write into {self.folder}, got: "
                f"{error.strerror or error}."
            ) from None

    def steps(self) -> list[int]:
        """The steps of the whole checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        measured: Mapping[str, float] | None = None,
        more: Any = None,
    ) -> None:
        """Write a checkpoint.

        Args:
            step: steps done.
            state: a pytree of arrays.
            measured: numbers, among them the one that selects the best checkpoint.
            more: further data for `restore`, as JSON.

        Raises:
            CheckpointError: a full or unwritable disk. Earlier checkpoints stay.
        """
        about = {
            "format": FORMAT,
            "settings": self._settings,
            "arrays": _described(state),
            "checksums": checksums(state),
            "more": more,
        }
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
                ),
                metrics=dict(measured) if measured else None,
                force=True,
            )
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax and tensorstore raise a dozen types.
            raise CheckpointError(
                f"Unwritten checkpoint: expected to write step {step} into {self.folder}, got: "
                f"{_first_line(error)}. The last whole one is {self.named_last()}."
            ) from error

    def restore(self, like: PyTree, step: int | None = None) -> Restored:
        """Read a checkpoint.

        Args:
            like: a state of the expected structure, shapes, dtypes and shardings.
            step: of the checkpoint; the latest if None.

        Raises:
            CheckpointError: no checkpoint, a damaged one, or one of another run. Nothing is changed.
        """
        if step is None:
            if not self.steps():
                raise CheckpointError(
                    f"No checkpoint: expected a whole one in {self.folder}, got none."
                )
            step = self.steps()[-1]
        about = self._about(step)
        if about.get("format") != FORMAT:
            raise CheckpointError(
                f"Checkpoint mismatch: expected format {FORMAT} in {self.folder / str(step)}, got "
                f"{about.get('format')!r}."
            )
        _require_same(self.folder / str(step), "Settings", about["settings"], self._settings)
        where = self.folder / str(step)
        _require_same(where, "State", about["arrays"], _described(like))
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            found = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            )
        except Exception as error:
            raise self._damaged(step, _first_line(error)) from error
        state = found["state"]
        for name, actual in checksums(state).items():
            # An array that was spread over several processes has no checksum.
            if actual != about["checksums"].get(name, actual):
                raise self._damaged(step, f"the checksum of {name} is another one")
        return Restored(state, step, about["more"])

    def close(self) -> None:
        """Close orbax's manager."""
        self._manager.close()

    def named_last(self) -> str:
        """The path of the last whole checkpoint, or ``none``."""
        try:
            steps = self.steps()
        except OSError:
            steps = []
        return str(self.folder / str(steps[-1])) if steps else "none"

    def _about(self, step: int) -> dict[str, Any]:
        try:
            found = self._manager.restore(
                step, args=ocp.args.Composite(about=ocp.args.JsonRestore())
            )["about"]
        except Exception as error:
            raise self._damaged(step, _first_line(error)) from error
        if not isinstance(found, dict) or not {"settings", "arrays", "checksums", "more"} <= set(
            found
        ):
            raise self._damaged(step, "it does not name its run")
        return found

    def _damaged(self, step: int, what: str) -> CheckpointError:
        others = [n for n in self.steps() if n != step]
        rescue = f"; {self.folder / str(others[-1])} is there as well" if others else ""
        return CheckpointError(
            f"Damaged checkpoint: expected a whole one in {self.folder / str(step)}, got: {what}{rescue}."
        )


def _described(state: PyTree) -> dict[str, str]:
    """Dtype and shape of every array, ``float32[8, 4]``."""
    return {
        leaf_name(path): f"{jnp.result_type(leaf).name}{show_shape(jnp.shape(leaf))}"
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
    }


def checksums(state: PyTree) -> dict[str, int]:
    """CRC-32 of every array that is complete in this process."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            if not leaf.is_fully_replicated:
                continue
            leaf = leaf.addressable_data(0)
        found[leaf_name(path)] = zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).tobytes())
    return found


def _require_same(where: Path, what: str, found: Any, expected: Any, name: str = "") -> None:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            _require_same(
                where, what, found.get(key), expected.get(key), f"{name}.{key}" if name else key
            )
    elif found != expected:
        raise CheckpointError(
            f"{what} mismatch: expected {name} {found!r}, as in {where}, got {expected!r}."
        )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    return line[:200].rstrip(".")
