r"""`fit`: a training run with its log, its checkpoints and its end.

    for n = start … steps:   state, metrics = step(state, data)

Numbers are fetched from the device only where the log is written. All that a run depends on is in its
`TrainState`, so a resumed run computes the same numbers as one without a break.

Axes: in a sweep over seeds, the seeds are the first axis of every leaf of the state and of the metrics.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.training.batch_source import BatchSource
from lstm_jax.training.batch_sources import batch_source
from lstm_jax.training.checkpoints import Checkpoints
from lstm_jax.training.interruption import signals
from lstm_jax.training.log_entries import (
    Progress,
    asked_to_end,
    lowest,
    numbers_of,
    progress_of,
    warn_if_incomplete,
)
from lstm_jax.training.options import (
    CHECKPOINTS,
    Computation,
    RunError,
    RunOptions,
    checked_folder,
    checked_seeds,
    checked_settings,
)
from lstm_jax.training.problem_checks import require_axes, require_pure_batch
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.step import (
    Problem,
    SamplesError,
    TrainState,
    by_axis,
    init_state,
    parameter_names,
    require_problem,
    spread,
    train_step,
)
from lstm_jax.training.step_programs import StepPrograms
from lstm_jax.training.train_loop import RunParts, train
from lstm_jax.training.watch import Recorder
from lstm_jax.validation import AnyPath, require_type


class Fitted(NamedTuple):
    """A run that has ended.

    Attributes:
        state: the last one.
        log: its entries, those before a resumption included.
        seconds: of training, those before a resumption included, without compiling, evaluating, checkpoints
            and watches.
        compile_seconds: to compile the step.
        watch_seconds: in the watches of this process.
        stopped_early: whether ``until`` ended it.
        best: the step of the best checkpoint, where ``best`` of the options selects one.
    """

    state: TrainState
    log: list[dict[str, Any]]
    seconds: float
    compile_seconds: float
    watch_seconds: float
    stopped_early: bool
    best: int | None = None


def fit(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    steps: int,
    *,
    seed: int | Sequence[int] | np.ndarray = 0,
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
            be resumed with more of them, one that ``until`` ended with another ``until`` or none.
        seed: of everything random. Several make a sweep: one program for all of them, by `jax.vmap`.
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
            or one to resume that has a log and no checkpoint.
        CheckpointError, LogError: a file that cannot be written or read; nothing is overwritten.
        ProblemError: a loss that is no number, a carry that changes its structure, data of no arrays.
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
    require_problem(problem, optimizer)
    require_type("options", options, RunOptions)
    require_type("computation", computation, Computation)
    seeds = checked_seeds(steps, seed, options, computation, folder)
    sweep = seeds if not isinstance(seed, (int, np.integer)) else None
    settings = checked_settings(options)
    run_folder = RunFolder(checked_folder(folder), options)
    try:
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
        )
    finally:
        run_folder.release()


def _fit(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    steps: int,
    seeds: tuple[int, ...],
    sweep: tuple[int, ...] | None,
    data: Any,
    settings: dict[str, Any],
    run_folder: RunFolder,
    options: RunOptions,
    computation: Computation,
) -> Fitted:
    """`fit`, with arguments that were checked and a folder that is its own."""
    # Everything that can fail with these arguments comes before the folder is touched.
    folder = run_folder.path
    state, source, programs = _made(problem, optimizer, seeds, sweep is not None, data, computation)
    dtype = computation.compute_dtype
    settings = {
        **settings,
        "seed": list(seeds),
        "accumulate": computation.accumulate,
        "compute_dtype": None if dtype is None else jnp.dtype(dtype).name,
        "data": source.described(),
    }
    open_checkpoints = partial(
        Checkpoints,
        settings=settings,
        description=problem.description,
        last=options.keep,
        best=options.best,
    )
    checkpoints, progress, more = None, Progress(), None
    recorder, log = Recorder(options.watches, steps), None
    try:
        with signals() as asked:
            if folder is not None and run_folder.holds_checkpoints():
                checkpoints = open_checkpoints(folder / CHECKPOINTS)
                found = checkpoints.restore(state)
                state, more = found.state, found.more
                progress = progress_of(more, checkpoints.folder / str(found.step))
                _require_steps_left(progress.done, steps, checkpoints)
                source.begin(state, more.get("data"))
            seen = {}
            if not progress.done:
                seen = recorder.see(0, state.params)
                if options.evaluate is not None:
                    lowest(numbers_of(options.evaluate(state.params)), options.best)
            upto = progress.done or None
            log = run_folder.open_log(upto)
            if folder is not None and checkpoints is None:
                checkpoints = open_checkpoints(folder / CHECKPOINTS)
            recorder.open(folder if jax.process_index() == 0 else None, upto)
            if folder is not None and more is not None and jax.process_index() == 0:
                warn_if_incomplete(more, log, recorder, folder)
            recorder.keep(0, seen)
            if progress.stopped_early:
                # It stays ended only where what ended it still says so.
                ends = options.until is not None and asked_to_end(options.until(log.entries[-1]))
                progress = progress._replace(stopped_early=ends)
            names = parameter_names(state.params)
            run = RunParts(
                programs, source, steps, sweep, names, checkpoints, log, recorder, options
            )
            state, progress = train(run, state, progress, asked)
    finally:
        source.close()
        if log is not None:
            log.close()
        if checkpoints is not None:
            checkpoints.close()
    return Fitted(
        state,
        log.entries,
        progress.seconds,
        programs.seconds,
        recorder.seconds,
        progress.stopped_early,
        _best_step(log.entries, options.best),
    )


def _best_step(entries: list[dict[str, Any]], best: str | None) -> int | None:
    """The step at which the selecting number was lowest; in a sweep its mean."""
    measured = {
        entry["step"]: np.mean(np.asarray(entry[best], float)) for entry in entries if best in entry
    }
    finite = {step: value for step, value in measured.items() if np.isfinite(value)}
    return min(finite, key=lambda step: (finite[step], -step)) if finite else None


def _made(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    seeds: tuple[int, ...],
    sweep: bool,
    data: Any,
    computation: Computation,
) -> tuple[TrainState, BatchSource, StepPrograms]:
    """The first state on its devices, where the batches come from, and the compiled step."""
    start = partial(init_state, problem, optimizer)
    mesh = computation.mesh
    if sweep:
        start = jax.vmap(start)
    argument = np.asarray(seeds, np.uint32) if sweep else np.uint32(seeds[0])
    source = None
    try:
        shardings = _shardings(shapes_of(start, argument), problem, mesh, sweep)
        state = jax.jit(start, out_shardings=shardings)(argument)
        source = batch_source(problem, data, state, mesh, sweep)
        require_pure_batch(source.problem.batch, source.first)
        step = train_step(
            source.problem,
            optimizer,
            **computation._replace(mesh=None if sweep else mesh)._asdict(),
        )
        if sweep:
            step = jax.vmap(step, in_axes=(0, None))
        # Every process logs the numbers of all processes.
        outputs = None if mesh is None else (shardings, spread(mesh, None))
        programs = StepPrograms(jax.jit(step, donate_argnums=0, out_shardings=outputs))
        programs.compiled(state, source.first)
        return state, source, programs
    except BaseException as error:
        if source is not None:
            source.close()
        if isinstance(error, SamplesError):
            raise RunError(str(error)) from None
        raise


def _require_steps_left(done: int, steps: int, checkpoints: Checkpoints) -> None:
    if done > steps:
        raise RunError(
            f"Length mismatch: expected steps of at least {done}, those of the checkpoint in "
            f"{checkpoints.folder / str(done)}, got {steps}."
        )


def _shardings(like: PyTree, problem: Problem, mesh: Mesh | None, sweep: bool) -> Any:
    """The sharding of each leaf of the state: replicated except for the carry; in a sweep, by seeds."""
    if mesh is None:
        return None
    if sweep:
        return jax.tree.map(lambda _: spread(mesh, 0), like)
    require_axes("carry", problem.carry_axes, like.carry)
    everywhere = jax.tree.map(lambda _: spread(mesh, None), like)
    return everywhere._replace(
        carry=by_axis(lambda axis, leaf: spread(mesh, axis, leaf), problem.carry_axes, like.carry)
    )
