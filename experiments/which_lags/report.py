"""The tables, from the stored groups alone."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments.lag_tasks import TASKS
from experiments.running import table
from experiments.which_lags.evidence import (
    Interval,
    auc_interval,
    best_predictor,
    chosen_elsewhere,
    difference,
    fitted_elsewhere,
)
from experiments.which_lags.rows import FLOW, PLAIN, PREDICTORS, SINGULAR, VANISHED, Rows
from experiments.which_lags.starts import NETWORKS

GRADIENT = [name for name in PREDICTORS if name not in ("lag", "is_chrono")]
MODELS = {"plain": list(PLAIN), "flow": list(FLOW), "all": [*PREDICTORS]}


Numbers = dict[str, Any]


def report(rows: Rows, of: int, draws: int) -> tuple[str, Numbers]:
    """Every table for which there are rows, and the numbers in them, of types that JSON has.

    Args:
        rows: all.
        of: the number of groups that there are to be.
        draws: of the bootstrap.
    """
    groups = zip(rows.network, rows.task, rows.hidden_size, rows.length, strict=True)
    done = len(set(groups))
    small = rows.where(rows.hidden_size <= 32)
    large = rows.where(rows.hidden_size > 32)
    recall = small.where(small.task == "recall")
    numbers: Numbers = {
        "groups": done, "of": of, "rows": len(rows), "learned": int(rows.learned.sum()),
        "medians": medians(small),
    }  # fmt: skip
    tables = [
        f"{done} of {of} groups; {len(rows):,} rows, {int(rows.learned.sum()):,} learned",
        learned_table(rows),
        predictor_table(small, draws, numbers.setdefault("tasks", {})),
        network_table(recall, draws, numbers.setdefault("networks", {})),
        *(
            predictor_table(
                small.where(small.network == name),
                draws,
                numbers.setdefault(f"tasks_of_{name}", {}),
                f"{name} alone: ",
            )
            for name in ("lstm", "gru")
            if name in small.network
        ),
    ]
    for name, title, own, folds in (
        ("held_out_families", "Held-out families of recall: AUC", recall, recall.family),
        ("held_out_networks", "Held-out networks of recall: AUC", recall, recall.network),
        ("held_out_tasks", "Held-out tasks: AUC", small, small.task),
    ):
        tables.append(held_out_table(title, own, folds, draws, numbers.setdefault(name, {})))
    tables.append(family_table(small, numbers.setdefault("by_norm", {})))
    if len(large):
        parts = beside_small(small, large)
        title = "AUC before training, the same tasks, lengths and networks"
        tables.insert(3, _auc_table(title, parts, draws, numbers.setdefault("tasks_of_128", {})))
    return "\n\n".join(tables), numbers


def beside_small(small: Rows, large: Rows) -> dict[str, Rows]:
    """The rows of large networks task by task, ahead of each the small ones' of its lengths and networks."""

    def groups(rows: Rows) -> list[str]:
        columns = (rows.task, rows.length, rows.network)
        return [" ".join(map(str, own)) for own in zip(*columns, strict=True)]

    same = small.where(np.isin(groups(small), groups(large)))
    return {
        f"{task}, H = {rows.hidden_size[0]}": rows.where(rows.task == task)
        for task in _tasks(large)
        for rows in (same, large)
    }


def medians(rows: Rows) -> Numbers:
    """The median of each predictor at each look, by network; None where it is not finite."""
    found: Numbers = {}
    for network in (name for name in NETWORKS if name in rows.network):
        own = rows.where(rows.network == network)
        found[network] = {
            str(look): {name: _digits(np.median(values)) for name, values in scores.items()}
            for look, scores in sorted(own.scores.items())
        }
    return found


