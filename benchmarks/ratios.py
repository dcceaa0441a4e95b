"""The ratios and medians of the tables, from the seconds of every round.

ratio of a round = their median seconds in it / ours in it;   the figure: median and quartiles of the rounds
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Rounds = Sequence[Sequence[float]]


class Ratio(NamedTuple):
    """A ratio to ours: median over the rounds, and the quartiles."""

    median: float
    lower: float
    upper: float


def quartiles(values: Sequence[float]) -> Ratio:
    """Median, lower and upper quartile, linear between the values."""
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = math.floor(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    return Ratio(at(0.5), at(0.25), at(0.75))


def ratio(theirs: Rounds, ours: Rounds) -> Ratio | None:
    """Their time over ours, over the rounds that both took part in; None without such a round."""
    per_round = [
        statistics.median(a) / statistics.median(b)
        for a, b in zip(theirs, ours, strict=False)
        if a and b
    ]
    return quartiles(per_round) if per_round else None


def median_seconds(rounds: Rounds) -> float:
    """The median over all calls."""
    return statistics.median(second for turn in rounds for second in turn)


def least_seconds(rounds: Rounds) -> float:
    """The minimum over all calls."""
    return min(second for turn in rounds for second in turn)


def geometric_mean(values: Sequence[float]) -> float:
    """(∏ values)^(1/n)."""
    return math.exp(statistics.fmean(map(math.log, values)))


class Summary(NamedTuple):
    """A ratio over several cases: geometric mean, and the lowest."""

    mean: float
    lowest: float


def summary(values: Sequence[float]) -> Summary | None:
    """Of the cases' ratios; None without a case."""
    return Summary(geometric_mean(values), min(values)) if values else None


def ratios(case: Mapping[str, Any]) -> dict[str, Ratio]:
    """The ratio of every competitor of a case that has one, by name; ours is 1 by definition."""
    entries = case["entries"]
    ours = entries.get(case["ours"], {}).get("rounds", [])
    found = {name: ratio(entry["rounds"], ours) for name, entry in entries.items()}
    return {name: value for name, value in found.items() if value is not None}


def fastest_over_ours(cases: Sequence[Mapping[str, Any]], peers: Sequence[str]) -> list[float]:
    """The time over ours of the fastest peer of each case, for the cases that have one."""
    best = []
    for case in cases:
        theirs = [value.median for name, value in ratios(case).items() if name in peers]
        if theirs:
            best.append(min(theirs))
    return best
