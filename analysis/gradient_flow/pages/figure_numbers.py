"""The numbers behind the figures of an inspection or a comparison, out of arrays by name.

Names are ``<stage>/<network>/<what>``. A figure is a list of parts, each with its ``stage`` and its
``network``; norms are log10 here, natural logs in the files. A part that does not fit is left out, with a
sentence; so is a figure without parts.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gradient_flow.pages.figure_parts import BUILDERS, Misfit, Parts, Source
from gradient_flow.pages.run_numbers import RunNumbers
from gradient_flow.pages.screen_numbers import Limits


class Figures(NamedTuple):
    """The figures of a page.

    Attributes:
        parts: of each figure, by its name.
        notes: what was left out to keep the page small, by figure.
        problems: arrays that do not fit, a sentence each.
    """

    parts: dict[str, Parts]
    notes: dict[str, list[str]]
    problems: list[str]


def figures(run: RunNumbers, limits: Limits) -> Figures:
    """The numbers of every figure of a run.

    Args:
        run: from `read_numbers`.
        limits: how many numbers a figure holds.
    """
    found = Figures({name: [] for name in BUILDERS}, {}, [])
    lags = _lags(run)
    for stage, network, arrays in by_network(run, limits, found):
        for figure, build in BUILDERS.items():
            # Two figures may be drawn from the same array, which is named once.
            notes = found.notes.setdefault(figure, [])

            def note(text: str, notes: list[str] = notes) -> None:
                if text not in notes:
                    notes.append(text)

            try:
                parts = build(Source(arrays, lags, limits, note))
            except Misfit as error:
                found.problems.append(f"{stage}/{network}: {error}.")
                continue
            except (ValueError, TypeError, IndexError) as error:
                found.problems.append(f"{stage}/{network}: {figure} cannot be read ({error}).")
                continue
            found.parts[figure] += [{"stage": stage, "network": network, **p} for p in parts]
    return found


def by_network(
    run: RunNumbers, limits: Limits, found: Figures
) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """The arrays of each stage and network, in the order in which ``results.json`` names them."""
    groups: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for name, array in run.arrays.items():
        parts = name.split("/")
        if len(parts) < 3:
            found.problems.append(f"{name}: expected an array named stage/network/what.")
            continue
        groups.setdefault((parts[0], "/".join(parts[1:-1])), {})[parts[-1]] = array
    stages, networks = (list(map(str, run.results.get(k) or ())) for k in ("stages", "networks"))

    def place(key: tuple[str, str]) -> tuple[int, int]:
        stage, network = key
        return (
            stages.index(stage) if stage in stages else len(stages),
            networks.index(network) if network in networks else len(networks),
        )

    order = sorted(groups, key=place)
    shown = list(dict.fromkeys(network for _, network in order))[: limits.networks]
    every = len({network for _, network in order})
    if every > len(shown):
        found.problems.append(f"The page shows {len(shown)} of {every} networks.")
    for stage, network in order:
        if network in shown:
            yield stage, network, groups[stage, network]


def _lags(run: RunNumbers) -> np.ndarray:
    lags = run.results.get("lags")
    whole = isinstance(lags, list) and all(type(lag) is int for lag in lags)
    return np.asarray(lags if whole else [], np.int64)
