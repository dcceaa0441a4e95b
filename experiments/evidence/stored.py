"""Reported runs, stored in small: ``experiments/NAME/stored/RUN.json``.

command       how the run was started
minutes       of one CPU core, or None where it was not measured
transcribed   true where the numbers were copied from a page, because the run itself is gone; or in words of
              which seeds that holds
environment   versions, where the run kept them
results       what the run kept in ``results.json``; several runs that differ by their seed are a list
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradient_flow.results_folder import FINISHED, OutputError, read_json
from lstm_jax.atomic_write import write_file

EXPERIMENTS = Path(__file__).resolve().parents[1]
ENVIRONMENT = "environment.json"
MOST_BYTES = 300_000
"""Of a stored run: more is not small."""


def path_of(experiment: str, run: str) -> Path:
    """Where a run is stored."""
    return EXPERIMENTS / experiment / "stored" / f"{run}.json"


def read_run(experiment: str, run: str) -> dict[str, Any]:
    """A stored run.

    Raises:
        OutputError: it is not there, or damaged.
    """
    path = path_of(experiment, run)
    if not path.exists():
        raise OutputError(f"No stored run: expected {run} of {experiment}, got none.")
    return read_json(path)


def store_run(
    experiment: str,
    run: str,
    folders: Sequence[Path],
    *,
    command: str,
    minutes: float | None,
    add: bool = False,
) -> Path:
    """Store the results of a finished run, or of several that differ by their seed.

    Args:
        experiment: name of its folder.
        run: under which name.
        folders: where ``results.json`` lies.
        command: how it was started.
        minutes: of one CPU core.
        add: whether they are further seeds of what is stored already.

    Raises:
        OutputError: a folder that is not finished, nothing to add to, or results that are not small.
    """
    for folder in folders:
        if not (folder / FINISHED).exists():
            raise OutputError(f"Unfinished run: expected {FINISHED} in {folder}, got none.")
    found = [read_json(folder / FINISHED) for folder in folders]
    versions = folders[0] / ENVIRONMENT
    transcribed: bool | str = False
    if add:
        before = read_run(experiment, run)
        found = [*(b if isinstance(b := before["results"], list) else [b]), *found]
        transcribed = before["transcribed"]
        known = before["minutes"] is not None and minutes is not None
        minutes = before["minutes"] + minutes if known else None
    content = {
        "command": command,
        "minutes": minutes,
        "transcribed": transcribed,
        "environment": read_json(versions) if versions.exists() else None,
        "results": short(found[0] if len(found) == 1 else found),
    }
    # A line for each entry of a list, so that a change shows where it is.
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if len(text) > MOST_BYTES:
        raise OutputError(
            f"Size mismatch: expected at most {MOST_BYTES:,} bytes for a stored run, got {len(text):,}."
        )
    path = path_of(experiment, run)
    path.parent.mkdir(exist_ok=True)

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    write_file(path, write)
    return path


PLACES = ("out", "data", "overwrite", "resume")
"""Settings that say where a run was, and not what it was."""


def short(value: Any) -> Any:
    """Numbers with six digits, and no place of the machine."""
    if isinstance(value, dict):
        return {key: short(one) for key, one in value.items() if key not in PLACES}
    if isinstance(value, list):
        return [short(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
