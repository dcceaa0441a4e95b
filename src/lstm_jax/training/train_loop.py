"""The loop of a run: its steps, and what is due between them.

    while n < steps:   state, rows = call(state, data, n, count);   n = n + count

A call does the steps up to the next one after which something is due, or as many as take a tenth of a second,
so that a signal is heard and the bar moves. One call is on its way while the numbers of the one before it
are fetched and added up.
"""

import time
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.training.batch_source import BatchSource
from lstm_jax.training.checkpoints import Checkpoints
from lstm_jax.training.divergence import (
    DivergedError,
    DivergedWarning,
    Divergence,
    at_step,
    diverged,
    diverged_params,
)
from lstm_jax.training.interruption import InterruptedRun, any_process
from lstm_jax.training.log import Log
from lstm_jax.training.log_entries import (
    asked_to_end,
    entry_of,
    kept_with,
    learning_rate_of,
    numbers_of,
    rows_of,
    selected,
    shown,
)
from lstm_jax.training.options import RunOptions
from lstm_jax.training.problem_checks import ProblemError
from lstm_jax.training.processes import Processes
from lstm_jax.training.progress import Progress
from lstm_jax.training.progress_bar import ProgressBar
from lstm_jax.training.several_steps import MOST_STEPS, Rows
from lstm_jax.training.step import Metrics, TrainState
from lstm_jax.training.step_programs import StepPrograms
from lstm_jax.training.watch import Recorder

CALL_SECONDS = 0.1
"""How long the steps of one call take at most, if they are more than one."""


class RunParts(NamedTuple):
    """The constants of a run.

    Attributes:
        programs: the compiled `SeveralSteps`, for each shape of the data.
        source: of the data.
        steps: in all.
        labels: of the runs of a sweep, ``"seed 3"``, else None.
        names: of the parameters.
        skips: whether updates that are not finite are left out.
        constants: of the optimizer's update.
        checkpoints: none without a folder.
        log: in memory without a folder.
        recorder: of the watches.
        options: of the run.
        processes: of the run.
    """

    programs: StepPrograms
    source: BatchSource
    steps: int
    labels: list[str] | None
    names: list[str]
    skips: bool
    constants: list[float]
    checkpoints: Checkpoints | None
    log: Log
    recorder: Recorder
    options: RunOptions
    processes: Processes

    def last_checkpoint(self) -> str:
        """The path of the last whole checkpoint, for messages."""
        return self.checkpoints.named_last() if self.checkpoints else "none, without a folder"


class _Call(NamedTuple):
    """A call on its way: the steps before it, its own, and their metrics."""

    begin: int
    steps: int
    rows: Rows


def train(
    run: RunParts, state: TrainState, progress: Progress, asked: list[str]
) -> tuple[TrainState, Progress]:
    """Run the remaining steps, until signals ask to stop: at least one step, if one is left."""
    issued, most = progress.done, 1
    waiting: list[_Call] = []
    before: Metrics | None = None
    with ProgressBar(run.steps, issued, run.options.progress) as bar:
        mark = time.perf_counter()
        while issued < run.steps and progress.ended is None:
            # Several processes have to ask each other, which they can only do after the same step.
            alone = jax.process_count() == 1
            count = 1 if asked and alone else min(most, _next_due(issued, run) - issued)
            compiling = run.programs.seconds
            steps = np.int32(issued), np.int32(count)
            state, rows = run.programs(state, run.source.take(), *steps)
            mark += run.programs.seconds - compiling
            waiting.append(_Call(issued, count, rows))
            issued += count
            due = _due(issued, run)
            stop = any_process(asked) if due or (asked and alone) else False
            if not due and not stop and len(waiting) < 2:
                continue
            while waiting:
                call = waiting.pop(0)
                progress, before = _counted(run, progress, before, call)
                now = time.perf_counter()
                progress = progress._replace(seconds=progress.seconds + now - mark)
                if run.source.resident and (alone or due):
                    fits = partial(_fitting, call.steps, now - mark)
                    most = run.processes.decided(fits)
                mark = now
                if not due and not stop:
                    break
            bar.advance(progress.done)
            if not due and not stop:
                continue
            progress = _between(run, state, progress, due, stop, bar)
            if stop:
                raise _interrupted(run, asked, progress.done)
            mark = time.perf_counter()
    # There may have been no step to do, and a signal may have come after the last one.
    if any_process(asked):
        raise _interrupted(run, asked, progress.done)
    if run.checkpoints is not None:
        run.checkpoints.wait()
    return state, progress


