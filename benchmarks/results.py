"""The folder of results, written again after every case: a run that is killed loses only its last case."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradient_flow.results_folder import FINISHED, STAGE, OutputError, claim_folder, write_json
from lstm_jax.atomic_write import write_file

TABLES = "tables.md"
ENVIRONMENT = "environment.json"


def claim(out: Path | None) -> Path:
    """The folder ``out``, or the next free ``runs/bench-<date>``, ``…-2``, …: made, and empty.

    Raises:
        OutputError: a folder that holds files already, or that cannot be made or written.
    """
    folder = claim_folder(_next_free() if out is None else out, "bench", overwrite=False)
    (folder / STAGE).rmdir()
    return folder


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
    try:
        results, environment = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in (FINISHED, ENVIRONMENT)
        )
    except (OSError, ValueError) as error:
        raise OutputError(
            f"No benchmark: expected {FINISHED} and {ENVIRONMENT} in {folder}, got: {error}."
        ) from None
    if not isinstance(results, dict) or "parts" not in results:
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
