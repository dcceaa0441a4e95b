"""A fresh ``--quick`` run of an experiment beside the stored one: every number that both have.

Machines round differently, and training amplifies that: a number agrees if it is within `TOLERANCE` of the
larger one, or of the largest of its list. Times and versions are not compared.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.evidence.stored import EXPERIMENTS, read_run, short
from experiments.running import Stopped
from gradient_flow.results_folder import FINISHED, read_json

TOLERANCE = 0.05
QUICK_RUNS: dict[str, tuple[str, Sequence[str]]] = {
    "course_questions": ("quick", ("--quick",)),
    "derivation_audit": ("quick", ("--quick", "--train-wrong")),
    "gate_walkthrough": ("run", ()),
    "long_lag": (
        "quick",
        ("--quick", "--studies", "adding", "chrono", "copy", "order_1997", "order"),
    ),
    "rnn_by_hand": ("run", ()),
    "where_it_goes": ("quick", ("--quick",)),
    "which_lags": ("quick", ("--quick",)),
}
"""The experiments with a stored quick run: its name, and what it is started with."""
NOT_COMPARED = (
    "seconds", "cpu_seconds", "watch_seconds", "config", "pytorch_compared", "max_differences",
)  # fmt: skip
"""Times, settings, and what depends on whether PyTorch is installed."""
ROUNDING = 1e-11
"""Numbers below it are rounding, which differs from machine to machine."""


class Difference(NamedTuple):
    """A number that is another one now."""

    where: str
    stored: Any
    fresh: Any


def quick_run(experiment: str, out: Path) -> dict[str, Any]:
    """Run an experiment quickly in a process of its own; what it kept.

    Raises:
        Stopped: it failed.
    """
    command = [sys.executable, "-m", f"experiments.{experiment}", *QUICK_RUNS[experiment][1]]
    done = subprocess.run(
        [*command, "--out", str(out)],
        cwd=EXPERIMENTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Stopped(f"{experiment} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    # As a stored run has them.
    return json.loads(json.dumps(short(read_json(out / FINISHED))))


def checked(experiment: str) -> list[Difference]:
    """Every number of a fresh quick run that is not the stored one."""
    stored = read_run(experiment, QUICK_RUNS[experiment][0])["results"]
    with tempfile.TemporaryDirectory() as folder:
        fresh = quick_run(experiment, Path(folder) / "out")
    return list(differences(stored, fresh))


def differences(
    stored: Any, fresh: Any, where: str = "", scale: float = 0.0
) -> Iterator[Difference]:
    """What differs, leaf by leaf.

    Args:
        stored: of types that JSON has.
        fresh: likewise.
        where: the path to here.
        scale: the largest number of the list that these stand in.
    """
    if isinstance(stored, dict) and isinstance(fresh, dict) and stored.keys() == fresh.keys():
        for key in stored:
            if key not in NOT_COMPARED:
                yield from differences(stored[key], fresh[key], f"{where}.{key}", scale)
    elif isinstance(stored, dict) and isinstance(fresh, dict):
        missing, new = sorted(stored.keys() - fresh.keys()), sorted(fresh.keys() - stored.keys())
        yield Difference(where, f"with {missing}", f"with {new}")
    elif isinstance(stored, list) and isinstance(fresh, list) and len(stored) == len(fresh):
        numbers = [abs(v) for v in stored if isinstance(v, int | float) and math.isfinite(v)]
        for n, (one, other) in enumerate(zip(stored, fresh, strict=True)):
            yield from differences(one, other, f"{where}[{n}]", max(numbers, default=0.0))
    elif _number(stored) and _number(fresh):
        if abs(stored - fresh) > max(TOLERANCE * max(abs(stored), abs(fresh), scale), ROUNDING):
            yield Difference(where, stored, fresh)
    elif stored != fresh:
        yield Difference(where, stored, fresh)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
