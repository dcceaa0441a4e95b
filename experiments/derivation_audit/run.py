r"""Test published derivations and claims about recurrent gradients.

Derivations (1 to 4) are small gradient functions, held by `gradient_flow.audit` against autodiff in float64,
for every parameter and every lag. Each has a corrected version beside it, which differs by the term that is
named as missing; that it agrees within 1e-12 is the proof that the term was named right.

Sayings (5) are measured on networks before and after a short training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments.derivation_audit import chain, claims, exercises
from experiments.derivation_audit.claim import over_seeds
from experiments.derivation_audit.clipping import clipping
from experiments.derivation_audit.derivations import audited, derivations
from experiments.derivation_audit.networks import QUICK, Sizes, look_at_all
from experiments.derivation_audit.plain_lstm import forward, problem
from experiments.derivation_audit.plot import draw
from experiments.derivation_audit.report import SHOWN_LAGS, Found, recorded, report, same_digits
from experiments.derivation_audit.wrong_training import (
    QUICK_SETTINGS,
    SETTINGS,
    wrong_trainings,
)
from experiments.running import Mismatch, Refusal, exit_code, keep, require_seed
from gradient_flow import Audit
from gradient_flow.results_folder import claim_folder
from lstm_jax.command_line.tyro_options import parse

SPREADS = (1.0, 2.0, 3.0)
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
    """Of the random networks and of the trainings; the first of --seeds."""
    seeds: int | None = None
    """Networks of each kind; 5, with --quick 1."""
    train_wrong: bool = False
    """Train --seeds LSTMs with each wrong gradient as well, several minutes more."""


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


def compute(config: Config) -> Found:
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
    seeds = range(config.seed, config.seed + seeds_of(config))
    every = [look_at_all(sizes, seed, partial(say, seed)) for seed in seeds]
    said = [
        (
            claims.constant(looks),
            claims.switches(looks),
            claims.exceeds(looks),
            claims.three_hundred(looks),
            claims.closing(looks),
            claims.relu(looks, sizes, seed),
            clipping(sizes, seed),
        )
        for seed, looks in zip(seeds, every, strict=True)
    ]
    trained = []
    if config.train_wrong:
        chosen_settings, size = (QUICK_SETTINGS, 4) if config.quick else (SETTINGS, 32)
        settings = tuple(
            setting._replace(seed=config.seed, seeds=seeds_of(config))
            for setting in chosen_settings
        )
        trained = wrong_trainings(settings, size, partial(say, None))
    together = tuple(over_seeds(same) for same in zip(*said, strict=True))
    return Found(chosen, audits, products, digits, every[0], together, trained)


def seeds_of(config: Config) -> int:
    """How many networks of each kind."""
    return config.seeds if config.seeds is not None else 1 if config.quick else 5


def say(seed: int | None, text: str) -> None:
    """What comes next."""
    print(f"{text} …" if seed is None else f"seed {seed}: {text} …", flush=True)


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


def execute(config: Config) -> None:
    """Compute, keep, print and draw."""
    require_seed(config.seed)
    if seeds_of(config) < 1:
        raise Refusal(f"Range mismatch: expected --seeds of at least 1, got {config.seeds}.")
    claim_folder(config.out, "derivation_audit", overwrite=config.overwrite)
    run = compute(config)
    text = report(run)
    settings = {"seed": config.seed, "seeds": seeds_of(config), "quick": config.quick}
    arrays = {
        f"{said.name}_{n}_{axis}": np.asarray(getattr(line, axis))
        for said in run.sayings
        for n, line in enumerate(said.lines)
        for axis in ("x", "y")
    }
    arrays |= {f"product_error_{spread:g}": errors for spread, errors in run.products.items()}
    keep(config.out, arrays, recorded(run, settings), text)
    print(text)
    draw(config.out, run.derivations, run.audits, run.sayings)
    print(f"\nWritten to {config.out}")


def main(args: Sequence[str] | None = None) -> int:
    """Command line: 0 done, 1 a number that differs, 2 a request refused."""
    config: Config = parse(Config, "python -m experiments.derivation_audit", args)
    return exit_code(lambda: execute(config))
