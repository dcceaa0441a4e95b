"""Train and measure group by group, keep each in a file, and make tables and figures of what is there.

A run that is stopped goes on with ``--resume`` at the first group that is not stored.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.running import Refusal, exit_code
from experiments.which_lags import plot
from experiments.which_lags.evidence import DRAWS
from experiments.which_lags.film import film, filmed_run
from experiments.which_lags.groups import Group, all_groups, quick_groups
from experiments.which_lags.measures import measured
from experiments.which_lags.report import report
from experiments.which_lags.rows import Rows, joined, named, read_rows, rows_of, write_rows
from experiments.which_lags.store import group_file, is_done, read_group, write_group
from experiments.which_lags.train import Run, Trained, runs_of, trained
from gradient_flow.results_folder import FINISHED, claim_folder, environment, write_json
from lstm_jax.atomic_write import write_file
from lstm_jax.command_line.tyro_options import parse

ROWS = "rows.csv"
REPORTED = Path(__file__).resolve().parent / "stored" / ROWS
"""The rows of the run that the page reports."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train networks from many starts on many lags, and ask what tells beforehand which of them learn."""

    quick: bool = False
    """Three small groups, a minute; their numbers are no results."""
    out: Path = Path("experiments/which_lags/results")
    """Folder for the groups, the tables and the figures."""
    resume: bool = False
    """Go on with the groups that are not in --out yet."""
    overwrite: bool = False
    """Replace the groups in --out."""
    only: str = ""
    """Only groups whose name holds this: recall, adding_uniform-100, lstm-32."""
    plan: bool = False
    """Only say what it would take."""
    reported: bool = False
    """Add to the reported run: train only groups that it lacks, and make tables of its rows and of yours."""
    report: bool = False
    """Only make tables and figures, of the groups in --out; without --out and groups, of the reported run."""


def run(config: Config) -> None:
    """Train every group that is not stored, then print, draw and keep.

    Raises:
        Refusal, OutputError: what cannot be run, before anything is.
    """
    given = {"--report": config.report, "--plan": config.plan}
    if config.resume and config.overwrite:
        raise Refusal("Option mismatch: expected --resume or --overwrite, got both.")
    if all(given.values()):
        raise Refusal("Option mismatch: expected --report or --plan, got both.")
    if config.reported and config.quick:
        raise Refusal("Option mismatch: expected --reported or --quick, got both.")
    known = read_rows(REPORTED) if config.reported else None
    there = set() if known is None else set(named(known))
    every = quick_groups() if config.quick else all_groups()
    groups = [group for group in every if config.only in group.name]
    if not groups:
        names = ", ".join(sorted({group.task for group in every}))
        raise Refusal(
            f"Name mismatch: expected --only as a part of a name such as {names}, got {config.only!r}."
        )
    if not config.report:
        left = [
            group
            for group in groups
            if group.name not in there and (config.overwrite or not is_done(config.out, group))
        ]
        print(_estimate(groups, left), flush=True)
        if config.plan:
            return
        stored = [group for group in groups if group_file(config.out, group).exists()]
        if stored and not (config.resume or config.overwrite):
            raise Refusal(
                f"Unfinished run: expected a new or empty folder, got {config.out} with {len(stored)} groups "
                "in it. Add --resume or --overwrite, or name another --out."
            )
        out = claim_folder(config.out, "which_lags", overwrite=config.resume or config.overwrite)
        write_json(out / "environment.json", environment())
        for group in tqdm(left, desc="groups", unit="group", disable=None):
            _make(out, group)
    _conclude(config, every, known)


def _estimate(groups: Sequence[Group], left: Sequence[Group]) -> str:
    hours = sum(group.most_seconds for group in left) / 3600
    count = sum(len(runs_of(group)) for group in left)
    return (
        f"{len(left)} of {len(groups)} groups are left, {count:,} networks: at most {hours:.1f} hours of one "
        "core, about half of it where half of them learn."
    )


def _make(out: Path, group: Group) -> None:
    """Train and measure a group, and keep it."""
    # Time of the process: a machine that others use, or a pause, does not count.
    began = time.process_time()
    ends = sorted(trained(group), key=lambda end: _place(end.run))
    runs = _described(group, ends)
    seconds = time.process_time() - began
    write_group(out, group, runs, seconds)
    learned = sum(run["solved"] is not None for run in runs)
    print(
        f"{group.name}: {learned} of {len(runs)} solved, {seconds:.0f} s of {group.most_seconds:.0f} at most",
        flush=True,
    )


def _place(one: Run) -> tuple[float, str, int]:
    return one.rate, one.start.name, one.seed


def _described(group: Group, ends: Sequence[Trained]) -> list[dict[str, Any]]:
    """What is kept of each network: how it ended, and its measurements by look."""
    looks: list[dict[str, Any]] = [{} for _ in ends]
    for look in group.looks:
        # Before training a network is the same at every rate.
        which = [
            n
            for n, end in enumerate(ends)
            if look in end.models and (look or end.run.rate == group.rates[0])
        ]
        if not which:
            continue
        models = jax.tree.map(lambda *a: np.stack(a), *[ends[n].models[look] for n in which])
        numbers = measured(group.network, group.hidden_size, group.task, group.length, models)
        for n, own in zip(which, numbers, strict=True):
            looks[n][str(look)] = own
    return [
        {
            "start": end.run.start.name,
            "seed": end.run.seed,
            "rate": end.run.rate,
            "solved": end.solved,
            "diverged": end.diverged,
            "updates": end.updates,
            "last": end.last,
            "looks": own,
        }
        for end, own in zip(ends, looks, strict=True)
    ]


def _conclude(config: Config, every: Sequence[Group], known: Rows | None) -> None:
    """Tables and figures of what is stored, and of the rows that are known without it."""
    out = config.out
    paths = [group_file(out, group) for group in every]
    stored = [read_group(path) for path in paths if path.exists()]
    if stored:
        rows = rows_of(stored)
        if known is not None:
            rows = joined(known.where(~np.isin(named(known), named(rows))), rows)
    elif config.report and not config.quick and config.out == Config.out:
        print("No groups of your own: these are the rows of the reported run")
        rows = read_rows(REPORTED)
        # The default folder stays free for a run of one's own.
        out = claim_folder(None, "which_lags", overwrite=False)
    else:
        raise Refusal(f"No groups: expected some that are done in {out}, got none.")
    out.mkdir(parents=True, exist_ok=True)
    draws = DRAWS // 50 if config.quick else DRAWS
    tables, numbers = report(rows, len(every), draws)
    print(tables)
    write_rows(rows, out / ROWS)
    write_json(out / FINISHED, numbers)

    def write(path: Path) -> None:
        path.write_text(tables + "\n", encoding="utf-8")

    write_file(out / "tables.txt", write)
    small = rows.where(rows.hidden_size <= 32)
    written = [plot.save(out, "which_lags", plot.predictors(small, draws))]
    chosen = None if config.quick else filmed_run(stored)
    if chosen is not None:
        written.append(plot.save(out, "film", plot.film(film(out, chosen))))
    print(f"\nWritten to {out}: tables.txt, {ROWS}, {', '.join(path.name for path in written)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.which_lags", arguments)
    return exit_code(lambda: run(config))
