"""What stands at the top of a page: a verdict for each stage of a run, and the table of its numbers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gradient_flow.pages.run_numbers import INSPECTION, RunNumbers
from gradient_flow.verdicts.finding import power_of_ten, steps
from gradient_flow.verdicts.reach import reach_of

STAGES = {
    "untrained": "before training",
    "trained": "after training",
    "before": "before",
    "after": "after",
    "loaded": "as it is",
}

COLUMNS = {
    "verdict": "verdict",
    "log10_hh": "‖∂h_T/∂h_k‖ at the lag",
    "log10_cc": "‖∂C_T/∂C_k‖ at the lag",
    "horizon": "horizon (steps)",
    "decades_per_100": "decades per 100 steps",
    "lambda_1": "λ₁ (per step)",
    "time_constant_median": "time constant, median (steps)",
    "time_constant_longest": "time constant, longest (steps)",
    "saturated_gates": "saturated gates (share)",
    "autodiff_zero_from": "plain autodiff is 0 from lag",
}
"""The columns of the table, by what ``results.json`` calls them."""

MOST_LINES, LONGEST_LINE = 60, 1000


class Verdict(NamedTuple):
    """A verdict as the page shows it.

    Attributes:
        stage: in words; empty where there is one only.
        word: ``vanishing``, ``exploding``, ``steady``, ``no recurrence``, or empty.
        headline: one sentence.
        findings, advice, without_help: sentences.
    """

    stage: str
    word: str
    headline: str
    findings: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    without_help: tuple[str, ...] = ()


def number(value: Any) -> float | None:
    """A number of ``results.json``, where one that is not finite is a text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def verdicts(run: RunNumbers, curves: list[dict[str, Any]], watch: Any) -> list[Verdict]:
    """The verdicts of a run.

    Args:
        run: its numbers.
        curves: the parts of the figure of curves.
        watch: the figure over training, or None.
    """
    found = []
    told = run.results.get("verdicts")
    if isinstance(told, Mapping):
        alone = len(told) == 1
        found = [
            _told("" if alone else STAGES.get(str(stage), str(stage)), one)
            for stage, one in told.items()
            if isinstance(one, Mapping)
        ]
    if not found and run.kind != INSPECTION:
        found = _compared(run, curves)
    if not found and watch is not None:
        found = _watched(watch)
    return found


def _told(stage: str, one: Mapping[str, Any]) -> Verdict:
    def said(name: str) -> tuple[str, ...]:
        lines = one.get(name)
        lines = lines if isinstance(lines, list) else []
        texts = [line.get("says") for line in lines if isinstance(line, Mapping)]
        return tuple(shortened(text) for text in texts if isinstance(text, str))[:MOST_LINES]

    headline = one.get("headline")
    word = one.get("verdict")
    return Verdict(
        stage,
        word if isinstance(word, str) else "",
        _sentence(shortened(headline)) if isinstance(headline, str) else "The verdict is missing.",
        *(said(name) for name in ("findings", "advice", "without_help")),
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def shortened(text: str) -> str:
    """A text with its end cut off where no reader would follow it."""
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}…"


