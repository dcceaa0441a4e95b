r"""Published derivations and sayings about recurrent gradients, put to the test.

Derivations (1 to 4) are small gradient functions, held by `gradient_flow.audit` against autodiff in float64,
for every parameter and every lag. Each has a corrected version beside it, which differs by the term that is
named as missing; that it agrees within 1e-12 is the proof that the term was named right.

Sayings (5) are measured on networks before and after a short training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.derivation_audit import chain, exercises, sayings
from experiments.derivation_audit.clipping import clipping
from experiments.derivation_audit.derivations import Derivation, audited, derivations
from experiments.derivation_audit.networks import QUICK, Looks, Sizes, look_at_all
from experiments.derivation_audit.plain_lstm import forward, problem
from experiments.derivation_audit.plot import draw
from experiments.derivation_audit.sayings import Saying
from experiments.running import Mismatch, Refusal, exit_code, keep, table
from gradient_flow import Audit
from gradient_flow.command_line import parse
from gradient_flow.output import claim_folder

SPREADS = (1.0, 2.0, 3.0)
SHOWN_LAGS = (1, 2, 3, 5, 10)
NETWORKS = 30


@dataclass(frozen=True)
class Config:
    """Hold published derivations against autodiff, and sayings against networks."""

    out: Path = Path("experiments/derivation_audit/results")
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of a finished run."""
    quick: bool = False
    """Small networks, hardly trained, that end within a minute; the sayings' numbers are no results."""
    seed: int = 0
    """Of the random networks and of the trainings."""


class Run(NamedTuple):
    """All that is computed."""

    derivations: tuple[Derivation, ...]
    audits: dict[str, dict[str, Audit]]
    products: dict[float, np.ndarray]
    digits: dict[str, dict[str, tuple[str, float]]]
    looks: Looks
    sayings: tuple[Saying, ...]


def same_digits(text: str, value: float) -> bool:
    """Whether a number is the printed one to every printed digit."""
    decimals = len(text.partition(".")[2])
    # Entries of arrays are printed to eight decimals less trailing zeros, numbers to twelve digits.
    shown = f"{value:.8f}" if decimals <= 8 else f"{value:.12g}"
    return float(shown) == float(text)


def product_errors(seed: int) -> dict[float, np.ndarray]:
    """Error of the product of one-step derivatives, [networks, lags], by the width of the weights."""
    found = {}
    for spread in SPREADS:
        rows = []
        for n in range(NETWORKS):
            params, state0, xs = problem(
                seed + n, length=max(SHOWN_LAGS) + 1, size=8, batch=1, spread=spread
            )
            rows.append(chain.product_errors(params, forward(params, state0, xs)))
        found[spread] = np.array(rows)
    return found


def compute(config: Config) -> Run:
    """Audit, train, measure.

    Raises:
        Mismatch: a correction that is not right, a published version that is, or a digit missed.
    """
    sizes = QUICK if config.quick else Sizes()
    with jax.enable_x64(True):
        chosen = derivations(config.seed)
        audits = {derivation.name: audited(derivation) for derivation in chosen}
        require_verdicts(audits)
        products = product_errors(config.seed)
        digits = {"cell": exercises.cell_digits(), "sequence": exercises.sequence_digits()}
        require_digits(digits)
    looks = look_at_all(sizes, config.seed, lambda text: print(f"{text} …", flush=True))
    said = (
        sayings.constant(looks),
        sayings.switches(looks),
        sayings.exceeds(looks),
        sayings.three_hundred(looks),
        sayings.closing(looks),
        sayings.relu(looks, sizes, config.seed),
        clipping(sizes, config.seed),
    )
    return Run(chosen, audits, products, digits, looks, said)


def require_verdicts(audits: dict[str, dict[str, Audit]]) -> None:
    """Refuse a correction that is wrong, and a fault that does not show."""
    for name, versions in audits.items():
        for label, found in versions.items():
            if found.ok != (label == "corrected"):
                expected = "right" if label == "corrected" else "wrong"
                raise Mismatch(f"{name}, {label}: expected it {expected}, got {found.verdict}.")


def require_digits(digits: dict[str, dict[str, tuple[str, float]]]) -> None:
    """Refuse an exercise whose printed numbers do not come out of the published version."""
    for exercise, numbers in digits.items():
        for name, (text, value) in numbers.items():
            if not same_digits(text, value):
                raise Mismatch(f"{exercise}, {name}: expected the printed {text}, got {value!r}.")


def audit_table(run: Run) -> str:
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


def first_wrong_table(run: Run) -> str:
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


def product_table(run: Run) -> str:
    """Error of the product of one-step derivatives against the lag."""
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
        f"∏ ∂C_(j+1)/∂C_j against dC_T/dC_k: median (least–most) error of {NETWORKS} networks, H = 8",
        ("weights uniform in", *(f"lag {lag}" for lag in SHOWN_LAGS)),
        rows,
    )


def digit_table(run: Run) -> str:
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
    rows = [[c.what, f"{c.value:.4g}", "yes" if c.holds else "no"] for c in saying.cases]
    title = f"“{saying.said}”: {saying.verdict.upper()}"
    return (
        table(f"{title}\n  {saying.measure}", ("case", "value", "holds"), rows)
        + f"\n  So: {saying.instead}."
    )


def report(run: Run) -> str:
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
        )
    )


def recorded(run: Run, config: Config) -> dict[str, Any]:
    """What ``results.json`` holds; a number that is not finite is null."""

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        "experiment": "derivation_audit",
        "settings": {"seed": config.seed, "quick": config.quick},
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
        "printed_digits_reproduced": sum(map(len, run.digits.values())),
        "losses": {name: [number(v) for v in pair] for name, pair in run.looks.losses.items()},
        "sayings": [
            {
                "name": said.name,
                "said": said.said,
                "verdict": said.verdict,
                "measure": said.measure,
                "instead": said.instead,
                "cases": [[c.what, number(c.value), c.holds] for c in said.cases],
            }
            for said in run.sayings
        ],
    }


def execute(config: Config) -> None:
    """Compute, draw, keep and print."""
    if config.seed < 0:
        raise Refusal(f"Seed mismatch: expected a seed of at least 0, got {config.seed}.")
    claim_folder(config.out, "derivation_audit", overwrite=config.overwrite)
    run = compute(config)
    text = report(run)
    draw(config.out, run.derivations, run.audits, run.sayings)
    arrays = {
        f"{said.name}_{n}_{axis}": np.asarray(getattr(line, axis))
        for said in run.sayings
        for n, line in enumerate(said.lines)
        for axis in ("x", "y")
    }
    arrays |= {f"product_error_{spread:g}": errors for spread, errors in run.products.items()}
    keep(config.out, arrays, recorded(run, config), text)
    print(text)
    print(f"\nWritten to {config.out}")


def main(args: Sequence[str] | None = None) -> int:
    """Command line: 0 done, 1 a number that differs, 2 a request refused."""
    config: Config = parse(Config, "python -m experiments.derivation_audit", args)
    return exit_code(lambda: execute(config))
