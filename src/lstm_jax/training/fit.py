r"""`fit`: a training run with its log, its checkpoints and its end.

    for n = start … steps:   state, metrics = step(state, data)

Numbers are fetched from the device only where the log is written. All that a run depends on is in its
`TrainState`, so a resumed run computes the same numbers as one without a break.

Axes: in a sweep over seeds, the seeds are the first axis of every leaf of the state and of the metrics.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax.array_types import shapes_of
from lstm_jax.training.batch_source import BatchSource
from lstm_jax.training.batch_sources import batch_source
from lstm_jax.training.checkpoints import Checkpoints
from lstm_jax.training.devices import in_context
from lstm_jax.training.hyperparameters import (
    checked_hyperparameters,
    labels_of,
    numbers_of_run,
    require_same_constants,
    start_of_sweep,
    update_constants,
)
from lstm_jax.training.interruption import signals
from lstm_jax.training.log import Entries, Log
from lstm_jax.training.log_entries import (
    found_with,
    selected,
    warn_if_incomplete,
)
from lstm_jax.training.options import (
    CHECKPOINTS,
    Computation,
    RunError,
    RunOptions,
    checked_folder,
    checked_mesh,
    checked_seeds,
    checked_settings,
)
from lstm_jax.training.placement import state_shardings
from lstm_jax.training.problem_checks import require_pure_batch
from lstm_jax.training.processes import Processes
from lstm_jax.training.progress import Progress, Selection
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.sample_axes import SamplesError, spread
from lstm_jax.training.several_steps import faster_one_by_one, several_steps, sweep_steps
from lstm_jax.training.step import (
    Problem,
    TrainState,
    init_state,
    parameter_names,
    require_problem,
    train_step,
)
from lstm_jax.training.step_programs import StepPrograms
from lstm_jax.training.train_loop import (
    RunParts,
    asked_by_until,
    evaluated,
    out_of_patience,
    train,
)
from lstm_jax.training.watch import Recorder
from lstm_jax.validation import AnyPath, require_type

ONE_STEP = (np.int32(0), np.int32(1))
"""Arguments of a call of several steps: the steps before it, and how many."""


class Sweep(NamedTuple):
    """The runs of a sweep: a seed for each, and numbers for each by name."""

    seeds: tuple[int, ...]
    numbers: dict[str, tuple[float, ...]]


class Fitted(NamedTuple):
    """A run that has ended.

    Attributes:
        state: the last one.
        log: its entries, those before a resumption included.
        seconds: of training, those before a resumption included, without compiling, evaluating, checkpoints
            and watches.
        compile_seconds: to compile the step.
        watch_seconds: in the watches of this process.
        stopped_early: whether something ended it before its last step.
        ended: what ended it: ``"steps"``, ``"until"`` or ``"patience"``.
        best: the step of the best checkpoint, where ``best`` of the options selects one.
        diverged: runs of a sweep that took no more steps, ``"seed 3"``, and their step that was not finite.
    """

    state: TrainState
    log: Entries
    seconds: float
    compile_seconds: float
    watch_seconds: float
    stopped_early: bool
    ended: str = "steps"
    best: int | None = None
    diverged: Mapping[str, int] = {}


def fit(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    seed: int | Sequence[int] | np.ndarray = 0,
    hyperparameters: Mapping[str, Sequence[float]] | None = None,
    data: Any = None,
    folder: AnyPath | None = None,
    options: RunOptions = RunOptions(),  # noqa: B008  frozen
    computation: Computation = Computation(),  # noqa: B008  a tuple
) -> Fitted:
    """Train, with a log, checkpoints and a progress bar.

    Args:
        problem: the `Problem` to train.
        optimizer: from optax.
        steps: gradient steps in all, those of an earlier part of the run included. A run that has ended can
            be resumed with more of them, one that ``until`` or ``patience`` ended with others or none.
        seed: of everything random. Several make a sweep, in one program: side by side, or large
            ones on a CPU one after the other. One that diverges stays as it was before, and the others go on.
        hyperparameters: a number for each run of a sweep, by name, as ``{"learning_rate": [0.1, 0.01]}``, in
            place of those that the optimizer was made with; it is made by `optax.inject_hyperparams`. With
            one seed, it is that of all runs.
        data: arrays for ``problem.batch``; they go to the device once. Or a stream: a grain dataset or
            loader, an iterable of batches, a function that gives one; ``problem.batch`` then gets the next
            batch. Of memory-mapped arrays ``problem.batch`` picks rows on the host, ``data[rows]``.
        folder: for the log, the checkpoints and the records of the watches; nothing is written if None.
        options: `RunOptions`: log, checkpoints, progress bar, evaluation, watches.
        computation: `Computation`: accumulation, the dtype of the loss, the devices.

    Returns:
        The last state and the log.

    Raises:
        TypeError: no `Problem` of functions of their arguments, no optimizer, options of another type.
        RunError: options that do not fit, a folder with another run in it or into which another run writes,
            or one to resume that has a log, and whose checkpoints are gone.
        CheckpointError, LogError: a file that cannot be written or read; nothing is overwritten.
        ProblemError: a loss that is no number, a carry that changes its structure, data of no arrays.
        DivergedError: a loss or gradient that is not finite, with the step, each parameter's gradient and
            the last checkpoint; in a sweep, where no run is left that is finite.
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
    require_problem(problem, optimizer)
    require_type("options", options, RunOptions)
    require_type("computation", computation, Computation)
    seeds = checked_seeds(steps, seed, options, computation, folder)
    alone = isinstance(seed, (int, np.integer))
    sweep = None
    if not alone or hyperparameters is not None:
        seeds, numbers = checked_hyperparameters(
            hyperparameters,
            seeds,
            alone,
            lambda: shapes_of(partial(init_state, problem, optimizer), np.uint32(0)).optimizer,
        )
        sweep = Sweep(seeds, numbers)
        checked_mesh(len(seeds), computation)
    settings = checked_settings(options)
    processes = Processes()
    with (
        processes.watched(),
        RunFolder(checked_folder(folder), options, processes) as run_folder,
        in_context(computation.mesh),
    ):
        return _fit(
            problem,
            optimizer,
            steps,
            seeds,
            sweep,
            data,
            settings,
            run_folder,
            options,
            computation,
            processes,
        )