def _fitting(steps: int, seconds: float) -> int:
    """How many steps a call may have, of which some took so long."""
    return min(max(int(CALL_SECONDS * steps / max(seconds, 1e-9)), 1), MOST_STEPS)


def _counted(
    run: RunParts, progress: Progress, before: Metrics | None, call: _Call
) -> tuple[Progress, Metrics]:
    """The progress with the numbers of a call, which are waited for, and those of its last step.

    Raises:
        DivergedError: a step that is not finite; of a sweep, where no run is left that is.
    """
    fetched: Rows = jax.tree.map(np.asarray, jax.device_get(call.rows))
    sweep = run.labels is not None
    if sweep:
        steps = jax.tree.map(lambda leaf: np.moveaxis(leaf[:, : call.steps], 0, 1), fetched.metrics)
    else:
        steps = jax.tree.map(lambda leaf: leaf[: call.steps], fetched.metrics)
    last: Metrics = at_step(steps, -1)
    if not run.skips:
        if run.labels is not None:
            told = _told(run, run.labels, progress, steps, before, call.begin)
            progress = progress._replace(diverged={**progress.diverged, **told})
        else:
            found = diverged(steps, before, call.begin, run.names)
            done = call.begin + call.steps
            _require_none(run, found or diverged_params(fetched.params, last, done, run.names))
    progress = progress.with_rows(rows_of(steps), steps.finite)
    return progress._replace(done=call.begin + call.steps), last


def _told(
    run: RunParts,
    labels: list[str],
    progress: Progress,
    steps: Metrics,
    before: Metrics | None,
    begin: int,
) -> dict[str, int]:
    """The runs of a sweep that diverged in these steps, each told once, and their steps."""
    told = {}
    for n, label in enumerate(labels):
        if label in progress.diverged:
            continue
        rows = jax.tree.map(lambda leaf, n=n: leaf[:, n], steps)
        earlier = None if before is None else at_step(before, n)
        found = diverged(rows, earlier, begin, run.names, f" of {label}")
        if found is None:
            continue
        told[label] = found.step
        if len(progress.diverged) + len(told) == len(labels):
            _require_none(run, found)
        warnings.warn(f"{found.told}. The others go on.", DivergedWarning, stacklevel=6)
    return told


def _require_none(run: RunParts, found: Divergence | None) -> None:
    """Refuse to go on after a divergence."""
    if found is None:
        return
    run.log.write({"step": found.step, "diverged": True, "error": found.told})
    if run.checkpoints is not None:
        run.checkpoints.wait()
    raise DivergedError(f"{found.told}; last good checkpoint: {run.last_checkpoint()}.")


def _between(
    run: RunParts,
    state: TrainState,
    progress: Progress,
    due: set[str],
    stop: bool,
    bar: ProgressBar,
) -> Progress:
    """Log, evaluate, end, watch and write a checkpoint, as is due."""
    options, done = run.options, progress.done
    expected = run.processes.decided(run.source.shapes)
    run.processes.each(lambda: require_same_shapes(expected, run.source.shapes()))
    number: dict[str, float] | None = None
    if "log" in due:
        measured: dict[str, Any] = {}
        if "evaluate" in due and options.evaluate is not None:
            measured = evaluated(run.processes, options, state)
            number = selected(measured, options, going(run.labels, progress))
        entry = run.processes.decided(lambda: _logged(run, state, progress, measured))
        if not run.processes.first:
            run.log.write(entry)
        progress = progress.logged()
        bar.show(done, shown(entry, options.unit, list(measured)))
        if asked_by_until(run.processes, options, entry):
            progress = progress._replace(ended="until")
        if options.callback is not None:
            run.processes.each(partial(options.callback, done, entry, state))
    if number is not None and options.best is not None:
        maximise = options.best_mode == "max"
        selection = progress.selection.after(done, number[options.best], maximise)
        progress = progress._replace(selection=selection)
        if progress.ended is None and out_of_patience(progress, options):
            progress = progress._replace(ended="patience")

    def keep() -> None:
        early = progress.ended is not None
        run.recorder.keep(done, run.recorder.see(done, state.params, last=early))
        if run.checkpoints is not None and ("checkpoint" in due or stop or early):
            more = kept_with(progress, run.log, run.recorder, run.constants)
            more |= {"data": run.source.position()}
            run.checkpoints.save(done, state, measured=number, more=more)

    run.processes.each(keep)
    return progress


