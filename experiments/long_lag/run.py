"""Long-lag tasks: each trial of each study with several seeds, with its gradient horizon during training.

Every trial has a folder with its log, its checkpoints, its measurements of the gradient and, once it is
finished, ``results.json``. A resumed run continues within the trial in which it stopped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from experiments.lag_tasks import Model
from experiments.long_lag import temporal_order
from experiments.long_lag.plot import draw
from experiments.long_lag.problems import (
    ADDING,
    errors,
    examples,
    network_of,
    predict,
    problem,
    right,
)
from experiments.long_lag.report import MOST_WRONG, report
from experiments.long_lag.trials import SEEDS, STUDIES, Trial, quick
from experiments.running import Refusal, keep
from experiments.training import TrainingConfig, begin_run, claim_run, training_exit_code
from gradient_flow.measurements.training_watch import flow_watch, read_watch
from gradient_flow.results_folder import FINISHED, OutputError, read_json, write_json
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.tasks import adding_floor, copy_floor
from lstm_jax.training import DivergedError, Fitted, fit, load

Study = Literal["adding", "chrono", "copy", "order_1997", "order", "lags"]
TESTED = 2_560
TEST, VALIDATION = 2**32 - 1, 2**32 - 2
"""Seeds of sequences that no training sees."""
LOGGED = 100
"""Steps between two entries of the log."""
SHARES = (0.98, 0.9, 0.8)
"""Of the loss without a memory: when a network comes below each is reported."""
ORDER_LENGTHS = (50, 100, 150, 200, 300, 500, 1_000, 2_000, 5_000)
ORDER_TESTED = 10_000
MOST_SEEDS = 10_000
# The tasks need 22 steps at most; a run's log has an entry for every quarter of it.
CHANGED = {"length": 22, "hidden_size": 1, "batch_size": 1, "steps": 4}
"""What options change of every trial, and the least of each."""


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """Train recurrent networks on tasks with a long lag, and measure their gradients during training."""

    studies: tuple[Study, ...] = ("adding", "chrono", "copy", "order_1997", "order", "lags")
    """Which of the studies."""
    out: Path = Path("experiments/long_lag/results")
    """Folder for the runs, one in it for each trial and seed."""
    seeds: int | None = None
    """Seeds of each trial, from --seed on; the study's number if not given."""
    length: int | None = None
    """T of every trial, where not the study's own."""
    hidden_size: int | None = None
    """Units of every network, likewise."""
    batch_size: int | None = None
    """Sequences in a step, likewise."""
    steps: int | None = None
    """Gradient steps at most, likewise."""
    report: bool = False
    """Only make tables and figures from the trials in --out."""


def optimizer(trial: Trial) -> optax.GradientTransformation:
    """The trial's optimizer, with clipping and schedule."""
    rate: Any = trial.learning_rate
    if trial.half_life is not None:
        steps = trial.half_life / trial.batch_size
        rate = optax.exponential_decay(trial.learning_rate, steps, 0.5)
    made = {
        "adam": optax.adam,
        # With ε under the root, a gradient below √ε = 1e-4 an entry, as at a floor, takes no full step.
        "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.9, eps=1e-8, eps_in_sqrt=False),
        "sgd": optax.sgd,
    }[trial.optimizer](rate)
    return made if trial.clip is None else optax.chain(optax.clip_by_global_norm(trial.clip), made)