def _digits(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def learned_table(rows: Rows) -> str:
    """How many of how many learned."""
    body = []
    for size in np.unique(rows.hidden_size):
        for task in (name for name in TASKS if name in rows.task):
            for network in NETWORKS:
                own = (rows.hidden_size == size) & (rows.task == task) & (rows.network == network)
                if own.any():
                    cells = [_share(rows, own & (rows.length == t)) for t in (25, 50, 100, 200)]
                    rates = [f"{int(solved[own].sum())}" for solved in rows.solved_at_rate.values()]
                    body.append((f"{task}, {network}, H = {size}", *cells, " ".join(rates)))
    shown = " / ".join(f"{rate:g}" for rate in rows.solved_at_rate)
    header = ("learned of", "T = 25", "50", "100", "200", f"at rate {shown}")
    return table("Learned, at either rate", header, body)


def _share(rows: Rows, chosen: np.ndarray) -> str:
    return f"{int(rows.learned[chosen].sum())} of {int(chosen.sum())}" if chosen.any() else "-"


def _tasks(rows: Rows) -> list[str]:
    return [name for name in TASKS if name in rows.task]


def _looks(rows: Rows) -> list[int]:
    return sorted(rows.scores)


def predictor_table(rows: Rows, draws: int, numbers: Numbers, title: str = "") -> str:
    """The AUC of each predictor before training, task by task."""
    parts = {task: rows.where(rows.task == task) for task in _tasks(rows)}
    return _auc_table(f"{title}AUC before training", parts, draws, numbers)


def _auc_table(title: str, parts: dict[str, Rows], draws: int, numbers: Numbers) -> str:
    body = []
    for name in PREDICTORS:
        cells = {part: auc_interval(own, own.scores[0][name], draws) for part, own in parts.items()}
        numbers[name] = {part: _short(cell) for part, cell in cells.items()}
        body.append((name, *map(str, cells.values())))
    return table(title, ("predictor", *parts), body)


def _short(interval: Interval) -> list[float] | None:
    """Value, low and high with four digits; None where there is no AUC."""
    return None if np.isnan(interval.value) else [float(f"{v:.4g}") for v in interval]


def network_table(recall: Rows, draws: int, numbers: Numbers) -> str:
    """The AUC on recall, network by network."""
    parts = {
        name: recall.where(recall.network == name) for name in NETWORKS if name in recall.network
    }
    return _auc_table("AUC before training on recall, by network", parts, draws, numbers)


def held_out_table(title: str, rows: Rows, folds: np.ndarray, draws: int, numbers: Numbers) -> str:
    """The AUC on what was held out, of what was chosen or fitted on the rest."""
    if len(np.unique(folds)) < 2:
        return f"{title}\nfewer than two folds"
    scores = held_out_scores(rows, folds)
    body = []
    first = _looks(rows)[0]
    for name in ("chosen", *MODELS):
        cells: list[Interval] = []
        for look in _looks(rows):
            cells.append(auc_interval(rows, scores[name, look], draws))
        last = _looks(rows)[-1]
        cells.append(difference(rows, scores[name, last], scores[name, first], draws))
        over = difference(rows, scores[name, first], scores["plain", first], draws)
        looks = dict(zip(map(str, _looks(rows)), map(_short, cells), strict=False))
        numbers[name] = looks | {"gained": _short(cells[-1]), "over_plain": _short(over)}
        body.append((name, *map(str, cells), str(over)))
    header = (
        "model", *(f"update {look}" for look in _looks(rows)), "last minus first", "minus plain",
    )  # fmt: skip
    best = best_predictor(rows, first, _measured(rows, GRADIENT))
    numbers["best"] = best
    return table(title, header, body) + f"\nthe best single one on all of them: {best}"


def held_out_scores(rows: Rows, folds: np.ndarray) -> dict[tuple[str, int], np.ndarray]:
    """The scores of every model at every look."""
    found = {}
    for look in _looks(rows):
        found["chosen", look] = chosen_elsewhere(rows, folds, look, _measured(rows, GRADIENT))
        for name, names in MODELS.items():
            found[name, look] = fitted_elsewhere(rows, folds, look, _measured(rows, names))
    return found


def _measured(rows: Rows, names: Iterable[str]) -> list[str]:
    """Without what is measured of small networks alone, where there are others."""
    small = (rows.hidden_size <= 32).all()
    return [name for name in names if small or name not in SINGULAR]


def family_table(rows: Rows, numbers: Numbers) -> str:
    """How many learned, by what the norm at the lag was before training."""
    parts = ("below", "between", "above")
    exploded = rows.norm > -VANISHED
    vanished = rows.norm < VANISHED
    between = ~vanished & ~exploded & ~np.isnan(rows.norm)
    body = []
    for task in _tasks(rows):
        for family in np.unique(rows.family):
            own = (rows.task == task) & (rows.family == family)
            if own.any():
                every = [own & part for part in (vanished, between, exploded)]
                shares = [_share(rows, part) for part in every]
                counts = [[int(rows.learned[part].sum()), int(part.sum())] for part in every]
                numbers.setdefault(task, {})[str(family)] = dict(zip(parts, counts, strict=True))
                body.append((f"{task}: {family}", *shares))
        shares = [
            _share(rows, (rows.task == task) & part) for part in (vanished, between, exploded)
        ]
        body.append((f"{task}: all", *shares))
    header = ("learned of", "norm below 10^-3", "between", "above 10^3")
    return table("The norm at the lag before training, and what was learned", header, body)