def _fit(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    steps: int,
    seeds: tuple[int, ...],
    sweep: Sweep | None,
    data: Any,
    settings: dict[str, Any],
    run_folder: RunFolder,
    options: RunOptions,
    computation: Computation,
    processes: Processes,
) -> Fitted:
    """`fit`, with arguments that were checked and a folder that is its own."""
    # Everything that can fail with these arguments comes before the folder is touched.
    folder = run_folder.path
    state, source, programs = _made(problem, optimizer, seeds, sweep, data, computation)
    dtype = computation.compute_dtype
    labels = None if sweep is None else labels_of(*sweep)
    settings = {
        **settings,
        "seed": list(seeds),
        "accumulate": computation.accumulate,
        "compute_dtype": None if dtype is None else jnp.dtype(dtype).name,
        "data": source.described(),
        "hyperparameters": numbers_of_run(
            state.optimizer, None if sweep is None else sweep.numbers
        ),
    }
    constants = update_constants(optimizer, state.params) if folder is not None else []
    open_checkpoints = partial(
        Checkpoints,
        settings=settings,
        description=problem.description,
        last=options.keep,
        best=options.best,
        best_mode=options.best_mode,
    )
    checkpoints: Checkpoints | None = None
    progress, more, extent = Progress(), None, None
    recorder, log = Recorder(options.watches, steps), None
    try:
        with signals() as asked:
            if folder is not None and run_folder.holds_checkpoints():
                checkpoints = open_checkpoints(folder / CHECKPOINTS)
                found = checkpoints.restore(state)
                state, more = found.state, found.more
                where = checkpoints.folder / str(found.step)
                progress, extent = found_with(more, where)
                require_same_constants(where, list(map(float, more["optimizer"])), constants)
                _require_steps_left(progress.done, steps, where)
                source.begin(progress.done, more.get("data"))
            seen, first = {}, {}
            if not progress.done:
                seen = processes.each(partial(recorder.see, 0, state.params))
                if options.evaluate is not None:
                    first = evaluated(processes, options, state)
                    selected(first, options)
            upto = progress.done or None
            log = run_folder.open_log(upto, extent, labels or ())
            if folder is not None and checkpoints is None:
                checkpoints = open_checkpoints(folder / CHECKPOINTS)
            recorder.open(folder if jax.process_index() == 0 else None, upto)
            if folder is not None and more is not None and jax.process_index() == 0:
                warn_if_incomplete(more, log, recorder, folder)
            recorder.keep(0, seen)
            if first:
                log.write({"step": 0, **first, "seconds": 0.0})
            progress = _going_on(progress, options, log, processes)
            names = parameter_names(state.params)
            run = RunParts(
                programs,
                source,
                steps,
                labels,
                names,
                computation.on_nonfinite == "skip",
                constants,
                checkpoints,
                log,
                recorder,
                options,
                processes,
            )
            state, progress = train(run, state, progress, asked)
    finally:
        if log is not None:
            log.close()
        if checkpoints is not None:
            checkpoints.close()
        source.close()
    return Fitted(
        state,
        log.entries,
        progress.seconds,
        programs.seconds,
        recorder.seconds,
        progress.ended is not None,
        progress.ended or "steps",
        progress.selection.step,
        dict(progress.diverged),
    )


