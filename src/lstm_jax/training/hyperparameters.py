"""Numbers of an optimizer: those of a sweep, and those that a resumed run must find unchanged.

`optax.inject_hyperparams` keeps numbers in the optimizer's state by name. All others are constants of its
update, and are found in its trace.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax.array_types import Array, PyTree
from lstm_jax.training.checkpoint_contents import CheckpointError
from lstm_jax.training.optimizer_state import updated
from lstm_jax.training.options import RunError
from lstm_jax.training.problem_checks import traced_constants
from lstm_jax.training.step import Problem, TrainState, init_state
from lstm_jax.validation import require_number


def injected(optimizer: PyTree) -> dict[str, Any]:
    """The numbers by name that a state of `optax.inject_hyperparams` holds."""
    found: dict[str, Any] = {}
    for part in jax.tree.leaves(optimizer, is_leaf=_injects):
        if _injects(part):
            found |= part.hyperparams
    return found


def with_hyperparameters(optimizer: PyTree, values: Mapping[str, Any]) -> PyTree:
    """An optimizer's state with other numbers, which it holds by name."""

    def one(part: Any) -> Any:
        if not _injects(part):
            return part
        new = {
            name: jnp.asarray(values[name], jnp.result_type(old)) if name in values else old
            for name, old in part.hyperparams.items()
        }
        return part._replace(hyperparams=new)

    return jax.tree.map(one, optimizer, is_leaf=_injects)


def start_of_sweep(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    seed: Array,
    numbers: Mapping[str, Array],
) -> TrainState:
    """The state of one run of a sweep before the first step."""
    state = init_state(problem, optimizer, seed)
    return state._replace(optimizer=with_hyperparameters(state.optimizer, numbers))


def numbers_of_run(
    optimizer: PyTree, swept: Mapping[str, Sequence[float]] | None
) -> dict[str, Any]:
    """What a checkpoint says of a run's hyperparameters: those of its sweep, or those of its optimizer."""
    if swept is not None:
        return {name: list(values) for name, values in swept.items()}
    return {
        # As a reader knows it, which float32 does not hold.
        name: float(f"{float(np.asarray(value)):.7g}")
        for name, value in injected(optimizer).items()
        if jnp.ndim(value) == 0
    }


def _injects(part: Any) -> bool:
    return hasattr(part, "hyperparams") and hasattr(part, "_replace")


def checked_hyperparameters(
    given: Mapping[str, Any] | None,
    seeds: tuple[int, ...],
    alone: bool,
    state: Callable[[], PyTree],
) -> tuple[tuple[int, ...], dict[str, tuple[float, ...]]]:
    """The seeds and the numbers of the runs of a sweep.

    Args:
        given: lists of numbers by name, all of one length.
        seeds: one for all runs, or one for each.
        alone: whether a single seed was given.
        state: gives the optimizer's state, or its shapes.

    Raises:
        RunError: names that the state does not hold, or lists of other lengths.
    """
    if given is None:
        return seeds, {}
    if not isinstance(given, Mapping) or not given:
        raise RunError(
            "Type mismatch: expected hyperparameters as a dict of lists, {'learning_rate': [0.1, 0.01]}, got "
            f"{given!r}."
        )
    known, lists = sorted(injected(state())), {}
    for name, values in given.items():
        if name not in known:
            raise RunError(
                f"Name mismatch: expected hyperparameters among {', '.join(known) or 'none'}, those that the "
                f"optimizer's state holds, got {name!r}. Make it by optax.inject_hyperparams(optax.adam)"
                "(learning_rate=0.1)."
            )
        if isinstance(values, np.ndarray) and values.ndim == 1:
            values = values.tolist()
        if not isinstance(values, Sequence) or isinstance(values, (str, bytes)) or not values:
            raise RunError(f"Type mismatch: expected {name} as a list of numbers, got {values!r}.")
        for value in values:
            try:
                require_number(name, value)
            except ValueError as error:
                raise RunError(str(error)) from None
        lists[name] = tuple(float(value) for value in values)
    count = len(next(iter(lists.values()))) if alone else len(seeds)
    for name, numbers in lists.items():
        if len(numbers) != count:
            raise RunError(
                f"Length mismatch: expected {count} numbers in {name}, one for each run of the sweep, got "
                f"{len(numbers)}."
            )
    return (seeds * count if alone else seeds), lists


def labels_of(seeds: Sequence[int], numbers: Mapping[str, Sequence[float]]) -> list[str]:
    """The runs of a sweep: by their seeds where these differ, and by their numbers."""
    by_seed = [f"seed {seed}" for seed in seeds]
    columns = [by_seed] if len(set(seeds)) == len(seeds) else []
    columns += [[f"{name} {value:g}" for value in values] for name, values in numbers.items()]
    labels = [", ".join(parts) for parts in zip(*columns, strict=True)]
    if len(set(labels)) < len(labels):
        labels = [f"run {n}, {label}" for n, label in enumerate(labels)]
    return labels


def update_constants(optimizer: optax.GradientTransformation, params: PyTree) -> list[float]:
    """The constants in an optimizer's update, in the order of its trace: rates, decays, bounds of schedules.

    Args:
        optimizer: from optax.
        params: the parameters, or their shapes.
    """

    def update(state: PyTree, params: PyTree, value: Any) -> Any:
        return updated(optimizer, params, state, params, value, lambda params: value)

    try:
        shapes = jax.eval_shape(lambda params: params, params)
        state = jax.eval_shape(optimizer.init, shapes)
        value = jnp.zeros(())
        found = traced_constants(jax.make_jaxpr(update)(state, shapes, value))
    except Exception:  # What is wrong with it is said where the step calls it.
        return []
    numbers = [np.asarray(one) for one in found if not hasattr(one, "aval") or jnp.ndim(one) == 0]
    return [float(number) for number in numbers if number.ndim == 0 and number.dtype.kind in "fiub"]


def require_same_constants(where: Path, found: Sequence[float], expected: Sequence[float]) -> None:
    """Refuse an optimizer whose update has other constants than that of a checkpoint.

    Raises:
        CheckpointError: with the first that differs.
    """
    if len(found) != len(expected):
        # Another release of optax may write the same update in another way.
        return
    for theirs, ours in zip(found, expected, strict=True):
        if theirs != ours and not (np.isnan(theirs) and np.isnan(ours)):
            raise CheckpointError(
                f"Optimizer mismatch: expected {abs(theirs):.7g} among the numbers of the optimizer, "
                f"as in {where}, got {abs(ours):.7g}: a learning rate, or another number that it was "
                "made with. Use the same, or begin a new run with the parameters of training.load."
            )
