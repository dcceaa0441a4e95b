r"""A training run: the compiled step over and over, its log, its checkpoints, and how it ends.

    for n = start … steps:   state, metrics = step(state, data)

Nothing is fetched from the device but at the points where the log is written. Everything a run depends on
is in its `TrainState`, so a run that was killed goes on to the numbers it would have had.

Axes: of a sweep over seeds, every leaf of the state and of the metrics has the seeds in front.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from lstm_jax.array_types import PyTree
from lstm_jax.training.checkpoints import Checkpoints
from lstm_jax.training.devices import placed, replicated
from lstm_jax.training.interruption import any_process, signals
from lstm_jax.training.log import Log
from lstm_jax.training.options import (
    CHECKPOINTS,
    RunError,
    RunOptions,
    checked_seeds,
    require_free,
)
from lstm_jax.training.step import (
    Metrics,
    Problem,
    TrainState,
    by_axis,
    init_state,
    parameter_names,
    spread,
    train_step,
)
from lstm_jax.training.watch import Recorder, Watch
from lstm_jax.validation import NonFiniteError


class DivergedError(NonFiniteError):
    """A loss or a gradient that is not finite; the run is stopped."""


class InterruptedRun(RuntimeError):
    """A run that was asked to stop, and that can go on from where it is."""


class Fitted(NamedTuple):
    """A run that has ended.

    Attributes:
        state: the last one.
        log: its entries, those before a resumption included.
        seconds: of training, those before a resumption included; compiling, evaluating, checkpoints and
            watching apart.
        compile_seconds: to compile the step.
        watch_seconds: spent in watches, by this process.
        stopped_early: whether ``until`` ended it.
    """

    state: TrainState
    log: list[dict[str, Any]]
    seconds: float
    compile_seconds: float
    watch_seconds: float
    stopped_early: bool


def fit(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    seed: int | Sequence[int] = 0,
    data: PyTree = None,
    folder: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    options: RunOptions | None = None,
    accumulate: int = 1,
    compute_dtype: Any = None,
    mesh: Mesh | None = None,
    unit: tuple[str, int] = ("steps", 1),
    evaluate: Callable[[PyTree], Mapping[str, Any]] | None = None,
    best: str | None = None,
    until: Callable[[Mapping[str, Any]], bool] | None = None,
    watches: Sequence[Watch] = (),
) -> Fitted:
    """Train, with a log, checkpoints and a progress bar.

    Args:
        problem: what is trained.
        optimizer: from optax.
        steps: gradient steps in all, those of an earlier part of the run included.
        seed: of everything random. Several make a sweep: one program for all of them, by `jax.vmap`.
        data: what ``problem.batch`` takes its batches from; arrays, which go to the device once.
        folder: for the log, the checkpoints and what the watches record; nothing is written if None.
        settings: what makes the run what it is, as JSON; a checkpoint made with others is refused.
        options: how it is kept and shown.
        accumulate: parts of a batch, as for `train_step`.
        compute_dtype: that of the loss, as for `train_step`.
        mesh: from `data_mesh`: the samples are spread over it; of a sweep, the seeds.
        unit: what is counted for the speed, and how many of it a step takes: ``("tokens", 1120)``.
        evaluate: ``evaluate(params) -> {name: number}``, logged.
        best: which of those numbers is to be lowest in the checkpoint that is kept as the best.
        until: ``until(entry)`` on each entry of the log; true ends the run.
        watches: what looks at the parameters every so often.

    Returns:
        The last state and the log.

    Raises:
        RunError: options that do not fit, or a folder with another run in it.
        CheckpointError, LogError: what cannot be written or read; nothing is overwritten by it.
        DivergedError: a loss or gradient that is not finite, with the step, each parameter's gradient and
            the last checkpoint.
        InterruptedRun: after an interrupt or a termination signal, once a checkpoint is written.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from lstm_jax.training import Problem, fit
        >>> problem = Problem(
        ...     init=lambda key: jnp.zeros(2),
        ...     loss=lambda params, carry, batch, key: (((params - batch) ** 2).sum(), (carry, {})),
        ...     batch=lambda data, step, key: data,
        ... )
        >>> run = fit(problem, optax.sgd(0.25), 20, data=jnp.array([2.0, 4.0]))
        >>> print(run.state.params.round(3), run.log[-1]["step"])
        [2. 4.] 20
    """
    options = options or RunOptions()
    seeds = checked_seeds(steps, seed, options, mesh, unit, watches, folder)
    require_free(folder, options)
    sweep = not isinstance(seed, int)
    start = partial(init_state, problem, optimizer)
    step = train_step(
        problem,
        optimizer,
        accumulate=accumulate,
        compute_dtype=compute_dtype,
        mesh=None if sweep else mesh,
    )
    if sweep:
        start, step = jax.vmap(start), jax.vmap(step, in_axes=(0, None))
    argument = np.asarray(seeds, np.uint32) if sweep else np.uint32(seeds[0])
    shardings = _shardings(jax.eval_shape(start, argument), problem, mesh, sweep)
    state = jax.jit(start, out_shardings=shardings)(argument)
    if mesh is not None:
        data = placed(data, jax.tree.map(lambda _: replicated(mesh), data))
    else:
        data = jax.tree.map(jnp.asarray, data)
    names = parameter_names(jax.eval_shape(problem.init, jax.random.key(0)))

    settings = {**(settings or {}), "seed": list(seeds), "accumulate": accumulate}
    settings["compute_dtype"] = None if compute_dtype is None else jnp.dtype(compute_dtype).name
    checkpoints = None
    if folder is not None:
        checkpoints = Checkpoints(folder / CHECKPOINTS, settings, last=options.keep, best=best)
    try:
        return _run(
            step, state, data, steps, seeds if sweep else None, names, folder, checkpoints, options,
            unit, evaluate, best, until, watches,
        )  # fmt: skip
    finally:
        if checkpoints is not None:
            checkpoints.close()


def _run(
    step: Any,
    state: TrainState,
    data: PyTree,
    steps: int,
    seeds: tuple[int, ...] | None,
    names: list[str],
    folder: Path | None,
    checkpoints: Checkpoints | None,
    options: RunOptions,
    unit: tuple[str, int],
    evaluate: Callable[[PyTree], Mapping[str, Any]] | None,
    best: str | None,
    until: Callable[[Mapping[str, Any]], bool] | None,
    watches: Sequence[Watch],
) -> Fitted:
    done, pending, seconds = 0, [], 0.0
    first = jax.process_index() == 0
    if options.resume and checkpoints is not None and checkpoints.steps():
        found = checkpoints.restore(state)
        state, done = found.state, found.step
        pending, seconds = found.more["pending"], found.more["seconds"]
        if done > steps:
            raise RunError(
                f"Length mismatch: expected steps of at least {done}, those of the checkpoint in "
                f"{checkpoints.folder / str(done)}, got {steps}."
            )
    else:
        found = None
    log = Log(
        folder if first else None, upto=done if found else None, tensorboard=options.tensorboard
    )
    recorder = Recorder(folder if first else None, watches, done, steps)
    begun = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, data).compile()
    compile_seconds = time.perf_counter() - begun

    bar = tqdm(
        total=steps,
        initial=done,
        unit="step",
        # None: no bar where the output is no terminal.
        disable=None if options.progress and first else True,
        dynamic_ncols=True,
        leave=False,
    )
    early = found is not None and found.more["stopped_early"]
    queue: list[Metrics] = []
    before: Metrics | None = None
    try:
        with signals() as asked, bar:
            if not done:
                recorder.look(0, state.params)
                if evaluate is not None:
                    # What fails in it is to fail before the first step.
                    _averaged(evaluate(state.params), best)
            mark = time.perf_counter()
            while done < steps and not early:
                state, metrics = compiled(state, data)
                queue.append(metrics)
                done += 1
                bar.update()
                if len(queue) > 2:
                    # Two steps ahead of the device at most: the bar and a signal mean what they say.
                    jax.block_until_ready(queue[-3].loss)
                points = _points(done, steps, options, evaluate is not None, watches)
                # Several processes have to ask each other, and do so where all of them are.
                alone = jax.process_count() == 1
                stop = any_process(asked) if points or (asked and alone) else False
                if not points and not stop:
                    continue
                rows = _fetched(queue)
                seconds += time.perf_counter() - mark
                _require_finite(rows, before, done, names, seeds, checkpoints, log)
                before = rows[-1]
                pending += [_row(row) for row in rows]
                queue.clear()
                measured: dict[str, Any] = {}
                if "log" in points:
                    entry = _entry(done, pending, unit, seconds, log, len(seeds or (0,)))
                    if "evaluate" in points and evaluate is not None:
                        measured = {
                            n: np.asarray(v).tolist() for n, v in evaluate(state.params).items()
                        }
                        entry |= measured
                    pending = []
                    log.write(entry)
                    bar.set_postfix_str(_shown(entry, unit))
                    early = until is not None and until(entry)
                recorder.look(done, state.params, last=early)
                if checkpoints is not None and ("checkpoint" in points or stop or early):
                    more = {"pending": pending, "seconds": seconds, "stopped_early": early}
                    checkpoints.save(done, state, measured=_averaged(measured, best), more=more)
                if stop and done < steps and not early:
                    where = (
                        checkpoints.named_last() if checkpoints else "nowhere, for want of a folder"
                    )
                    raise InterruptedRun(
                        f"Interrupted: stopped by {asked[0]} after step {done} of {steps}; the run goes on "
                        f"from {where} with resume."
                    )
                mark = time.perf_counter()
    finally:
        log.close()
    return Fitted(state, log.entries, seconds, compile_seconds, recorder.seconds, early)


def _shardings(like: PyTree, problem: Problem, mesh: Mesh | None, sweep: bool) -> Any:
    """Where each leaf of the state lies: replicated but for what is carried; of a sweep, by seeds."""
    if mesh is None:
        return None
    if sweep:
        return jax.tree.map(lambda _: spread(mesh, 0), like)
    everywhere = jax.tree.map(lambda _: replicated(mesh), like)
    return everywhere._replace(
        carry=by_axis(lambda axis, _: spread(mesh, axis), problem.carry_axes, like.carry)
    )


def _points(
    done: int, steps: int, options: RunOptions, evaluates: bool, watches: Sequence[Watch]
) -> set[str]:
    """What is due after a step."""
    last = done == steps
    due = set()
    if last or done % options.log_every == 0:
        due.add("log")
    if last or (options.checkpoint_every and done % options.checkpoint_every == 0):
        due.add("checkpoint")
    if evaluates and (last or (options.evaluate_every and done % options.evaluate_every == 0)):
        # The best checkpoint is among those with an evaluation.
        due |= {"evaluate", "log", "checkpoint"}
    if any(done % watch.every == 0 for watch in watches):
        due.add("watch")
    return due


def _fetched(queue: list[Metrics]) -> list[Metrics]:
    return jax.tree.map(np.asarray, jax.device_get(queue))


def _row(metrics: Metrics) -> dict[str, Any]:
    """One step for the log: plain numbers, of a sweep lists of them."""
    row = {"loss": metrics.loss, "gradient_norm": metrics.gradient_norm, **metrics.more}
    return {name: np.asarray(value).tolist() for name, value in row.items()}


def _entry(
    done: int,
    rows: list[dict[str, Any]],
    unit: tuple[str, int],
    seconds: float,
    log: Log,
    count: int,
) -> dict[str, Any]:
    means = {
        name: np.mean([row[name] for row in rows], axis=0, dtype=np.float64).tolist()
        for name in rows[0]
    }
    before = log.entries[-1] if log.entries else {"step": 0, "seconds": 0.0}
    passed = max(seconds - before["seconds"], 1e-9)
    rate = (done - before["step"]) * unit[1] * count / passed
    return {
        "step": done,
        **means,
        f"{unit[0]}_per_second": round(rate, 1),
        "seconds": round(seconds, 3),
    }


def _averaged(measured: Mapping[str, Any], best: str | None) -> dict[str, float] | None:
    if best is None or not measured:
        return None
    if best not in measured:
        raise RunError(f"Name mismatch: expected best among {sorted(measured)}, got {best!r}.")
    return {best: float(np.mean(measured[best]))}


def _shown(entry: Mapping[str, Any], unit: tuple[str, int]) -> str:
    rate = tqdm.format_sizeof(entry[f"{unit[0]}_per_second"])
    return f"loss {np.mean(entry['loss']):.4f}, {rate} {unit[0]}/s"


def _require_finite(
    rows: list[Metrics],
    before: Metrics | None,
    done: int,
    names: list[str],
    seeds: tuple[int, ...] | None,
    checkpoints: Checkpoints | None,
    log: Log,
) -> None:
    for n, row in enumerate(rows):
        bad = ~(np.isfinite(row.loss) & np.isfinite(row.gradient_norm))
        if not bad.any():
            continue
        at = done - len(rows) + n + 1
        # Of a sweep, the first seed that went wrong.
        which: Any = () if seeds is None else int(np.argmax(bad))
        norms = _named(names, row.gradient_norms[which])
        last_row = rows[n - 1] if n else before
        earlier = (
            ""
            if last_row is None
            else f" (before it: {_named(names, last_row.gradient_norms[which])})"
        )
        whose = f" of seed {seeds[which]}" if seeds is not None else ""
        last = checkpoints.named_last() if checkpoints else "none"
        log.write({"step": at, "diverged": True, "gradient_norms": norms})
        raise DivergedError(
            f"Diverged: expected a finite loss and gradient{whose}, got a loss of {row.loss[which]:g} at "
            f"step {at}; norms of the gradient: {norms}{earlier}; last good checkpoint: {last}."
        )


def _named(names: list[str], norms: np.ndarray) -> str:
    return ", ".join(f"{name} {norm:.3g}" for name, norm in zip(names, norms, strict=True))