def require_same_shapes(expected: int, found: int) -> None:
    """Refuse to go on where the processes have put together batches of different shapes."""
    if found != expected:
        raise ProblemError(
            "Batch mismatch: expected batches of one shape, and of as many samples in each process, got "
            f"others in process {jax.process_index()} than in the first. Leave out what does not fill one."
        )


def _logged(
    run: RunParts, state: TrainState, progress: Progress, measured: dict[str, Any]
) -> dict[str, Any]:
    """An entry, written into the log."""
    entry = entry_of(progress, run.options, run.log, len(run.labels or (0,)), run.skips)
    entry = {"step": progress.done, **learning_rate_of(state.optimizer), **entry, **measured}
    run.log.write(entry)
    return entry


def evaluated(processes: Processes, options: RunOptions, state: TrainState) -> dict[str, Any]:
    """What ``evaluate`` measures: each process takes part in it, and the first one's numbers count."""
    evaluate = options.evaluate
    if evaluate is None:
        return {}
    measured = processes.each(lambda: numbers_of(evaluate(state.params)))
    return processes.decided(lambda: measured)


def asked_by_until(processes: Processes, options: RunOptions, entry: Mapping[str, Any]) -> bool:
    """Whether ``until`` ends the run, which the first process decides."""
    until = options.until
    if until is None:
        return False
    return processes.decided(lambda: asked_to_end(until(entry)))


def out_of_patience(progress: Progress, options: RunOptions) -> bool:
    """Whether as many evaluations as ``patience`` says were no better than one before them."""
    return options.patience is not None and progress.selection.waited >= options.patience


def going(labels: list[str] | None, progress: Progress) -> np.ndarray | None:
    """Which runs of a sweep have not diverged."""
    if labels is None:
        return None
    return np.array([label not in progress.diverged for label in labels])


def _interrupted(run: RunParts, asked: list[str], done: int) -> InterruptedRun:
    if run.checkpoints is not None:
        run.checkpoints.wait()
    return InterruptedRun(
        f"Interrupted: stopped by {asked[0]} after step {done} of {run.steps}. Resume it "
        f"from {run.last_checkpoint()} with resume=True."
    )


def _periods(run: RunParts) -> dict[str, int | None]:
    options = run.options
    evaluated = options.evaluate is not None
    return {
        "log": options.log_every,
        "checkpoint": options.checkpoint_every,
        "evaluate": options.evaluate_every if evaluated else None,
        **{f"watch {watch.name}": watch.every for watch in options.watches},
    }


def _next_due(done: int, run: RunParts) -> int:
    """The next step after which something is due."""
    periods = filter(None, _periods(run).values())
    return min(run.steps, *((done // every + 1) * every for every in periods))


def _due(done: int, run: RunParts) -> set[str]:
    """The actions that are due after a step."""
    last = done == run.steps
    due = {what for what, every in _periods(run).items() if every and done % every == 0}
    if last:
        due |= {"log", "checkpoint", "watch"}
        due |= {"evaluate"} if run.options.evaluate is not None else set()
    # The best checkpoint is one of those with an evaluation.
    return due | {"log", "checkpoint"} if "evaluate" in due else due
