"""The tables: every cell trained and at its initialisation, what they say together, and the packages."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np

from experiments.in_the_wild.measure import LAG, LAGS, LN10, decades, horizon_of
from experiments.in_the_wild.packages import NETWORKS, PACKAGES
from experiments.running import table

Found = Mapping[str, Mapping[str, Any]]
"""By network, what `run.looked_at` gives."""
NUMBERS = {
    "lambda_1": "+.4f",
    "lambda_1_error": ".4f",
    "tau_median": ".3g",
    "tau_best": ".3g",
    "saturated_gates": ".0%",
    "saturated_memories": ".0%",
    "dead_units": ".0%",
}
"""Columns of a cell, and how they are shown."""
ERRORS = 2
"""Standard errors by which λ_1 has to differ from 0 to be told from it."""
NEAR = 0.01
"""An exponent of this size forgets, or doubles, in a hundred steps or more."""


def report(found: Found) -> str:
    """All tables as one text."""
    parts = (_cells(found, "trained"), _cells(found, "initial"), _together(found), _packages(found))
    return "\n\n".join(parts)


def label(name: str, cell: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str:
    """``network, layer 2`` with an arrow where there are two directions."""
    both = sum(other["layer"] == cell["layer"] for other in cells) > 1
    arrow = {"forward": " →", "backward": " ←"}[cell["direction"]] if both else ""
    more = len({other["layer"] for other in cells}) > 1
    which = f", layer {cell['layer'] + 1}" if more else ""
    return f"{name}{which}{arrow}"


def at_start(looked: Mapping[str, Any], number: int, value: Callable[[Any], float]) -> float:
    """The median over the initialisations of a number of a cell."""
    return float(np.median([value(cells[number]) for cells in looked["initial"]]))


def _cells(found: Found, which: str) -> str:
    rows = []
    for name, looked in found.items():
        for number, cell in enumerate(looked["trained"]):
            group = [looked["trained"]] if which == "trained" else looked["initial"]
            first = label(name, cell, looked["trained"])
            kind = f"{cell['kind']} {cell['hidden_size']}"
            rows.append((first, kind, *_row([cells[number] for cells in group])))
    hh, cc = ([f"{b}{lag}" for lag in LAGS] for b in ("h", "C"))
    header = ("network", "cell", *hh, *cc, "horizon", "λ_1", "±", "τ", "best τ")
    header = (*header, "gates", "memories", "dead")
    title = {
        "trained": "Trained: decades of ∂h_T/∂h_k and ∂C_T/∂C_k at lags, and the rest",
        "initial": "The same at the framework's initialisation, medians",
    }[which]
    return table(title, header, rows)


def _row(cells: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Medians over the same cell at several initialisations, or the trained one alone."""

    def shown(value: Callable[[Any], float | None], how: str) -> str:
        values = [value(cell) for cell in cells]
        return "-" if None in values else format(float(np.median(np.asarray(values))), how)

    far = float(np.median([horizon_of(cell) for cell in cells]))
    return (
        *(shown(partial(decades, block="hh", lag=lag), ".1f") for lag in LAGS),
        *(shown(partial(decades, block="cc", lag=lag), ".1f") for lag in LAGS),
        lag_shown(far),
        *(shown(itemgetter(key), how) for key, how in NUMBERS.items()),
    )


def lag_shown(lag: float) -> str:
    """A horizon, or that it is beyond the longest lag."""
    return f">{LAG}" if np.isinf(lag) else f"{lag:.0f}"


def _packages(found: Found) -> str:
    keys = dict.fromkeys(one.package for one in NETWORKS if one.name in found)
    rows = [
        (key, PACKAGES[key].requirement, PACKAGES[key].licence, PACKAGES[key].framework)
        for key in keys
    ]
    notes = "\n".join(f"{key}: {PACKAGES[key].note}." for key in keys)
    said = {sentence for looked in found.values() for sentence in looked["assumed"]}
    answers = "\n".join(
        f"{name} {looked['answer']}." for name, looked in found.items() if looked["answer"]
    )
    assumed = "\n".join(f"Assumed: {sentence}" for sentence in sorted(said))
    header = ("package", "release", "licence", "initialisation")
    return "\n\n".join(filter(None, (table("Packages", header, rows), notes, answers, assumed)))


def _together(found: Found) -> str:
    """What is counted over all cells, and over all pairs of layers."""
    cells = [cell for looked in found.values() for cell in looked["trained"]]
    starts = [cell for looked in found.values() for one in looked["initial"] for cell in one]
    rows: list[tuple[str, ...]] = []
    for name, group in (("trained", cells), ("initial", starts)):
        size = np.asarray([cell["lambda_1"] for cell in group])
        error = np.asarray([cell["lambda_1_error"] for cell in group])
        far = np.asarray([horizon_of(cell) for cell in group])
        rows.append(
            (
                name,
                str(len(group)),
                str(int((size > ERRORS * error).sum())),
                str(int((np.abs(size) <= ERRORS * error).sum())),
                str(int((size < -ERRORS * error).sum())),
                str(int((np.abs(size) <= NEAR).sum())),
                *(f"{value:+.3f}" for value in np.quantile(size, (0.25, 0.5, 0.75))),
                lag_shown(float(np.median(far))),
                str(int(np.isinf(far).sum())),
            )
        )
    signs = ("λ_1 > 0", "neither", "λ_1 < 0", f"within {NEAR}")
    quarters = ("quarter", "median", "three quarters")
    header = ("cells", "count", *signs, *quarters, "median horizon", f"beyond {LAG}")
    whole = table(f"λ_1 by more than {ERRORS} errors, and horizons", header, rows)
    return "\n\n".join(
        ("\n".join((whole, *_says(found))), _driven(found), _upper(found), _windows(found))
    )