def curve_verdict(part: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """Verdict word, horizon and last log10 of a curve of the page; None where it holds no numbers."""
    middle = np.array([number(value) for value in part["middle"]], np.float64)
    lags = np.asarray(part["lags"])
    known = ~np.isnan(middle)
    if known.sum() < 2:
        return None
    reach = reach_of(lags[known], middle[known] * np.log(10))
    if np.isneginf(middle[known][1:]).all():
        return "no recurrence", 0.0, -np.inf
    return reach.verdict, reach.horizon, reach.log10_norm


def _compared(run: RunNumbers, curves: list[dict[str, Any]]) -> list[Verdict]:
    """One sentence for each stage: how many networks vanish, and which reaches furthest."""
    found = []
    names = labels(run)
    stages = list(dict.fromkeys(part["stage"] for part in curves))
    for stage in stages:
        reads = {
            part["network"]: (curve_verdict(part), part["lags"][-1])
            for part in curves
            if part["stage"] == stage and part["block"] == "hh"
        }
        known = {name: (*one, lag) for name, (one, lag) in reads.items() if one is not None}
        if not known:
            continue
        words = [one[0] for one in known.values()]
        word = max(dict.fromkeys(words), key=words.count)
        count = f"{words.count(word)} of {len(words)} networks: " if len(words) > 1 else ""
        best = max(known, key=lambda name: (known[name][1], known[name][2]))
        _, horizon, norm, lag = known[best]
        far = (
            "stays above a thousandth"
            if np.isinf(horizon)
            else f"falls to a thousandth within {steps(horizon)}"
        )
        reaches = "Furthest reaches" if len(words) > 1 else "It is"
        line = (
            f"{count}{word}, over {steps(lag)}. {reaches} {names.get(best, best)}: its gradient {far}, and "
            f"is {power_of_ten(norm)} at the lag."
        )
        told = STAGES.get(stage, stage) if len(stages) > 1 else ""
        found.append(Verdict(told, word, _sentence(line)))
    return found


def _watched(watch: Mapping[str, Any]) -> list[Verdict]:
    """From where to where each horizon went."""
    lines, words = [], []
    for one in watch["horizons"]:
        first, last = (number(one["steps"][at]) for at in (0, -1))
        where = f"Layer {one['layer']}, {one['block']}"
        if first is None or last is None or np.isnan(first) or np.isnan(last):
            lines.append(f"{where}: no horizon, its states overflowed.")
            continue
        told = ["beyond the lag" if np.isinf(far) else steps(far) for far in (first, last)]
        lines.append(
            f"{where}: the gradient came to a thousandth after {told[0]} at first, {told[1]} in the end."
        )
        if one["block"] == "hh":
            words.append("reaches beyond the lag" if np.isinf(last) else "vanishes within the lag")
    if not lines:
        return []
    same = set(words)
    headline = f"A training run, watched {watch['of']} times"
    headline += f"; at the last look the gradient {words[0]}." if len(same) == 1 else "."
    word = "vanishing" if same == {"vanishes within the lag"} else ""
    return [Verdict("", word, headline, tuple(lines[:MOST_LINES]))]


def labels(run: RunNumbers) -> dict[str, str]:
    """What the networks are called, by their names in the files."""
    named = run.results.get("networks")
    named = named if isinstance(named, Mapping) else {}
    return {str(name): shortened(str(label))[:80] for name, label in named.items()}


def table(run: RunNumbers, curves: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table of a run in words: its heads, and a row for each stage and network.

    A comparison has rows by length; the last is taken. Columns that no row has are left out.
    """
    told = run.results.get("table")
    told = told if isinstance(told, Mapping) else {}
    names = labels(run)
    words = {
        (part["stage"], part["network"]): found[0]
        for part in curves
        if part["block"] == "hh" and (found := curve_verdict(part))
    }
    rows: list[tuple[str, str, dict[str, str]]] = []
    for stage, networks in told.items():
        for name, row in (networks if isinstance(networks, Mapping) else {}).items():
            row = row[-1] if isinstance(row, list) and row else row
            if not isinstance(row, Mapping):
                continue
            cells = {key: _cell(key, row) for key in COLUMNS}
            cells["verdict"] = words.get((stage, name), "")
            rows.append((STAGES.get(str(stage), str(stage)), names.get(name, str(name)), cells))
    shown = [key for key in COLUMNS if any(cells[key] for *_, cells in rows)]
    heads = ["stage", "network", *(COLUMNS[key] for key in shown)]
    body = [[stage, name, *(cells[key] or "–" for key in shown)] for stage, name, cells in rows]
    if len({stage for stage, *_ in rows}) < 2:
        heads, body = heads[1:], [row[1:] for row in body]
    return heads, body


def _cell(key: str, row: Mapping[str, Any]) -> str:
    value = number(row.get(key))
    if value is None or np.isnan(value):
        return ""
    if key.startswith("log10_"):
        return power_of_ten(value)
    if key == "horizon" and np.isinf(value):
        return "beyond the lag"
    error = number(row.get(f"{key}_error"))
    return short(value) + (f" ± {short(error)}" if error is not None else "")


def short(value: float) -> str:
    """A number with three digits, or in whole."""
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
