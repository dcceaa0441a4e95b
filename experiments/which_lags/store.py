"""Finished groups in files: one small JSON for each, a line for each network."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.which_lags.groups import Group
from gradient_flow.results_folder import OutputError, read_json
from lstm_jax.atomic_write import write_file

FOLDER = "groups"
DIGITS = 5


def group_file(out: Path, group: Group) -> Path:
    """Where a group is kept."""
    return out / FOLDER / f"{group.name}.json"


def write_group(out: Path, group: Group, runs: list[dict[str, Any]], seconds: float) -> None:
    """Write a finished group, whole or not at all."""
    head = {"group": asdict(group), "seconds": round(seconds, 1)}
    lines = ",\n".join(json.dumps(_short(run), allow_nan=False) for run in runs)
    text = json.dumps(head)[:-1] + f', "runs": [\n{lines}\n]}}\n'

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    path = group_file(out, group)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, write)


def read_group(path: Path) -> dict[str, Any]:
    """A stored group, its numbers as numbers again.

    Raises:
        OutputError: a file that is damaged, or of something else.
    """
    found = read_json(path)
    try:
        for run in found["runs"]:
            looks = run["looks"].items()
            run["looks"] = {
                look: numbers and {name: float(value) for name, value in numbers.items()}
                for look, numbers in looks
            }
        found["group"]["task"], found["seconds"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OutputError(
            f"Unreadable group: expected group, seconds and runs in {path}, got others ({error!r})."
        ) from None
    return found


def is_done(out: Path, group: Group) -> bool:
    """Whether the group is stored, with the same settings."""
    path = group_file(out, group)
    return path.exists() and read_group(path)["group"] == json.loads(json.dumps(asdict(group)))


def _short(value: Any) -> Any:
    """Numbers with few digits; those that are not finite as words."""
    if isinstance(value, dict):
        return {str(key): _short(one) for key, one in value.items()}
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else str(value)
    return value