def _says(found: Found) -> list[str]:
    """Sentences on the slowest gate, on trained cells beside their beginnings, and on saturation."""
    pairs = [
        (cell, [one[number] for one in looked["initial"]])
        for looked in found.values()
        for number, cell in enumerate(looked["trained"])
    ]
    trained = [cell for cell, _ in pairs]
    begun = [cell for _, cells in pairs for cell in cells]

    def more(value: Callable[[Any], float]) -> int:
        return sum(value(cell) > np.median([value(one) for one in cells]) for cell, cells in pairs)

    def median(key: str) -> str:
        values = [cell[key] for cell in trained if cell[key] is not None]
        return format(float(np.median(values)), ".0%")

    def far(cell: Mapping[str, Any]) -> float:
        return float(np.median(np.asarray(cell["hh"])[:, -1]) / LN10)

    gained = [far(cell) - float(np.median([far(one) for one in cells])) for cell, cells in pairs]
    return [
        f"Of {len(pairs)} cells training made the horizon longer in {more(horizon_of)}, λ_1 larger in "
        f"{more(itemgetter('lambda_1'))}, τ of the best unit longer in {more(itemgetter('tau_best'))}, "
        f"τ of the median unit longer in {more(itemgetter('tau_median'))}; ‖∂h_T/∂h_k‖ at lag {LAG} gained "
        f"{np.median(gained):.1f} decades in the median cell.",
        f"−1/(best τ), the exponent of the slowest gate alone, is within a factor of 2 of λ_1 in "
        f"{sum(map(_by_slowest, trained))} of {len(trained)} trained cells and "
        f"{sum(map(_by_slowest, begun))} of {len(begun)} initial ones.",
        f"In the median trained cell {median('saturated_gates')} of the gates and "
        f"{median('saturated_memories')} of the memories are saturated; "
        f"{sum(cell['dead_units'] > 0 for cell in trained)} cells have dead units.",
    ]


def _by_slowest(cell: Mapping[str, Any]) -> bool:
    return 0.5 <= -cell["lambda_1"] * cell["tau_best"] <= 2


def _driven(found: Found) -> str:
    """λ_1 by what drives a trained network.

    Its inputs, their steps in random order, noise like them, or what `gradient_flow.inspect` takes where no
    data are given.
    """
    rows, counts = [], dict.fromkeys(("its own", "shuffled", "noise", "no data"), 0)
    for name, looked in found.items():
        for number, cell in enumerate(looked["trained"]):
            by = (cell, *(looked[what][number] for what in ("shuffled", "noise", "blind")))
            for what, one in zip(counts, by, strict=True):
                counts[what] += one["lambda_1"] > ERRORS * one["lambda_1_error"]
            shown = (f"{o['lambda_1']:+.3f} ± {o['lambda_1_error']:.3f}" for o in by)
            rows.append((label(name, cell, looked["trained"]), *shown))
    says = ", ".join(f"{count} with {what}" for what, count in counts.items())
    header = ("network", "its own inputs", "the same, shuffled", "noise like them", "without data")
    title = "λ_1 by what drives a trained network"
    return table(title, header, rows) + f"\nAbove 0 by more than {ERRORS} errors: {says}."


def _upper(found: Found) -> str:
    """Do upper layers keep longer: the lowest beside the top layer, each the better of its directions."""
    rows, kept, slow = [], [], []
    for name, looked in found.items():
        cells = looked["trained"]
        last = max(cell["layer"] for cell in cells)
        if not last:
            continue
        ends = [[cell for cell in cells if cell["layer"] == which] for which in (0, last)]
        low, high = (max(cell["tau_median"] for cell in end) for end in ends)
        far = [max(horizon_of(cell) for cell in end) for end in ends]
        slope = [max(cell["lambda_1"] for cell in end) for end in ends]
        kept.append(high > low)
        slow.append(slope[1] > slope[0])
        shown = [lag_shown(value) for value in far]
        numbers = (f"{low:.3g}", f"{high:.3g}", *shown, *(f"{value:+.3f}" for value in slope))
        rows.append((name, *numbers))
    if not rows:
        return "No network with more than one layer."
    header = ("network", "τ low", "τ top", "horizon low", "horizon top", "λ_1 low", "λ_1 top")
    says = (
        f"The top layer has the larger τ in {sum(kept)} of {len(kept)} networks, the larger λ_1 in "
        f"{sum(slow)}."
    )
    return table("Lowest and top layer", header, rows) + "\n" + says


def _windows(found: Found) -> str:
    """Does the training window show in the horizon: the widest horizon and the best τ of a network."""
    rows = []
    for one in NETWORKS:
        if one.name not in found or one.made_for is None:
            continue
        cells = found[one.name]["trained"]
        far = [horizon_of(cell) for cell in cells]
        shown = [lag_shown(value) for value in far]
        rows.append(
            (
                one.name,
                str(one.made_for),
                " ".join(shown),
                f"{max(c['tau_best'] for c in cells):.3g}",
            )
        )
    if not rows:
        return "No network of which a window is known."
    return table("Windows", ("network", "made for", "horizons", "best τ"), rows)
