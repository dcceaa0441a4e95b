"""Print the tables of every claim, put them into the pages, compare quick runs, and store a finished run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.evidence.check import QUICK_RUNS, checked
from experiments.evidence.pages import stale_pages, tables, write_pages
from experiments.evidence.stored import EXPERIMENTS, store_run
from experiments.running import Mismatch, Refusal, exit_code
from lstm_jax.command_line.tyro_options import parse


@dataclass(frozen=True, kw_only=True)
class Config:
    """Print every claim's table from the stored runs; or write, check or store."""

    write: bool = False
    """Put the tables into the pages."""
    check: bool = False
    """Compare the pages with what is stored, and fresh quick runs with stored ones; some minutes."""
    only: tuple[str, ...] = ()
    """With --check: these experiments alone."""
    store: str = ""
    """EXPERIMENT/RUN: store what lies in --folders under this name."""
    folders: tuple[Path, ...] = ()
    """With --store: the folders of the finished runs, one for each seed."""
    command: str = ""
    """With --store: how the run was started."""
    minutes: float | None = None
    """With --store: what it took of one core."""
    add: bool = False
    """With --store: further seeds of the run that is stored already."""


NEEDS = {"check": ("only",), "store": ("folders", "command", "minutes", "add")}
"""Options that mean something with another one alone."""


def run(config: Config) -> None:
    """Do the one thing that is asked for.

    Raises:
        Refusal, OutputError: what cannot be done.
        Mismatch: with --check, a page or a number that is not as stored.
    """
    asked = [name for name in ("write", "check", "store") if getattr(config, name)]
    if len(asked) > 1:
        raise Refusal(
            f"Option mismatch: expected one of --write, --check, --store, got {len(asked)}."
        )
    for needed, options in NEEDS.items():
        given = [f"--{name}" for name in options if getattr(config, name) != getattr(Config, name)]
        if given and not getattr(config, needed):
            raise Refusal(
                f"Option mismatch: expected --{needed} with {', '.join(given)}, got none."
            )
    if config.store:
        _store(config)
    elif config.write:
        for page in write_pages():
            print(f"written: {page.relative_to(EXPERIMENTS.parent)}")
    elif config.check:
        _check(config.only or tuple(QUICK_RUNS))
    else:
        for page, own in tables().items():
            for name, table in own.items():
                title = f", {name}" if name else ""
                print(f"{page.relative_to(EXPERIMENTS.parent)}{title}\n\n{table}\n")


def _store(config: Config) -> None:
    experiment, _, name = config.store.partition("/")
    if not name or not (EXPERIMENTS / experiment).is_dir():
        raise Refusal(f"Name mismatch: expected --store EXPERIMENT/RUN, got {config.store!r}.")
    if not config.folders or not config.command:
        raise Refusal(
            "Option mismatch: expected --folders and --command with --store, got it alone."
        )
    path = store_run(
        experiment,
        name,
        config.folders,
        command=config.command,
        minutes=config.minutes,
        add=config.add,
    )
    print(f"stored: {path.relative_to(EXPERIMENTS.parent)}")


def _check(names: Sequence[str]) -> None:
    unknown = sorted(set(names) - set(QUICK_RUNS))
    if unknown:
        raise Refusal(
            f"Name mismatch: expected --only from {', '.join(QUICK_RUNS)}, got {', '.join(unknown)}."
        )
    wrong = [f"{page.relative_to(EXPERIMENTS.parent)} is not as stored" for page in stale_pages()]
    for name in names:
        found = checked(name)
        print(f"{name}: {len(found)} numbers differ", flush=True)
        for one in found[:10]:
            print(f"  {one.where}: {one.stored} stored, {one.fresh} now")
        wrong += [f"{name} has {len(found)} other numbers"] * bool(found)
    if wrong:
        raise Mismatch(f"Evidence mismatch: expected all as stored, got: {'; '.join(wrong)}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.evidence", arguments)
    return exit_code(lambda: run(config))
