"""The tables of the finished trials."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from experiments.running import table

PUBLISHED = {
    ("adding", 100): 74_000, ("adding", 500): 209_000, ("adding", 1000): 853_000,
    ("order_two", 100): 31_390, ("order_three", 100): 571_100,
}  # fmt: skip
"""Sequences to the criterion in Hochreiter & Schmidhuber 1997, experiments 4, 6a and 6b."""
MOST_WRONG = 1
"""Of 2,560 sequences, likewise."""

Trials = Sequence[Mapping[str, Any]]


def report(found: Trials) -> str:
    """Every table for which there are trials."""
    tables = [
        make(chosen)
        for study, make in (
            ("adding", partial(_as_in_1997, "Adding")),
            ("order_1997", partial(_as_in_1997, "Temporal order")),
            ("chrono", partial(_of_one_size, "Adding, uniform form, RMSprop 1e-3", _chrono)),
            ("copy", partial(_of_one_size, "Copy memory", _copy)),
            ("order", _order),
            ("lags", _lags),
        )
        if (chosen := [t for t in found if t["study"] == study])
    ]
    return "\n\n".join(tables)


def grouped(
    found: Trials, *names: str
) -> Iterable[tuple[tuple[Any, ...], list[Mapping[str, Any]]]]:
    """Trials by some of their settings, the seeds together."""

    def key(t: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(t["trial"][name] for name in names)

    for values, group in groupby(sorted(found, key=key), key=key):
        yield values, list(group)


def steps_taken(trial: Mapping[str, Any]) -> int | None:
    """Gradient steps until it was solved."""
    sequences = trial["sequences"]
    return None if sequences is None else sequences // trial["trial"]["batch_size"]


def median_and_range(values: Sequence[float | None], tried: int) -> str:
    """The median, the extremes, and how many of how many there were."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return f"none of {tried}"
    low, middle, high = min(numbers), float(np.median(numbers)), max(numbers)
    share = "" if len(numbers) == tried else f", {len(numbers)} of {tried}"
    return f"{middle:,.0f} ({low:,.0f} to {high:,.0f}{share})"


def _as_in_1997(title: str, found: Trials) -> str:
    rows = []
    for (task, length), group in grouped(found, "task", "length"):
        wrong = [t["test_wrong"].get(str(length), "diverged") for t in group]
        rows.append(
            (
                task,
                str(length),
                median_and_range([t["sequences"] for t in group], len(group)),
                f"{PUBLISHED[task, length]:,}" if (task, length) in PUBLISHED else "-",
                median_and_range([_to_the_end(t) for t in group], len(group)),
                " ".join(map(str, wrong)),
                " ".join(
                    f"{t['test_squared_error']:.1e}" for t in group if "test_squared_error" in t
                )
                or "-",
                f"{np.median([t['seconds'] for t in group]):.0f}",
            )
        )
    header = (
        "task",
        "T",
        "sequences to the criterion",
        "1997",
        "to the end",
        "wrong of 2,560, by seed",
        "squared error, by seed",
        "seconds",
    )
    return table(f"{title} as in 1997, LSTM with chrono initialisation", header, rows)


def _to_the_end(trial: Mapping[str, Any]) -> int | None:
    """Sequences until it was solved and its validation was right; None if it never was."""
    ended = trial["sequences"] is not None
    wrong = trial.get("valid_wrong")
    ended = ended and (wrong is None or wrong <= MOST_WRONG)
    return trial["steps"] * trial["trial"]["batch_size"] if ended else None


def _of_one_size(name: str, one: Callable[[str, Trials], str], found: Trials) -> str:
    """A table for each length and width."""
    return "\n\n".join(
        one(f"{name}, T = {length}, {units} units", group)
        for (length, units), group in grouped(found, "length", "hidden_size")
    )


def _chrono(title: str, found: Trials) -> str:
    rows, times = [], {}
    for (name,), group in grouped(found, "network"):
        steps = [steps_taken(t) for t in group]
        times[name] = [s for s in steps if s]
        lost = " ".join(f"{t['last_loss']:.4f}" for t in group)
        taken = f"{np.median([t['steps'] for t in group]):,.0f}"
        rows.append((group[0]["label"], median_and_range(steps, len(group)), lost, taken))
    header = ("network", "steps to a loss of 0.01", "loss at the end, by seed", "steps taken")
    text = table(title, header, rows)
    slow, fast = times.get("lstm_1"), times.get("lstm_chrono")
    if slow and fast:
        text += f"\nforget bias 1 takes {np.median(slow) / np.median(fast):.1f} times the steps"
    return text


def _copy(title: str, found: Trials) -> str:
    rows = [
        (
            group[0]["label"],
            *(
                median_and_range([t.get("below_floor", {}).get(share) for t in group], len(group))
                for share in ("0.98", "0.9")
            ),
            median_and_range([steps_taken(t) for t in group], len(group)),
            " ".join(f"{t['last_loss']:.5f}" for t in group),
            f"{group[0]['floor']:.5f}",
            f"{np.median([t['steps'] for t in group]):,.0f}",
        )
        for _, group in grouped(found, "network")
    ]
    header = (
        "network",
        "steps to 0.98 of the floor",
        "to 0.9",
        "to half",
        "loss at the end, by seed",
        "floor",
        "steps taken",
    )
    return table(title, header, rows)


def _order(found: Trials) -> str:
    lengths = list(found[0]["test_wrong"])
    rows = [
        (
            str(t["seed"]),
            "-" if (steps := steps_taken(t)) is None else f"{steps:,}",
            *(str(t["test_wrong"][length]) for length in lengths),
        )
        for t in found
    ]
    header = ("seed", "steps", *(f"T={length}" for length in lengths))
    return table("Temporal order, vanilla RNN: wrong of 10,000 at each length", header, rows)


def _lags(found: Trials) -> str:
    lengths = sorted({t["trial"]["length"] for t in found})
    rows = []
    for _, group in grouped(found, "network"):
        cells = []
        for length in lengths:
            same = [t for t in group if t["trial"]["length"] == length]
            reach = np.median([t["reach_first"] for t in same]) if same else np.nan
            shown = f"> {length}" if np.isinf(reach) else f"{reach:.0f}"
            cells += [shown, median_and_range([t["sequences"] for t in same], len(same))]
        rows.append((group[0]["label"], *cells))
    header = ["network"]
    for length in lengths:
        header += ["horizon", f"T={length}: sequences"]
    return table(
        "Adding at several lags: horizon before training, sequences to the criterion (60,000 at most)",
        header,
        rows,
    )