def _going_on(progress: Progress, options: RunOptions, log: Log, processes: Processes) -> Progress:
    """The progress of a run that begins or goes on: it stays ended only where what ended it still says so."""
    by = "" if options.best is None else f"{options.best_mode} {options.best}"
    if progress.selection.by != by:
        # Numbers of another measure say nothing of this one.
        progress = progress._replace(selection=Selection(by))
    ended = progress.ended
    if ended == "until":
        # Without an entry, which was lost, there is nothing to ask.
        stays = len(log.entries) > 0 and asked_by_until(processes, options, log.entries[-1])
    else:
        stays = ended == "patience" and out_of_patience(progress, options)
    return progress._replace(ended=ended if stays else None)


def _made(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    seeds: tuple[int, ...],
    sweep: Sweep | None,
    data: Any,
    computation: Computation,
) -> tuple[TrainState, BatchSource, StepPrograms]:
    """The first state on its devices, where the batches come from, and the compiled call of several steps."""
    start: Any = partial(init_state, problem, optimizer)
    mesh = computation.mesh
    arguments: tuple[Any, ...] = (np.uint32(seeds[0]),)
    if sweep is not None:
        start = jax.vmap(partial(start_of_sweep, problem, optimizer))
        numbers = {name: np.asarray(value) for name, value in sweep.numbers.items()}
        arguments = (np.asarray(seeds, np.uint32), numbers)
    source = None
    try:
        shardings = state_shardings(start, arguments, problem, optimizer, mesh, sweep is not None)
        state = jax.jit(start, out_shardings=shardings)(*arguments)
        source = batch_source(problem, data, state, mesh, sweep is not None)
        require_pure_batch(source.problem.batch, source.first)
        steps = _several_steps(
            source.problem, optimizer, computation, state.params if sweep is not None else None
        )
        # Every process logs the numbers of all processes.
        outputs = None if mesh is None else (shardings, spread(mesh, None))
        programs = StepPrograms(jax.jit(steps, donate_argnums=0, out_shardings=outputs))
        programs.compiled(state, source.first, *ONE_STEP)
        return state, source, programs
    except BaseException as error:
        if source is not None:
            source.close()
        if isinstance(error, SamplesError):
            raise RunError(str(error)) from None
        raise


def _several_steps(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    computation: Computation,
    swept: Any,
) -> Any:
    """The call of several steps, of one run or, with the parameters of all of them, of a sweep."""
    stops = computation.on_nonfinite == "stop"
    if swept is None:
        step = train_step(problem, optimizer, **computation._asdict())
        return several_steps(step, "stop" if stops else "skip")
    # A step that is undone must not reach the optimizer's state.
    alone = computation._replace(mesh=None, on_nonfinite="skip")
    step = train_step(problem, optimizer, **alone._asdict())
    # Spread over devices they are side by side.
    one_by_one = computation.mesh is None and faster_one_by_one(swept)
    return sweep_steps(step, "freeze" if stops else "skip", one_by_one=one_by_one)


def _require_steps_left(done: int, steps: int, where: Path) -> None:
    if done > steps:
        raise RunError(
            f"Length mismatch: expected steps of at least {done}, those of the checkpoint in {where}, got "
            f"{steps}."
        )
