"""A claim, and the line of a table that it comes to."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.evidence.stored import read_run

EXACT = "exact"
HEADER = ("claim", "number", "seeds", "interval", "command", "core minutes", "anchor")


class Claim(NamedTuple):
    """Something that an experiment's page says.

    Attributes:
        experiment: name of its folder.
        run: of the stored run that it is computed from.
        says: the claim, without its number.
        numbers: ``numbers(results)``: the number of each seed, or whether it holds for each; a text is
            shown as it is.
        form: of a number.
        seeds: in words, where they are not the numbers: `EXACT` for what no seed moves.
        anchor: the published number and its source, or a dash.
        name: by which other tables ask for it.
    """

    experiment: str
    run: str
    says: str
    numbers: Callable[[Any], Sequence[Any] | str]
    form: str = "{:.3g}"
    anchor: str = "-"
    seeds: str | None = None
    name: str = ""


class Found(NamedTuple):
    """What a claim comes to, in words."""

    number: str
    seeds: str
    interval: str


def found_of(claim: Claim) -> Found:
    """The claim's number, seeds and interval, from its stored run."""
    found = evaluated(claim.numbers(read_run(claim.experiment, claim.run)["results"]), claim.form)
    return found._replace(seeds=claim.seeds or found.seeds)


def line_of(claim: Claim) -> tuple[str, ...]:
    """The claim's line: says, number, seeds, interval, command, minutes, anchor."""
    run = read_run(claim.experiment, claim.run)
    number, seeds, interval = found_of(claim)
    minutes = "-" if run["minutes"] is None else f"{run['minutes']:.3g}"
    command = f"`{run['command']}`"
    if run["transcribed"]:
        of = run["transcribed"]
        command += f", {of} in an earlier run" if isinstance(of, str) else ", an earlier run"
    return (claim.says, number, seeds, interval, command, minutes, claim.anchor)


def evaluated(found: Sequence[Any] | str, form: str) -> Found:
    """Number, seeds and interval in words: the median and the extremes, or how many hold."""
    if isinstance(found, str):
        return Found(found, EXACT, "-")
    values = list(found)
    seeds = "one look" if len(values) == 1 else str(len(values))
    if all(isinstance(value, bool | np.bool_) for value in values):
        return Found(f"{sum(map(bool, values))} of {len(values)}", seeds, "-")
    low, middle, high = (form.format(f(values)) for f in (np.min, np.median, np.max))
    return Found(middle, seeds, "-" if len(values) == 1 else f"{low} … {high}")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )
