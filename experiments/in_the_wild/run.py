r"""What the gradient does in trained networks that people have installed, beside their initialisations.

Each network is looked at cell by cell, over a sequence of what it was made for; the same architecture at its
framework's initialisation gets the same inputs. Every network is kept when it is measured, and ``--resume``
goes on with the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.in_the_wild.answers import ANSWERS
from experiments.in_the_wild.initial import initial
from experiments.in_the_wild.inputs import INPUTS, Wanted
from experiments.in_the_wild.measure import GRID, LAG, exponents, measured, noise_like
from experiments.in_the_wild.packages import (
    NETWORKS,
    PACKAGES,
    QUICK,
    Network,
    default_cache,
    fetched,
    file_of,
)
from experiments.in_the_wild.plot import draw
from experiments.in_the_wild.report import report
from experiments.running import Refusal, exit_code, keep, require_seed
from gradient_flow.inspections.inputs import embedding_of, noise
from gradient_flow.inspections.network_of import network_of
from gradient_flow.results_folder import FINISHED, claim_folder, read_json, write_json
from lstm_jax.array_types import Array
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.validation import require_positive_int
from lstm_jax.weights import named_arrays

KEPT = "networks"
"""The folder of networks that were measured."""


@dataclass(frozen=True)
class Config:
    """Look at trained networks out of packages on PyPI, beside their initialisations."""

    out: Path = Path("experiments/in_the_wild/results")
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of a finished run."""
    resume: bool = False
    """Go on with a run that was stopped."""
    quick: bool = False
    """Two networks, one initialisation."""
    cache: Path | None = None
    """Folder of unpacked packages; in_the_wild in the cache of lstm_jax unless named."""
    only: tuple[str, ...] = ()
    """Networks to look at, by their names in the table; all unless named."""
    steps: int = 1600
    """Length of a sample."""
    samples: int = 8
    """Sequences that each network is fed."""
    starts: int = 3
    """Initialisations beside each network."""
    seed: int = 0
    """Of inputs and initialisations."""


def looked_at(network: Network, config: Config, cache: Path) -> dict[str, Any]:
    """The numbers of a network's cells, trained and at each initialisation."""
    package = PACKAGES[network.package]
    path = file_of(fetched(package, cache), network.file)
    found = network_of(path, network.layers)
    rng = np.random.default_rng(config.seed)
    want = Wanted(path, named_arrays(path), config.steps, config.samples, rng)
    xs = jnp.asarray(INPUTS[network.package](want))
    keys = jax.random.split(jax.random.key(config.seed), config.starts)
    begun = [initial(found.params, package.framework, key) for key in keys]
    assumed = {
        sentence for one in found.found if one.name in found.chosen for sentence in one.assumed
    }
    answer = ""
    if network.package in ANSWERS:
        answer = ANSWERS[network.package](want, found.net, found.params, np.asarray(xs))
    return {
        "trained": measured(found.net, found.params, xs),
        "initial": [measured(found.net, params, xs) for params in begun],
        "shuffled": exponents(found.net, found.params, rng.permutation(np.asarray(xs))),
        "noise": exponents(found.net, found.params, noise_like(xs, rng)),
        "blind": exponents(found.net, found.params, _without_data(path, found, config)),
        "assumed": sorted(assumed),
        "answer": answer,
    }


def _without_data(path: Path, found: Any, config: Config) -> Array:
    """What `gradient_flow.inspect` takes where it is given no data: random rows of an embedding, or noise."""
    size = found.net.input_size
    embedding = embedding_of(path, None, size, found.chosen[0])
    drawn = noise(size, embedding, config.steps, config.samples, config.seed, np.float32)
    return drawn.xs


def settings(config: Config) -> dict[str, Any]:
    """What a kept network has to agree with."""
    names = ("steps", "samples", "starts", "seed")
    return {name: getattr(config, name) for name in names} | {"lags": list(GRID)}


