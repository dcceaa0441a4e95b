"""What a checkpoint says of itself, and whether it is that of a run: settings, arrays, optimizer."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.training.system_errors import reason
from lstm_jax.validation import leaf_name, require_array, show_shape

FORMAT = 3
"""The format of ``about``; a checkpoint of another format is refused."""
ABOUT = Path("about", "metadata")
"""Where in its folder a checkpoint says what it is."""


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used."""


def about_of(folder: Path, step: int, steps: Sequence[int]) -> dict[str, Any]:
    """What a checkpoint says of itself, whole and of this step.

    Args:
        folder: of the checkpoints.
        step: of the checkpoint.
        steps: of all of them.

    Raises:
        CheckpointError: damaged, renamed, or of another format.
    """
    where = folder / str(step)
    try:
        # Not by orbax, which hides what is wrong with the file.
        found = json.loads((where / ABOUT).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(folder, step, steps, f"{ABOUT}: {reason(error)}") from None
    if isinstance(found, dict) and isinstance(found.get("format"), int):
        if found["format"] != FORMAT:
            raise CheckpointError(
                f"Checkpoint mismatch: expected format {FORMAT} in {where}, got {found['format']}."
            )
    if not isinstance(found, dict) or found.get("checksum") != checksum_of(found):
        raise damaged(folder, step, steps, f"the checksum of {ABOUT} is another one")
    if found["step"] != step:
        raise CheckpointError(
            f"Renamed checkpoint: expected that of step {step} in {where}, got that of step "
            f"{found['step']}. Name it by its step or move it away."
        )
    return found


def damaged(folder: Path, step: int, steps: Sequence[int], what: str) -> CheckpointError:
    """The error of a damaged checkpoint, with another one to go on from."""
    others = [n for n in steps if n != step]
    rescue = f" Move it away to go on from step {others[-1]}." if others else ""
    return CheckpointError(
        f"Damaged checkpoint: expected a whole one in {folder / str(step)}, got: {what}.{rescue}"
    )


def checksum_of(about: Mapping[str, Any]) -> int:
    """CRC-32 of what a checkpoint says of itself, but for this number."""
    rest = {name: value for name, value in about.items() if name != "checksum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def optimizer_parts(state: PyTree) -> list[str] | None:
    """The parts of the optimizer's state by type, ``ScaleByAdamState``; None of a state without one."""
    part = getattr(state, "optimizer", None)
    if part is None:
        return None
    names: list[str] = []

    def walk(tree: Any) -> None:
        kind = tree.node_data()
        if kind is not None and hasattr(kind[0], "_fields"):
            names.append(kind[0].__name__)
        for child in tree.children():
            walk(child)

    walk(jax.tree.structure(part))
    return names


def require_same_state(where: Path, about: Mapping[str, Any], like: PyTree) -> None:
    """Refuse a state of other arrays or another optimizer, naming the first that differs.

    Raises:
        CheckpointError: the parameters differ, or they agree and the optimizer differs.
    """
    found, expected = about["arrays"], described(like)

    def rest(arrays: dict[str, str]) -> dict[str, str]:
        return {name: kind for name, kind in arrays.items() if not name.startswith("optimizer.")}

    require_same(where, "State", rest(found), rest(expected))
    theirs, ours = about["optimizer"], optimizer_parts(like)
    if theirs != ours:
        raise CheckpointError(
            f"Optimizer mismatch: expected the optimizer of the checkpoint in {where}, whose state is "
            f"{', '.join(theirs or ['none'])}, got one with {', '.join(ours or ['none'])}. Use the same "
            "optimizer, or begin a new run."
        )
    require_same(where, "Optimizer", found, expected)


def require_arrays_only(name: str, state: PyTree) -> None:
    """Refuse a state with leaves that are neither arrays nor numbers.

    Raises:
        TypeError: naming the leaf.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        if not isinstance(leaf, (bool, int, float, complex)):
            require_array(f"{name}.{leaf_name(path)}" if path else name, leaf)


def require_json(name: str, value: Any) -> None:
    """Refuse what JSON cannot hold.

    Raises:
        ValueError: with what came.
    """
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Value mismatch: expected {name} as JSON holds it, got {reason(error)}."
        ) from None


def described(state: PyTree) -> dict[str, str]:
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
        # Its bytes as they lie there: a copy would double the memory of large data.
        whole = np.ascontiguousarray(np.asarray(leaf)).reshape(-1)
        found[leaf_name(path)] = zlib.crc32(whole.view(np.uint8).data)
    return found


def require_same(where: Path, what: str, found: Any, expected: Any, name: str = "") -> None:
    """Refuse settings or arrays that differ from those of a checkpoint, naming the first.

    Args:
        where: the checkpoint's folder.
        what: "Settings", "State" or "Optimizer".
        found: in the checkpoint.
        expected: of the run.
        name: of the value inside of the settings.

    Raises:
        CheckpointError: with both values.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        # Checksums of the data say least of what differs.
        for key in sorted({*found, *expected}, key=lambda key: (key == "data", key)):
            require_same(
                where, what, found.get(key), expected.get(key), f"{name}.{key}" if name else key
            )
    elif found != expected:
        raise CheckpointError(
            f"{what} mismatch: expected {name or what.lower()} {found!r}, as in {where}, got {expected!r}."
        )
