"""The tables of the page, in Markdown, from the stored results and rows of the reported run."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments.evidence.claim import markdown
from experiments.lag_tasks import TASKS
from experiments.which_lags.evidence import Interval
from experiments.which_lags.rows import Rows
from experiments.which_lags.starts import NETWORKS

Numbers = dict[str, Any]

LABELS = {
    "two_sided": "two-sided norm at the lag",
    "horizon": "horizon / lag",
    "lambda_two_sided": "−|λ_1| · lag",
    "credit_two_sided": "credit of the input that matters, two-sided",
    "survivors": "directions that survive",
    "angle": "angle to the loss gradient",
    "time_constant": "longest time constant / lag",
    "lag": "lag alone",
    "radius": "spectral radius of W_h",
    "is_chrono": "is it chrono?",
}
"""The predictors that are shown; the full table is the one that ``--report`` prints."""
SHOWN = {
    "lstm": "LSTM", "gru": "GRU", "tanh": "tanh", "relu": "relu", "identity": "linear",
    "adding_uniform": "adding", "adding_1997": "adding, 1997", "order": "temporal order",
}  # fmt: skip
WITHIN = ("two_sided", "horizon", "time_constant", "lag")
LARGE = ("two_sided", "horizon", "lambda_two_sided", "credit_two_sided", "time_constant", "radius")
HELD_OUT = {
    "held_out_families": "families of recall",
    "held_out_networks": "networks of recall",
    "held_out_tasks": "tasks",
}
STARTS = (
    *(f"forget bias {bias}" for bias in (-1, 0, 1, 2, 3, 5)),
    *(f"chrono {longest}" for longest in (30, 100, 400)),
    "orthogonal 1.0", "wide candidate",
)  # fmt: skip
PLACES = (
    ("recall", 50), ("recall", 200), ("order", 100), ("copy", 50), ("adding_uniform", 200),
    ("adding_1997", 100),
)  # fmt: skip


def tables(results: Numbers, rows: Rows) -> dict[str, str]:
    """Every table by the name between its marks."""
    small = rows.where(rows.hidden_size <= 32)
    return {
        "vanished": vanished(results),
        "predictors": predictors(results, "tasks", LABELS),
        "gated": "\n\n".join(
            predictors(results, f"tasks_of_{name}", WITHIN, f"{SHOWN[name]} alone")
            for name in ("lstm", "gru")
        ),
        "large": predictors(results, "tasks_of_128", LARGE),
        "held out": held_out(results),
        "starts": starts(small),
    }


def vanished(results: Numbers) -> str:
    """Of the rows whose norm at the lag was below 10⁻³ before training, how many learned."""
    tasks = [task for task in TASKS if task in results["by_norm"]]
    body = []
    for network in NETWORKS:
        cells = []
        for task in tasks:
            families = results["by_norm"][task].items()
            own = [parts["below"] for name, parts in families if name.split(",")[0] == network]
            learned, of = (sum(counts) for counts in zip(*own, strict=True)) if own else (0, 0)
            cells.append(f"{learned} of {of}" if of else "-")
        body.append((SHOWN[network], *cells))
    return markdown(("learned of", *map(_task, tasks)), body)


def _task(task: str) -> str:
    return SHOWN.get(task, task)


def predictors(
    results: Numbers, part: str, names: Iterable[str], title: str = "AUC before training"
) -> str:
    """AUC of each predictor by task."""
    tasks = list(results[part]["two_sided"])
    body = [
        (LABELS[name], *(_interval(results[part][name][task]) for task in tasks)) for name in names
    ]
    return markdown((title, *map(_task, tasks)), body)


def _interval(values: list[float] | None) -> str:
    return "-" if values is None else str(Interval(*values))


def held_out(results: Numbers) -> str:
    """AUC on what was held out, look by look."""
    body = []
    for name, what in HELD_OUT.items():
        for model in ("chosen", "flow", "all", "plain"):
            own = results[name][model]
            label = f"{what}: chosen" if model == "chosen" else f"{what}: combination *{model}*"
            over = "-" if model == "plain" else _interval(own["over_plain"])
            looks = (_interval(own[look]) for look in ("0", "20", "100", "gained"))
            body.append((label, *looks, over))
    header = (
        "AUC", "before training", "after 20 updates", "after 100", "gained by 100 updates",
        "before, minus *plain*",
    )  # fmt: skip
    return markdown(header, body)


def starts(rows: Rows) -> str:
    """What an LSTM learned from each ordinary start, and the median update."""
    places = [
        (task, length)
        for task, length in PLACES
        if ((rows.task == task) & (rows.length == length) & (rows.network == "lstm")).any()
    ]
    body = []
    for start in STARTS:
        cells = []
        for task, length in places:
            own = (rows.start == f"lstm, {start}") & (rows.task == task) & (rows.length == length)
            learned = rows.learned[own]
            text = f"{int(learned.sum())} of {len(learned)}"
            at = f", {np.nanmedian(rows.updates[own]):,.0f}" if learned.any() else ""
            cells.append(text + at)
        body.append((start, *cells))
    return markdown(("begins with", *(f"{_task(t)} {n}" for t, n in places)), body)
