"""The parameters of a run out of its folder, with nothing else in hand."""

import time
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.training.checkpoint_contents import CheckpointError, about_of, damaged, require_same
from lstm_jax.training.checkpoints import whole_steps
from lstm_jax.training.options import CHECKPOINTS
from lstm_jax.training.orbax_noise import without_noise
from lstm_jax.training.system_errors import reason
from lstm_jax.validation import AnyPath, leaf_name, require_path

PARAMS = "params"
TRIES = 5
"""How often another checkpoint is read, where a run has deleted one meanwhile."""
DELETED_SECONDS = 0.1
"""In which a checkpoint that is being deleted is gone."""


class Loaded(NamedTuple):
    """What a checkpoint of a run holds for those who use it.

    Attributes:
        params: the parameters, as NumPy arrays.
        step: after which it was written.
        measured: what was measured there and selects the best, by name.
        settings: of the run, as they were stored.
        carry: what the run carried from step to step, such as states of the network.
        description: of the problem, as its ``description`` said; None where it said nothing.
    """

    params: PyTree
    step: int
    measured: dict[str, float]
    settings: dict[str, Any]
    carry: PyTree
    description: Any = None


def load(folder: AnyPath, which: str | int | None = "last", *, like: PyTree = None) -> Loaded:
    """The parameters of a run, from its last checkpoint, its best one, or that of a step.

    Neither the problem nor the optimizer is needed. Every array is checked by its checksum.

    Args:
        folder: of the run, as it was given to `fit`; or of its checkpoints.
        which: ``"last"``, ``"best"`` (by the number that ``best`` and ``best_mode`` named) or a step; None
            for the best where the run selects one, else for the last.
        like: parameters of the structure that is wanted, or their shapes (``jax.eval_shape(problem.init,
            key)``). If None they come as a dict of dicts, by the names of their parts.

    Returns:
        `Loaded`. In a sweep the seeds are the first axis of every array.

    Raises:
        CheckpointError: no such checkpoint, one that is damaged, or parameters of another structure.
        ValueError: ``which`` is something else.

    Example:
        >>> import tempfile, jax, jax.numpy as jnp, optax
        >>> from lstm_jax import training
        >>> problem = training.Problem(
        ...     init=lambda key: {"w": jnp.zeros(2)},
        ...     loss=lambda params, carry, batch, key: (((params["w"] - batch) ** 2).sum(), (carry, {})),
        ...     batch=lambda data, step, key: data,
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = training.fit(problem, optax.sgd(0.25), 20, data=jnp.array([2.0, 4.0]), folder=folder)
        ...     found = training.load(folder)
        >>> found.step, found.params["w"].round(3).tolist()
        (20, [2.0, 4.0])
    """
    path = require_path("folder", folder).resolve()
    inner = path / CHECKPOINTS
    path = inner if inner.is_dir() else path
    for _ in range(TRIES):
        steps = whole_steps(path)
        try:
            return _loaded(path, which, steps, like)
        except CheckpointError:
            # A run that is at work deletes earlier ones, perhaps the one that was to be read.
            time.sleep(DELETED_SECONDS)
            if whole_steps(path) == steps:
                raise
    return _loaded(path, which, whole_steps(path), like)


def _loaded(path: Path, which: Any, steps: list[int], like: PyTree) -> Loaded:
    step = _step(path, which, steps)
    about = about_of(path, step, steps)
    state = _state(path, step, steps)
    _require_whole(path, step, steps, about, state)
    params = state.get(PARAMS)
    if like is not None:
        params = in_structure(path / str(step), params, like)
    return Loaded(
        params,
        step,
        about.get("measured", {}),
        about["settings"],
        state.get("carry"),
        about.get("description"),
    )


def _step(path: Path, which: Any, steps: list[int]) -> int:
    if isinstance(which, (int, np.integer)) and not isinstance(which, bool):
        if which in steps:
            return int(which)
        wanted = f"that of step {which}"
    elif which not in ("last", "best", None):
        raise ValueError(
            f"Unknown checkpoint: expected which as 'last', 'best' or a step, got {which!r}."
        )
    else:
        wanted = "a whole one"
    if not steps or which not in ("last", "best", None):
        raise CheckpointError(
            f"No checkpoint: expected {wanted} in {path}, got {', '.join(map(str, steps)) or 'none'}."
        )
    if which == "last":
        return steps[-1]
    # A resumed run may select by another number than before: the last one counts.
    last = about_of(path, steps[-1], steps)
    measured: dict[int, float] = {}
    for one in steps:
        # What was not finite was stored as infinite, and is never the best.
        found = about_of(path, one, steps).get("measured", {}).get(last["best"], np.inf)
        if np.isfinite(found):
            measured[one] = -found if last["best_mode"] == "max" else found
    if not measured and which is None:
        return steps[-1]
    if not measured:
        raise CheckpointError(
            f"No best checkpoint: expected one with a finite number that was measured in {path}, got none. "
            "Name best= and evaluate= in the run's options."
        )
    return min(measured, key=lambda one: (measured[one], -one))


def _state(path: Path, step: int, steps: list[int]) -> dict[str, Any]:
    """All arrays of a checkpoint, by names within names."""
    import orbax.checkpoint as ocp

    place = path / str(step) / "state"
    try:
        with warnings.catch_warnings(), without_noise(), ocp.PyTreeCheckpointer() as reader:
            warnings.simplefilter("ignore")  # on devices: none is needed
            tree = reader.metadata(place).item_metadata.tree
            wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            found: dict[str, Any] = reader.restore(place, restore_args=wanted)
    except Exception as error:  # Orbax and tensorstore raise a dozen types.
        raise damaged(path, step, steps, f"orbax cannot read it: {reason(error)}") from error
    return found


def _flat(tree: Any, name: str = "") -> dict[str, np.ndarray]:
    """Leaves by the names that a checkpoint has of them."""
    if isinstance(tree, (Mapping, list, tuple)):
        parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        return {
            full: leaf
            for key, part in parts
            for full, leaf in _flat(part, f"{name}.{key}" if name else str(key)).items()
        }
    return {} if tree is None else {name: tree}


def _require_whole(
    path: Path, step: int, steps: list[int], about: dict[str, Any], state: dict[str, Any]
) -> None:
    for name, array in _flat(state).items():
        actual = zlib.crc32(np.ascontiguousarray(array).tobytes())
        # An array that was spread over several processes has no checksum.
        if about["checksums"].get(name, actual) != actual:
            raise damaged(path, step, steps, f"the checksum of {name} is another one")


def in_structure(where: Path, params: Any, like: PyTree) -> PyTree:
    """Parameters by their names in a structure of which the names, shapes and dtypes agree.

    Args:
        where: they were found, for the message.
        params: as `load` gives them.
        like: of the structure that is wanted.

    Raises:
        CheckpointError: naming the first that differs.
    """
    found = _flat(params)
    pairs, tree = jax.tree_util.tree_flatten_with_path(like)
    names = [leaf_name(path) if path else "" for path, _ in pairs]
    # Numbers of Python, too.
    kinds = [getattr(leaf, "dtype", None) or np.asarray(leaf).dtype for _, leaf in pairs]
    expected = {
        name: f"{np.dtype(kind).name}{list(np.shape(leaf))}"
        for name, kind, (_, leaf) in zip(names, kinds, pairs, strict=True)
    }
    actual = {name: f"{leaf.dtype.name}{list(leaf.shape)}" for name, leaf in found.items()}
    require_same(where, "Parameters", actual, expected)
    return jax.tree.unflatten(tree, [found[name] for name in names])
