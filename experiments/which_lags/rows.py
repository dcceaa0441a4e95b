"""The rows that are analysed: a network with a start and a seed, on a task of a length, and its predictors.

A predictor is larger where a network should learn; a network that could not be measured, because its states
or its parameters were no numbers, has −∞.
"""

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.lag_tasks import TASKS
from experiments.which_lags.groups import group_name
from experiments.which_lags.starts import all_starts
from gradient_flow.results_folder import OutputError
from lstm_jax.atomic_write import write_file

VANISHED = float(np.log(1e-3))

Numbers = Mapping[str, float]

PREDICTORS: dict[str, Callable[[Numbers, float], float]] = {
    "two_sided": lambda m, lag: -abs(m["norm"]),
    "norm": lambda m, lag: m["norm"],
    "horizon": lambda m, lag: m["horizon"],
    "credit": lambda m, lag: m["credit"],
    "credit_two_sided": lambda m, lag: -abs(m["credit"] - m["credit_last"]),
    "time_constant": lambda m, lag: m["time_constant"] / lag,
    "lambda": lambda m, lag: m["lambda_1"] * lag,
    "lambda_two_sided": lambda m, lag: -abs(m["lambda_1"]) * lag,
    "rest_radius": lambda m, lag: m["rest_radius"] * lag,
    "rest_two_sided": lambda m, lag: -abs(m["rest_radius"]) * lag,
    "radius": lambda m, lag: m["radius"],
    "survivors": lambda m, lag: m["survivors"],
    "angle": lambda m, lag: -m["angle"],
    "lag": lambda m, lag: -lag,
    "is_chrono": lambda m, lag: m["is_chrono"],
}
"""What each is made of; the lag in steps."""

PLAIN = ("lag", "is_chrono", "time_constant", "radius")
FLOW = (
    *("two_sided", "horizon", "credit_two_sided", "lambda_two_sided", "rest_two_sided"),
    *("survivors", "angle"),
)
SINGULAR = ("survivors", "angle")
"""What is measured of small networks alone."""


class Rows(NamedTuple):
    """Columns, one entry for each row.

    Attributes:
        network, family, start, task: names; ``start`` with its network.
        hidden_size, length: H and T.
        learned: whether any rate did.
        updates: until the first rate did; NaN where none did.
        solved_at_rate: by rate, whether it did.
        scores: by the number of updates and the predictor.
        norm: log ‖∂h_T/∂s_k‖ at the lag before training.
    """

    network: np.ndarray
    family: np.ndarray
    start: np.ndarray
    task: np.ndarray
    hidden_size: np.ndarray
    length: np.ndarray
    learned: np.ndarray
    updates: np.ndarray
    solved_at_rate: dict[float, np.ndarray]
    scores: dict[int, dict[str, np.ndarray]]
    norm: np.ndarray

    def where(self, chosen: np.ndarray) -> "Rows":
        """Some of the rows."""
        arrays = {
            name: value[chosen] for name, value in self._asdict().items() if name not in NESTED
        }
        return Rows(
            **arrays,
            solved_at_rate={rate: a[chosen] for rate, a in self.solved_at_rate.items()},
            scores={
                look: {name: a[chosen] for name, a in own.items()}
                for look, own in self.scores.items()
            },
        )

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.learned)


NESTED = ("solved_at_rate", "scores")


def rows_of(groups: Iterable[Mapping[str, Any]]) -> Rows:
    """The rows of stored groups (`store.read_group`)."""
    families = {(s.network, s.name): s for s in all_starts()}
    columns: dict[str, list[Any]] = {name: [] for name in Rows._fields if name not in NESTED}
    by_rate: list[dict[float, bool]] = []
    scored: list[dict[int, dict[str, float]]] = []
    for stored in groups:
        group = stored["group"]
        lag = TASKS[group["task"]].lag(group["length"])
        same: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for run in stored["runs"]:
            same.setdefault((run["start"], run["seed"]), []).append(run)
        for (name, _), runs in same.items():
            start = families[group["network"], name]
            solved = [run["solved"] for run in runs if run["solved"] is not None]
            looks = {look: _scores(runs, look, lag, start.kind) for look in group["looks"]}
            # No rate has had a part in it, and it is kept with one of them.
            before = next(run for run in runs if "0" in run["looks"])["looks"]["0"]
            values = {
                "network": start.network,
                "family": start.family,
                "start": start.full_name,
                "task": group["task"],
                "hidden_size": group["hidden_size"],
                "length": group["length"],
                "learned": bool(solved),
                "updates": min(solved, default=np.nan),
                "norm": np.nan if before is None else before["norm"],
            }
            for column, value in values.items():
                columns[column].append(value)
            by_rate.append({run["rate"]: run["solved"] is not None for run in runs})
            scored.append(looks)
    every_look = sorted({look for one in scored for look in one})
    return Rows(
        **{name: np.asarray(values) for name, values in columns.items()},
        solved_at_rate={
            rate: np.asarray([one.get(rate, False) for one in by_rate])
            for rate in sorted({rate for one in by_rate for rate in one})
        },
        scores={
            look: {
                name: np.asarray([one.get(look, {}).get(name, np.nan) for one in scored])
                for name in PREDICTORS
            }
            for look in every_look
        },
    )


