"""The results of a run, as text tables and as the content of ``results.json``."""

from typing import Any, NamedTuple

import numpy as np

from experiments.derivation_audit.claim import Saying
from experiments.derivation_audit.derivations import Derivation
from experiments.derivation_audit.networks import Looks
from experiments.derivation_audit.wrong_training import wrong_table
from experiments.running import table
from gradient_flow import Audit

SHOWN_LAGS = (1, 2, 3, 5, 10)


class Found(NamedTuple):
    """All that is computed."""

    derivations: tuple[Derivation, ...]
    audits: dict[str, dict[str, Audit]]
    products: dict[float, np.ndarray]
    digits: dict[str, dict[str, tuple[str, float]]]
    looks: Looks
    sayings: tuple[Saying, ...]
    wrong_trainings: list[dict[str, Any]]


def same_digits(text: str, value: float) -> bool:
    """Whether a number is the printed one to every printed digit."""
    decimals = len(text.partition(".")[2])
    # Entries of arrays are printed to eight decimals less trailing zeros, numbers to twelve digits.
    shown = f"{value:.8f}" if decimals <= 8 else f"{value:.12g}"
    return float(shown) == float(text)


def audit_table(run: Found) -> str:
    """One line for each version of each derivation."""
    rows = []
    for derivation in run.derivations:
        for label, found in run.audits[derivation.name].items():
            name, lag, error = found.worst
            start = "right" if found.ok else f"wrong from lag {min(found.wrong.values())}"
            whole = max(leaf.whole for leaf in found.leaves)
            rows.append(
                [
                    derivation.title if label == "published" else "",
                    label,
                    start,
                    f"{len(found.wrong)} of {len(found.leaves)}",
                    f"{whole:.1e}",
                    f"{error:.1e}",
                    f"{name}, {lag}",
                ]
            )
    header = ("derivation", "version", "verdict", "leaves wrong", "whole", "worst", "leaf, lag")
    return table("Derivations against autodiff (relative errors, float64)", header, rows)


def first_wrong_table(run: Found) -> str:
    """For each version that is wrong, from which lag on each gate, cotangent and output is."""
    rows = []
    for derivation in run.derivations:
        for label, found in run.audits[derivation.name].items():
            if found.ok:
                continue
            groups: dict[str, set[str]] = {}
            for leaf in found.leaves:
                start = found.wrong.get(leaf.name)
                called = leaf.name.split(".")[0]
                groups.setdefault(called, set()).add("right" if start is None else str(start))
            rows.append(
                [
                    f"{derivation.title.split('.')[0]}, {label}",
                    ", ".join(f"{called} {'/'.join(sorted(of))}" for called, of in groups.items()),
                ]
            )
    return table("First wrong lag of each gate, cotangent and output", ("version", "lags"), rows)


def product_table(run: Found) -> str:
    """Error of the product of one-step derivatives against the lag."""
    networks = len(next(iter(run.products.values())))
    rows = [
        [
            f"±{spread:g}/√H",
            *(
                f"{100 * np.median(errors[:, lag - 1]):.1f} %"
                f" ({100 * errors[:, lag - 1].min():.1f}–{100 * errors[:, lag - 1].max():.1f})"
                for lag in SHOWN_LAGS
            ),
        ]
        for spread, errors in run.products.items()
    ]
    return table(
        f"∏ ∂C_(j+1)/∂C_j against dC_T/dC_k: median (least–most) error of {networks} networks, H = 8",
        ("weights uniform in", *(f"lag {lag}" for lag in SHOWN_LAGS)),
        rows,
    )


def digit_table(run: Found) -> str:
    """The exercises' printed numbers, and what their own backward passes give."""
    rows = [
        [f"{exercise}: {name}", text, f"{value:.14f}", "all"]
        for exercise, numbers in run.digits.items()
        for name, (text, value) in numbers.items()
    ]
    return table(
        "4. Printed by the exercises, and by their published backward pass",
        ("entry", "printed", "published version", "digits"),
        rows,
    )


def saying_table(saying: Saying) -> str:
    """One saying with its cases."""
    rows = []
    for case in saying.cases:
        numbers = f"{case.value:.4g}"
        if len(case.values) > 1:
            numbers += f" ({min(case.values):.4g} … {max(case.values):.4g})"
        rows.append([case.what, numbers, f"{sum(case.held)} of {len(case.held)}", case.beside])
    title = f"“{saying.said}”: {saying.verdict.upper()}"
    return (
        table(f"{title}\n  {saying.measure}", ("case", "value", "holds", "first seed"), rows)
        + f"\n  So: {saying.instead}."
    )


def report(run: Found) -> str:
    """Everything as text."""
    losses = table(
        "Trainings: mean loss of the first and of the last tenth (text: nats a letter; adding: squared "
        "error, 0.167 without a memory)",
        ("network", "first", "last"),
        [[name, f"{a:.4g}", f"{b:.4g}"] for name, (a, b) in run.looks.losses.items()],
    )
    named = "\n".join(
        (
            "What is missing or wrong",
            *(
                f"  {derivation.title}:\n      {derivation.missing}"
                for derivation in run.derivations
            ),
        )
    )
    verdicts = table(
        "5. Sayings", ("saying", "verdict"), [[said.said, said.verdict] for said in run.sayings]
    )
    return "\n\n".join(
        (
            audit_table(run),
            named,
            first_wrong_table(run),
            product_table(run),
            digit_table(run),
            losses,
            verdicts,
            *map(saying_table, run.sayings),
            *([wrong_table(run.wrong_trainings)] if run.wrong_trainings else []),
        )
    )


def recorded(run: Found, settings: dict[str, Any]) -> dict[str, Any]:
    """What ``results.json`` holds; a number that is not finite is null."""

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        "experiment": "derivation_audit",
        "settings": settings,
        "derivations": [
            {
                "name": derivation.name,
                "title": derivation.title,
                "missing": derivation.missing,
                "versions": {
                    label: {
                        "ok": found.ok,
                        "verdict": found.verdict,
                        "wrong_from_lag": found.wrong,
                        "lags": found.lags.tolist(),
                        "errors": {
                            leaf.name: [number(error) for error in leaf.by_lag]
                            for leaf in found.leaves
                        },
                        "whole": {leaf.name: number(leaf.whole) for leaf in found.leaves},
                    }
                    for label, found in run.audits[derivation.name].items()
                },
            }
            for derivation in run.derivations
        ],
        "product_error": [
            {"spread": spread, "lag": lag, "median": float(np.median(errors[:, lag - 1]))}
            for spread, errors in run.products.items()
            for lag in SHOWN_LAGS
        ],
        "printed_digits_reproduced": sum(
            same_digits(text, value)
            for numbers in run.digits.values()
            for text, value in numbers.values()
        ),
        "losses": {name: [number(v) for v in pair] for name, pair in run.looks.losses.items()},
        "wrong_trainings": run.wrong_trainings,
        "sayings": [
            {
                "name": said.name,
                "said": said.said,
                "verdict": said.verdict,
                "measure": said.measure,
                "instead": said.instead,
                "cases": [
                    {
                        "what": case.what,
                        "values": [number(value) for value in case.values],
                        "held": list(case.held),
                        "beside": case.beside,
                    }
                    for case in said.cases
                ],
            }
            for said in run.sayings
        ],
    }
