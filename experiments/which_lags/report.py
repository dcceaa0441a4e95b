"""The tables, from the stored groups alone."""

from collections.abc import Iterable

import numpy as np

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
from experiments.which_lags.tasks import TASKS

GRADIENT = [name for name in PREDICTORS if name not in ("lag", "is_chrono")]
MODELS = {"plain": list(PLAIN), "flow": list(FLOW), "all": [*PREDICTORS]}


def report(rows: Rows, of: int, draws: int) -> str:
    """Every table for which there are rows; ``of`` is the number of groups that there are to be."""
    groups = zip(rows.network, rows.task, rows.hidden_size, rows.length, strict=True)
    done = len(set(groups))
    small = rows.where(rows.hidden_size <= 32)
    large = rows.where(rows.hidden_size > 32)
    recall = small.where(small.task == "recall")
    tables = [
        f"{done} of {of} groups; {len(rows):,} rows, {int(rows.learned.sum()):,} learned",
        learned_table(rows),
        predictor_table(small, draws),
        network_table(recall, draws),
        held_out_table("Held-out families of recall: AUC", recall, recall.family, draws),
        held_out_table("Held-out networks of recall: AUC", recall, recall.network, draws),
        held_out_table("Held-out tasks: AUC", small, small.task, draws),
        family_table(small),
    ]
    if len(large):
        tables.insert(3, predictor_table(large, draws, "H = 128: "))
    return "\n\n".join(tables)


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


def predictor_table(rows: Rows, draws: int, title: str = "") -> str:
    """The AUC of each predictor before training, task by task."""
    body = []
    for name in PREDICTORS:
        own = [rows.where(rows.task == task) for task in _tasks(rows)]
        body.append((name, *(str(auc_interval(o, o.scores[0][name], draws)) for o in own)))
    return table(f"{title}AUC before training", ("predictor", *_tasks(rows)), body)


def network_table(recall: Rows, draws: int) -> str:
    """The AUC on recall, network by network."""
    networks = [name for name in NETWORKS if name in recall.network]
    body = []
    for name in PREDICTORS:
        own = [recall.where(recall.network == network) for network in networks]
        body.append((name, *(str(auc_interval(o, o.scores[0][name], draws)) for o in own)))
    return table("AUC before training on recall, by network", ("predictor", *networks), body)


def held_out_table(title: str, rows: Rows, folds: np.ndarray, draws: int) -> str:
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
        body.append((name, *map(str, cells), str(over)))
    header = (
        "model", *(f"update {look}" for look in _looks(rows)), "last minus first", "minus plain",
    )  # fmt: skip
    best = best_predictor(rows, first, _measured(rows, GRADIENT))
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


def family_table(rows: Rows) -> str:
    """How many learned, by what the norm at the lag was before training."""
    exploded = rows.norm > -VANISHED
    vanished = rows.norm < VANISHED
    between = ~vanished & ~exploded & ~np.isnan(rows.norm)
    body = []
    for task in _tasks(rows):
        for family in np.unique(rows.family):
            own = (rows.task == task) & (rows.family == family)
            if own.any():
                shares = [_share(rows, own & part) for part in (vanished, between, exploded)]
                body.append((f"{task}: {family}", *shares))
        shares = [
            _share(rows, (rows.task == task) & part) for part in (vanished, between, exploded)
        ]
        body.append((f"{task}: all", *shares))
    header = ("learned of", "norm below 10^-3", "between", "above 10^3")
    return table("The norm at the lag before training, and what was learned", header, body)
