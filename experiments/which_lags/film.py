"""A path being made: ∂h_t/∂h_k of the shift network over its first updates on recall.

At the start ∂h_T/∂h_k is exactly 0 beyond lag H − 1. The network with this start that was solved first, of
those that are stored, is trained again, past where it was solved, and looked at on the way.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lag_tasks import TASKS
from experiments.which_lags.groups import Group
from experiments.which_lags.starts import plain_cell, starts_of
from experiments.which_lags.train import CHUNK, Run, begun, program, stacked
from gradient_flow import all_pairs_norms
from gradient_flow.results_folder import write_arrays

UPDATES = (0, 20, 40, 80, 120, 160, 200)
NETWORK, LENGTH = "tanh", 50


def filmed_run(groups: Sequence[Mapping[str, Any]]) -> Run | None:
    """The stored run that was solved first; None if there is none."""
    found = [
        (run["solved"], run["seed"], run["rate"])
        for stored in groups
        if (stored["group"]["task"], stored["group"]["network"]) == ("recall", NETWORK)
        and (stored["group"]["length"], stored["group"]["hidden_size"]) == (LENGTH, 32)
        for run in stored["runs"]
        if run["start"] == "shift" and run["solved"] is not None
    ]
    if not found:
        return None
    start = next(start for start in starts_of(NETWORK) if start.name == "shift")
    return Run(start, *min(found)[1:])


def film(out: Path, run: Run, updates: tuple[int, ...] = UPDATES) -> dict[str, np.ndarray]:
    """Train the run again, take the maps, and keep them as ``film.npz``."""
    group = Group(NETWORK, 32, "recall", LENGTH, side_by_side=1)
    task = TASKS["recall"]
    lanes, go_on = stacked([begun(run, task, group)]), program(group)
    models = {}
    for update in range(0, max(updates) + 1, CHUNK):
        models[update] = jax.tree.map(lambda a: a[0], lanes.model.cell)
        lanes, _ = go_on(lanes)
    cell = plain_cell(NETWORK, task.inputs, 32)
    xs = task.draw(jax.random.key(2**31 - 1), 1, LENGTH).xs[:, 0]
    maps = [
        all_pairs_norms(
            cell, models[update], None, xs,
            blocks=["hh"], norms=["spectral"],
        ).spectral["hh"]
        for update in updates
    ]  # fmt: skip
    arrays = {"updates": np.asarray(updates), "maps": np.asarray(jnp.stack(maps))}
    write_arrays(out / "film.npz", arrays)
    return arrays
