"""Read a folder that orbax wrote: a checkpoint of any JAX library, or the last one of a run.

    _METADATA, manifest.ocdbt      a checkpoint
    1000/state, 2000/state, …      steps of a manager; the last one is read
    checkpoints/2000/state         a run of `lstm_jax.training`, whose gates are in the order of `lstm_jax`

Orbax is imported when a folder is read. What a checkpoint unpacks to is bounded by its size.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.weights.flat_arrays import flat_arrays

INSIDE = ("checkpoints", "state", "default", "params", "model")
"""Folders in which a checkpoint is looked for."""
DEEPEST = 5
WIDEST = 8
"""Bytes of one number, at most."""


class Checkpoint(NamedTuple):
    """Arrays by their names, and whether a run of `lstm_jax.training` wrote them."""

    arrays: dict[str, Any]
    ours: bool


def read_folder(path: Path, always: int, ratio: int) -> Checkpoint:
    """The arrays of the checkpoint in a folder.

    Args:
        path: of a checkpoint, of a folder of steps, or of a run.
        always: bytes to which it may unpack whatever its size.
        ratio: times its own size to which it may unpack beyond that.

    Raises:
        ValueError: a folder without a checkpoint, or a damaged one.
    """
    place = _checkpoint_in(path, 0)
    if place is None:
        raise ValueError(
            f"Folder mismatch: expected a checkpoint of orbax or a run's folder in {path}, got neither."
        )
    try:
        metadata = json.loads((place / "_METADATA").read_bytes())["tree_metadata"]
        shapes = [entry["value_metadata"].get("write_shape") or [] for entry in metadata.values()]
        unpacked = sum(WIDEST * math.prod(shape) for shape in shapes)
    except Exception as error:  # Of a damaged file, a dozen types.
        raise _damaged(place, error) from error
    packed = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    if unpacked > always + ratio * packed:
        raise ValueError(
            f"Folder mismatch: expected {place} to unpack to at most {ratio} times its size, got {unpacked} "
            f"bytes in {packed}."
        )
    import orbax.checkpoint as ocp

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on devices: none is needed
            reader = ocp.PyTreeCheckpointer()
            tree = reader.metadata(place.resolve()).item_metadata.tree
            wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            found = reader.restore(place.resolve(), restore_args=wanted)
    except Exception as error:  # Orbax and tensorstore raise a dozen types.
        raise _damaged(place, error) from error
    return Checkpoint(
        flat_arrays({"": found} if not isinstance(found, dict) else found), _is_ours(place)
    )


def _checkpoint_in(path: Path, depth: int) -> Path | None:
    """The folder with the arrays: this one, or the last step's in it."""
    if (path / "_METADATA").is_file():
        return path
    if depth == DEEPEST:
        return None
    folders = {inner.name: inner for inner in path.iterdir() if inner.is_dir()}
    steps = sorted((name for name in folders if name.isdecimal()), key=int, reverse=True)
    for name in [*steps, *(name for name in INSIDE if name in folders)]:
        found = _checkpoint_in(folders[name], depth + 1)
        if found is not None:
            return found
    return None


def _is_ours(place: Path) -> bool:
    """Whether a run of `lstm_jax.training` wrote it: it says beside it what it holds."""
    try:
        about = json.loads((place.parent / "about" / "metadata").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(about, dict) and {"format", "settings", "checksums"} <= set(about)


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"Folder mismatch: expected a whole checkpoint in {path}, got: {str(error)[:300].rstrip('.')}."
    )
