"""The loop of a run: its steps, and what is due between them.

    for n = start … steps:   state, metrics = step(state, data)

Numbers are fetched from the device only where the log is written.
"""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from lstm_jax.training.batch_sources import BatchSource
from lstm_jax.training.checkpoints import Checkpoints
from lstm_jax.training.interruption import InterruptedRun, any_process
from lstm_jax.training.log import Log
from lstm_jax.training.log_entries import (
    DivergedError,
    Progress,
    asked_to_end,
    entry_of,
    kept_with,
    lowest,
    numbers_of,
    require_finite_params,
    require_finite_rows,
    row_of,
    shown,
)
from lstm_jax.training.options import RunOptions
from lstm_jax.training.step import Metrics, TrainState
from lstm_jax.training.step_programs import StepPrograms
from lstm_jax.training.watch import Recorder

LONGEST_QUEUE = 20
"""Steps whose numbers stay on the device: a loss that is not finite is seen within so many."""


class RunParts(NamedTuple):
    """The constants of a run; ``seeds`` are those of a sweep, else None."""

    programs: StepPrograms
    source: BatchSource
    steps: int
    seeds: tuple[int, ...] | None
    names: list[str]
    checkpoints: Checkpoints | None
    log: Log
    recorder: Recorder
    options: RunOptions

    def last_checkpoint(self) -> str:
        """The path of the last whole checkpoint, for messages."""
        return self.checkpoints.named_last() if self.checkpoints else "none, without a folder"


def train(
    run: RunParts, state: TrainState, progress: Progress, asked: list[str]
) -> tuple[TrainState, Progress]:
    """Run the remaining steps, until signals ask to stop: at least one step, if one is left."""
    done, _, seconds, early = progress
    pending = list(progress.pending)
    queue: list[Metrics] = []
    before: Metrics | None = None
    bar = tqdm(
        total=run.steps,
        initial=done,
        unit="step",
        # None: no bar unless the output is a terminal.
        disable=None if run.options.progress and not jax.process_index() else True,
        dynamic_ncols=True,
        leave=False,
    )
    with bar:
        mark = time.perf_counter()
        while done < run.steps and not early:
            compiling = run.programs.seconds
            state, metrics = run.programs(state, run.source.take())
            mark += run.programs.seconds - compiling
            queue.append(metrics)
            done += 1
            bar.update()
            if len(queue) > 2:
                # At most two steps ahead of the device, so that the bar and a signal are up to date.
                jax.block_until_ready(queue[-3].loss)
            due = _due(done, run)
            # Several processes have to ask each other, which they can only do after the same step.
            alone = jax.process_count() == 1
            stop = any_process(asked) if due or (asked and alone) else False
            if not due and not stop and len(queue) < LONGEST_QUEUE:
                continue
            rows: list[Metrics] = jax.tree.map(np.asarray, jax.device_get(queue))
            queue.clear()
            seconds += time.perf_counter() - mark
            try:
                require_finite_rows(rows, before, done, run.names, run.seeds)
                require_finite_params(state.params, rows[-1], done, run.names, run.seeds)
            except DivergedError as error:
                run.log.write({"step": done, "diverged": True, "error": str(error)})
                raise DivergedError(
                    f"{error}; last good checkpoint: {run.last_checkpoint()}."
                ) from None
            before = rows[-1]
            pending.extend(map(row_of, rows))
            mark = time.perf_counter()
            if not due and not stop:
                continue
            measured: dict[str, Any] = {}
            if "log" in due:
                entry = entry_of(
                    done, pending, run.options.unit, seconds, run.log, len(run.seeds or (0,))
                )
                if "evaluate" in due and run.options.evaluate is not None:
                    measured = numbers_of(run.options.evaluate(state.params))
                    entry |= measured
                pending = []
                run.log.write(entry)
                bar.set_postfix_str(shown(entry, run.options.unit))
                early = run.options.until is not None and asked_to_end(run.options.until(entry))
            run.recorder.keep(done, run.recorder.see(done, state.params, last=early))
            progress = Progress(done, pending, seconds, early)
            if run.checkpoints is not None and ("checkpoint" in due or stop or early):
                run.checkpoints.save(
                    done,
                    state,
                    measured=lowest(measured, run.options.best),
                    more=kept_with(progress, run.log, run.recorder)
                    | {"data": run.source.position()},
                )
            if stop:
                raise _interrupted(run, asked, done)
            mark = time.perf_counter()
    # There may have been no step to do, and a signal may have come after the last one.
    if any_process(asked):
        raise _interrupted(run, asked, done)
    return state, Progress(done, pending, seconds, early)


def _interrupted(run: RunParts, asked: list[str], done: int) -> InterruptedRun:
    return InterruptedRun(
        f"Interrupted: stopped by {asked[0]} after step {done} of {run.steps}. Resume it "
        f"from {run.last_checkpoint()} with resume=True."
    )


def _due(done: int, run: RunParts) -> set[str]:
    """The actions that are due after a step."""
    options, last = run.options, done == run.steps
    due = set()
    if last or done % options.log_every == 0:
        due.add("log")
    if last or (options.checkpoint_every and done % options.checkpoint_every == 0):
        due.add("checkpoint")
    every = options.evaluate_every
    if run.options.evaluate is not None and (last or (every and done % every == 0)):
        # The best checkpoint is one of those with an evaluation.
        due |= {"evaluate", "log", "checkpoint"}
    if run.recorder.due(done):
        due.add("watch")
    return due