def train(trial: Trial, seed: int, config: TrainingConfig, folder: Path) -> Fitted:
    """One trial with one seed."""
    made = temporal_order.problem(trial) if trial.task == "order" else problem(trial)
    plain = network_of(trial).plain
    sample = examples(trial, jax.random.key(2**31), 1).xs[: trial.length, 0]

    def evaluate(params: Any) -> dict[str, int]:
        wrong, _ = _tested(trial, Model(*params), seed, trial.length, TESTED, VALIDATION)
        return {"valid_wrong": wrong}

    def until(entry: Any) -> bool:
        if trial.validated and entry.get("valid_wrong", TESTED) > MOST_WRONG:
            return False
        if trial.threshold is not None:
            return bool(entry["loss"] < trial.threshold)
        # Temporal order goes on: that it holds longer than it was trained for comes after.
        return trial.task != "order" and bool(entry["solved"] > 0)

    options = config.run_options()
    if trial.task == "order":
        options = replace(
            options,
            evaluate=partial(
                temporal_order.validation,
                trial,
                jax.random.fold_in(jax.random.key(VALIDATION), seed),
            ),
            evaluate_every=min(temporal_order.VALIDATED, trial.steps),
            best="valid_loss",
        )
    if trial.validated:
        # At the same steps as entries of the log.
        options = replace(options, evaluate=evaluate, evaluate_every=LOGGED)
    return fit(
        made,
        optimizer(trial),
        trial.steps,
        seed=seed,
        folder=folder,
        options=replace(
            options,
            settings={"trial": asdict(trial)},
            # What an entry of the log is the mean of decides where a trial ends.
            log_every=min(LOGGED, trial.steps // 4),
            unit=("sequences", trial.batch_size),
            until=until,
            watches=[
                flow_watch(
                    plain,
                    lambda model: (model.cell, sample),
                    every=config.watch_flow or trial.watch,
                )
            ],
        ),
    )


def measure(study: str, trial: Trial, seed: int, fitted: Fitted, folder: Path) -> dict[str, Any]:
    """What is reported of a trial: when it was solved, its test, and how far its gradient reached."""
    model = Model(*fitted.state.params)
    entries = fitted.log
    if trial.threshold is None:
        # The exact sequence, which lies before the entry of the log that ended the run.
        solved = int(fitted.state.carry.solved) or None
    else:
        below = [entry["step"] for entry in entries if entry["loss"] < trial.threshold]
        solved = below[0] * trial.batch_size if below else None
    found = described(study, trial, seed, folder) | {
        "sequences": solved,
        "steps": entries[-1]["step"],
        "valid_wrong": entries[-1].get("valid_wrong"),
        "last_loss": entries[-1]["loss"],
        "seconds": fitted.seconds,
        "watch_seconds": fitted.watch_seconds,
    }
    if found["floor"] is not None:
        found["below_floor"] = {
            str(share): next(
                (e["step"] for e in entries if e["loss"] < share * found["floor"]), None
            )
            for share in SHARES
        }
    if trial.task == "order":
        like = jax.eval_shape(temporal_order.problem(trial).init, jax.random.key(0))
        best = load(folder, "best", like=like)
        model, found["best_step"] = Model(*best.params), best.step
        counts = ORDER_LENGTHS if trial.length >= 200 else (trial.length,)
        found["test_wrong"] = {
            str(length): _tested(trial, model, seed, length, ORDER_TESTED)[0] for length in counts
        }
    else:
        wrong, squared = _tested(trial, model, seed, trial.length, TESTED)
        found["test_wrong"] = {str(trial.length): wrong}
        if trial.task in ADDING:
            found["test_squared_error"] = squared
    return found


def described(study: str, trial: Trial, seed: int, folder: Path) -> dict[str, Any]:
    """What is known of a trial however it ended: as one that did not learn, unless more is said."""
    reach = _reach(read_watch(folder / "flow"))
    return {
        "study": study,
        "trial": asdict(trial),
        "seed": seed,
        "label": network_of(trial).label,
        "sequences": None,
        "steps": 0,
        "last_loss": math.nan,
        "seconds": 0.0,
        "watch_seconds": 0.0,
        "reach_first": reach[0],
        "reach_last": reach[-1],
        "floor": {"chrono": adding_floor(), "copy": copy_floor(trial.length)}.get(trial.task),
        "test_wrong": {},
    }


def _reach(looks: Any) -> list[float]:
    """The horizon of each look in steps: of the block that reaches furthest; infinite beyond T."""
    blocks = [name for name in looks.arrays if ".horizon." in name]
    return np.max(
        [np.median(looks.arrays[b].reshape(len(looks.steps), -1), -1) for b in blocks], 0
    ).tolist()


def _tested(
    trial: Trial, model: Model, seed: int, length: int, count: int, drawn: int = TEST
) -> tuple[int, float]:
    """Wrong answers among fresh sequences of one length, drawn from a key, and the mean squared error."""
    # What the examples and the states of a long batch take is kept below a gigabyte.
    batch = math.gcd(count, 320 if length < 2_000 else 40 if length < 8_000 else 10)
    one = _tested_of(replace(trial, length=length), batch)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(drawn), seed), count // batch)
    wrong, squares = np.sum([jax.device_get(one(model, key)) for key in keys], axis=0)
    return int(wrong), float(squares / count)


