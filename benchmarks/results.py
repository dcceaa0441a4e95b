"""The folder of results, written again after every case: a run that is killed loses only its last case."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradient_flow.results_folder import FINISHED, OutputError, claim_folder, read_json, write_json
from lstm_jax.atomic_write import write_file

TABLES = "tables.md"
ENVIRONMENT = "environment.json"


def claim(out: Path | None) -> Path:
    """The folder ``out``, or the next free ``runs/bench-<date>``, ``…-2``, …: made, and empty.

    It is this run's until `gradient_flow.results_folder.release_folder` or the end of the process.

    Raises:
        OutputError: a folder that holds files already, that another run writes into, or that cannot be made
            or written.
    """
    return claim_folder(_next_free() if out is None else out, "bench", overwrite=False)


def write(
    folder: Path, results: Mapping[str, Any], environment: Mapping[str, Any], tables: str
) -> None:
    """Write ``environment.json``, ``tables.md`` and ``results.json``, each whole or not at all."""

    def write_tables(path: Path) -> None:
        path.write_text(tables + "\n", encoding="utf-8")

    write_json(folder / ENVIRONMENT, dict(environment))
    write_json(folder / FINISHED, dict(results))
    write_file(folder / TABLES, write_tables)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results and environment of a run, finished or not.

    Raises:
        OutputError: a folder without them.
    """
    for name in (FINISHED, ENVIRONMENT):
        if not (folder / name).exists():
            raise OutputError(
                f"No benchmark: expected {FINISHED} and {ENVIRONMENT} in {folder}, got no {name}."
            )
    results, environment = (read_json(folder / name) for name in (FINISHED, ENVIRONMENT))
    if not isinstance(results.get("parts"), dict):
        raise OutputError(f"No benchmark: expected timings in {folder / FINISHED}, got none.")
    return results, environment


def _next_free() -> Path:
    stem = f"bench-{datetime.date.today().isoformat()}"
    number = 1
    while True:
        folder = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        if not folder.exists():
            return folder
        number += 1