def joined(first: Rows, second: Rows) -> Rows:
    """The rows of both; a rate that one of them was not trained at has solved none of its rows."""
    rates = sorted({*first.solved_at_rate, *second.solved_at_rate})
    looks = sorted({*first.scores, *second.scores})

    def solved(rows: Rows, rate: float) -> np.ndarray:
        return rows.solved_at_rate.get(rate, np.zeros(len(rows), bool))

    def scores(rows: Rows, look: int, name: str) -> np.ndarray:
        return rows.scores.get(look, {}).get(name, np.full(len(rows), np.nan))

    both = (first, second)
    names = [name for name in Rows._fields if name not in NESTED]
    return Rows(
        **{name: np.concatenate([getattr(rows, name) for rows in both]) for name in names},
        solved_at_rate={
            rate: np.concatenate([solved(rows, rate) for rows in both]) for rate in rates
        },
        scores={
            look: {
                name: np.concatenate([scores(rows, look, name) for rows in both])
                for name in PREDICTORS
            }
            for look in looks
        },
    )


def named(rows: Rows) -> np.ndarray:
    """The name of each row's group."""
    columns = (rows.task, rows.length, rows.network, rows.hidden_size)
    return np.asarray([group_name(*own) for own in zip(*columns, strict=True)])


def _scores(runs: list[Mapping[str, Any]], look: int, lag: float, kind: str) -> dict[str, float]:
    """Each predictor: of the rates the one that promises most."""
    if look == 0:
        runs = [run for run in runs if "0" in run["looks"]]
    found: dict[str, float] = {}
    for name, score in PREDICTORS.items():
        values = []
        for run in runs:
            numbers = run["looks"].get(str(look))
            own = {"is_chrono": float(kind == "chrono")} | (numbers or {})
            try:
                value = score(own, lag)
            except KeyError:
                # Of a large network the singular values are not taken, of another nothing could be.
                if name in SINGULAR and numbers is not None:
                    continue
                value = -np.inf
            values.append(-np.inf if np.isnan(value) else value)
        found[name] = max(values, default=np.nan)
    return found


def write_rows(rows: Rows, path: Path) -> None:
    """Write rows as a CSV of six digits, a line for each row."""
    columns = {name: value for name, value in rows._asdict().items() if name not in NESTED}
    columns |= {f"solved {rate:g}": solved for rate, solved in rows.solved_at_rate.items()}
    columns |= {
        f"{look} {name}": scores
        for look, own in rows.scores.items()
        for name, scores in own.items()
    }

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(map(_texts, zip(*columns.values(), strict=True)))

    write_file(path, write)


def _texts(row: Iterable[Any]) -> list[str]:
    return [
        str(int(v)) if isinstance(v, bool | np.bool_ | int | np.integer)
        else f"{v:.6g}" if isinstance(v, float | np.floating) else str(v)
        for v in row
    ]  # fmt: skip


def read_rows(path: Path) -> Rows:
    """Rows that `write_rows` wrote.

    Raises:
        OutputError: a file of something else.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        found = dict(zip(header, zip(*lines, strict=True), strict=True))
        solved: dict[float, np.ndarray] = {}
        scores: dict[int, dict[str, np.ndarray]] = {}
        for name in [name for name in found if " " in name]:
            first, second = name.split(" ", 1)
            if first == "solved":
                solved[float(second)] = np.asarray(found.pop(name)) == "1"
            else:
                scores.setdefault(int(first), {})[second] = np.asarray(found.pop(name), float)
        columns: dict[str, np.ndarray] = {
            name: np.asarray(found[name]).astype(kind) for name, kind in KINDS.items()
        }
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(
            f"Unreadable rows: expected a table of rows in {path}, got {error!r}."
        ) from None
    columns["learned"] = columns["learned"].astype(bool)
    return Rows(**columns, solved_at_rate=solved, scores=scores)


KINDS = {
    "network": str, "family": str, "start": str, "task": str, "hidden_size": int, "length": int,
    "learned": int, "updates": float, "norm": float,
}  # fmt: skip