@lru_cache
def _tested_of(
    trial: Trial, batch: int
) -> Callable[[Model, jax.Array], tuple[jax.Array, jax.Array]]:
    """Wrong answers of a model to a batch that is drawn from a key, and the sum of their squared errors."""

    @jax.jit
    def one(model: Model, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        given = examples(trial, key, batch)
        wrong = errors(trial, predict(trial, model, given), given)
        return jnp.sum(~right(trial, wrong)), jnp.sum(wrong**2)

    return one


def read_trial(folder: Path) -> dict[str, Any]:
    """What was measured of a trial, infinite horizons as numbers again.

    Raises:
        OutputError: a file that is damaged, or of something else.
    """
    found = read_json(folder / FINISHED)
    numbers = ("reach_first", "reach_last", "last_loss")
    try:
        return {**found, **{name: float(found[name]) for name in numbers}}
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"Unreadable trial: expected {', '.join(numbers)} in {folder / FINISHED}, got others ({error})."
        ) from None


def _done(folder: Path, trial: Trial, seed: int) -> bool:
    if not (folder / FINISHED).exists():
        return False
    found = read_trial(folder)
    return found["seed"] == seed and found["trial"] == asdict(trial)


def trials_of(study: str, changed: dict[str, int], *, quickly: bool) -> list[Trial]:
    """The trials of a study; lengths that have become the same are one."""
    trials = [quick(STUDIES[study][0])] if quickly else STUDIES[study]
    return list(dict.fromkeys(replace(trial, **changed) for trial in trials))  # type: ignore[arg-type]


def run(config: Config) -> None:
    """Train every trial that is not done, then print, draw and keep.

    Raises:
        Refusal, RunError, OutputError: what cannot be run, before anything is.
    """
    if not config.studies:
        raise Refusal(f"Name mismatch: expected --studies among {', '.join(STUDIES)}, got none.")
    if config.seeds is not None and not 1 <= config.seeds <= MOST_SEEDS:
        raise Refusal(
            f"Range mismatch: expected --seeds from 1 to {MOST_SEEDS:,}, got {config.seeds:,}."
        )
    changed = {name: getattr(config, name) for name in CHANGED if getattr(config, name) is not None}
    for name, value in changed.items():
        if value < (least := CHANGED[name]):
            option = name.replace("_", "-")
            raise Refusal(
                f"Range mismatch: expected --{option} of at least {least}, got {value:,}."
            )
    given = {"--data-parallel": config.data_parallel, "--process": config.coordinator is not None}
    for name in (name for name, value in given.items() if value):
        raise Refusal(f"Option mismatch: expected one device for each trial, got {name}.")
    out = claim_run(config.out, "long_lag", config) if not config.report else config.out
    jobs = [
        (study, trial, config.seed + n)
        for study in dict.fromkeys(config.studies)
        for trial in trials_of(study, changed, quickly=config.quick)
        for n in range(config.seeds or (1 if config.quick else SEEDS[study]))
    ]
    if not config.report:
        begin_run(out)
        for study, trial, seed in tqdm(jobs, desc="trials", unit="trial", disable=None):
            folder = out / study / f"{trial.name}-{seed}"
            if config.resume and _done(folder, trial, seed):
                continue
            (folder / FINISHED).unlink(missing_ok=True)
            try:
                one = measure(study, trial, seed, train(trial, seed, config, folder), folder)
            except DivergedError as error:
                # That a network diverges is a result.
                print(f"{study}/{folder.name}: {error}")
                one = described(study, trial, seed, folder) | {"diverged": str(error)}
            write_json(folder / FINISHED, one)
        folders = [out / study / f"{trial.name}-{seed}" for study, trial, seed in jobs]
    else:
        folders = sorted(path.parent for path in out.glob(f"*/*/{FINISHED}"))
    found = [read_trial(folder) for folder in folders]
    if not found:
        raise Refusal(f"No trials: expected some that are done in {out}, got none.")
    tables = report(found)
    print(tables)
    if not config.report:
        keep(out, {}, {"trials": found, "config": vars(config)}, tables)
    pictures = draw(out, found)
    print(f"\nWritten to {out}: {', '.join(path.name for path in pictures)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.long_lag", arguments)
    return training_exit_code(lambda: run(config))
