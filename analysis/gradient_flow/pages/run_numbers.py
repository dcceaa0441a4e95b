"""Read the files of a run for its page: what is there, and a sentence about each thing that is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradient_flow.measurements.training_watch import WatchRecords, read_watch, records_folder
from gradient_flow.results_folder import ARRAYS, FINISHED, OutputError, read_arrays, read_json

ENVIRONMENT = "environment.json"
INSPECTION, COMPARISON, TRAINING = "inspection", "comparison", "training run"


class RunNumbers(NamedTuple):
    """What a run's files hold.

    Attributes:
        kind: ``inspection``, ``comparison`` or ``training run``.
        name: of the folder, or of the network's source.
        results: the content of ``results.json``; empty if it is missing.
        arrays: the content of ``arrays.npz`` by name; empty if it is missing.
        watch: the records of a watched training run.
        losses: training steps and losses, [entries, 2].
        environment: the content of ``environment.json``.
        problems: a sentence for each file that is missing or cannot be read.
    """

    kind: str
    name: str
    results: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    watch: WatchRecords | None
    losses: np.ndarray
    environment: Mapping[str, Any]
    problems: tuple[str, ...]


def read_numbers(folder: Path) -> RunNumbers:
    """Read a run's folder; a file that is missing or damaged becomes a sentence.

    Raises:
        OutputError: a folder in which nothing of a run can be read.
    """
    problems: list[str] = []

    def tried(read: Any, path: Path) -> Any:
        try:
            return read(path)
        except OutputError as error:
            problems.append(str(error))
            return None

    if not folder.is_dir():
        raise OutputError(f"Missing folder: expected that of a run, got no folder {folder}.")
    records = records_folder(folder)
    if records is None and not any((folder / name).exists() for name in (FINISHED, ARRAYS)):
        raise OutputError(
            f"No run: expected {FINISHED}, {ARRAYS} or the records of a watch in {folder}, got none."
        )
    results: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    if records is None or (folder / FINISHED).exists():
        results = tried(read_json, folder / FINISHED) or {}
    if records is None or (folder / ARRAYS).exists():
        arrays = tried(read_arrays, folder / ARRAYS) or {}
    watch = tried(read_watch, records) if records is not None else None
    if not results and not arrays and watch is None:
        raise OutputError(problems[0])
    environment: dict[str, Any] = {}
    if (folder / ENVIRONMENT).exists():
        environment = tried(read_json, folder / ENVIRONMENT) or {}
    losses = np.zeros((0, 2))
    if records is not None and (records.parent / "log.jsonl").exists():
        losses = _losses(records.parent, problems)
    if not results and watch is not None:
        return RunNumbers(
            TRAINING, _name(folder), {}, {}, watch, losses, environment, tuple(problems)
        )
    found = from_results(results, arrays, _name(folder))
    return found._replace(
        watch=watch,
        losses=losses,
        environment=environment,
        problems=(*problems, *found.problems),
    )


def from_results(
    results: Mapping[str, Any], arrays: Mapping[str, np.ndarray], name: str
) -> RunNumbers:
    """The numbers of an inspection or a comparison that are in memory."""
    kind = INSPECTION if results.get("kind") == INSPECTION else COMPARISON
    if kind == INSPECTION and isinstance(results.get("source"), str):
        name = results["source"]
    kept = {key: value for key, value in arrays.items() if value.dtype.kind in "fiub"}
    problems = [
        f"{key}: expected numbers, got {value.dtype.name}."
        for key, value in arrays.items()
        if key not in kept
    ]
    return RunNumbers(kind, name, results, kept, None, np.zeros((0, 2)), {}, tuple(problems))


def _name(folder: Path) -> str:
    return folder.resolve().name or str(folder)


def _losses(folder: Path, problems: list[str]) -> np.ndarray:
    # lstm_jax.training imports Orbax, which takes a second.
    from lstm_jax.training import LogError, read_log

    try:
        rows = [
            (float(entry["step"]), float(np.mean(np.asarray(entry["loss"], np.float64))))
            for entry in read_log(folder)
            if "loss" in entry
        ]
    except (LogError, TypeError, ValueError) as error:
        problems.append(str(error))
        rows = []
    return np.asarray(rows, np.float64).reshape(-1, 2)