def kept(folder: Path, network: Network, config: Config) -> dict[str, Any] | None:
    """What an earlier run found of a network, under the same settings."""
    path = folder / KEPT / f"{network.name}.json"
    if not path.exists():
        return None
    found = read_json(path)
    same = settings(config) | {"requirement": PACKAGES[network.package].requirement}
    return _numbers_of(found["looked"]) if found["settings"] == same else None


def _numbers_of(data: Any) -> Any:
    """Plain data in which a number that JSON does not have is a number again."""
    if isinstance(data, dict):
        return {name: _numbers_of(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_numbers_of(value) for value in data]
    return float(data) if data in ("inf", "-inf", "nan") else data


def run(config: Config) -> None:
    """Fetch, measure, print, keep and draw."""
    require_seed(config.seed)
    try:
        for name in ("samples", "starts"):
            require_positive_int(f"--{name}", getattr(config, name))
    except ValueError as error:
        raise Refusal(str(error)) from None
    if config.steps <= LAG:
        raise Refusal(f"Range mismatch: expected --steps of more than {LAG}, got {config.steps}.")
    if config.resume and (config.out / FINISHED).exists() and not config.overwrite:
        raise Refusal(f"Finished run: expected one to resume in {config.out}, got a finished one.")
    named = config.only or (QUICK if config.quick else tuple(one.name for one in NETWORKS))
    if unknown := set(named) - {one.name for one in NETWORKS}:
        known = ", ".join(one.name for one in NETWORKS)
        raise Refusal(f"Name mismatch: expected --only among {known}, got {sorted(unknown)[0]}.")
    claim_folder(config.out, "in_the_wild", overwrite=config.overwrite or config.resume)
    cache = config.cache or default_cache()
    chosen = [one for one in NETWORKS if one.name in named]
    found: dict[str, Any] = {}
    for number, network in enumerate(chosen, start=1):
        looked = kept(config.out, network, config) if config.resume else None
        if looked is None:
            print(f"[{number}/{len(chosen)}] {network.name}", flush=True)
            looked = looked_at(network, config, cache)
            same = settings(config) | {"requirement": PACKAGES[network.package].requirement}
            (config.out / KEPT).mkdir(exist_ok=True)
            path = config.out / KEPT / f"{network.name}.json"
            write_json(path, {"settings": same, "looked": looked})
        found[network.name] = looked
    tables = report(found)
    print(tables)
    numbers = {name: _without_curves(looked) for name, looked in found.items()}
    config_kept = {name: str(value) for name, value in vars(config).items()}
    keep(config.out, _curves(found), {"networks": numbers, "config": config_kept}, tables)
    draw(config.out, found)
    print(f"\nWritten to {config.out}: in_the_wild.png")


def _without_curves(looked: Mapping[str, Any]) -> dict[str, Any]:
    def plain(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in cell.items() if k not in ("hh", "cc")} for cell in cells]

    return {
        "trained": plain(looked["trained"]),
        "initial": [plain(cells) for cells in looked["initial"]],
        **{name: looked[name] for name in ("shuffled", "noise", "blind", "assumed")},
        "answer": looked["answer"],
    }


def _curves(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """``lags``, and natural logs by ``network/layer/direction/start/block``, [samples, lags]."""
    arrays = {"lags": np.asarray(GRID)}
    for name, looked in found.items():
        starts = {"trained": looked["trained"]}
        starts |= {f"initial {n}": cells for n, cells in enumerate(looked["initial"])}
        for start, cells in starts.items():
            for cell in cells:
                place = f"{name}/{cell['layer']}/{cell['direction']}/{start}"
                blocks = [block for block in ("hh", "cc") if cell[block] is not None]
                arrays |= {f"{place}/{block}": np.asarray(cell[block]) for block in blocks}
    return arrays


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.in_the_wild", arguments)
    return exit_code(lambda: run(config))
