"""What a problem and an optimizer give, checked while a step is traced: each refusal names what came.

A loss gives ``(value, (carry, metrics))``: a real number, a carry like the one before, a dict of numbers.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.validation import (
    in_one_line,
    leaf_name,
    require_array,
    require_int,
    require_parameters,
    show_shape,
)

LOSS = "loss(params, carry, batch, key) as (value, (carry, metrics))"


FUNCTIONS = {
    "init": "key",
    "loss": "params, carry, batch, key",
    "batch": "data, step, key",
    "carry": "",
}
"""The functions of a problem and their arguments."""


class ProblemError(ValueError):
    """A problem whose functions do not give what a step needs."""


def require_functions(problem: Any) -> None:
    """Refuse a problem whose functions cannot be called with their arguments.

    Raises:
        TypeError: naming the function, its arguments and what came.
    """
    for name, arguments in FUNCTIONS.items():
        require_parameters(name, getattr(problem, name), arguments)


def require_leaves(name: str, what: str, tree: PyTree) -> None:
    """Refuse a tree with leaves that are neither arrays nor numbers.

    Raises:
        ProblemError: naming the leaf.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not _is_numeric(leaf):
            where = f" in {leaf_name(path)}" if path else ""
            raise ProblemError(
                f"{name} mismatch: expected {what} with arrays or numbers, got {_kind(leaf)}{where}."
            )


def require_axes(name: str, axes: Any, tree: PyTree) -> None:
    """Refuse axes of the samples that are no prefix of a tree, or that one of its arrays does not have.

    Args:
        name: ``"batch"`` or ``"carry"``.
        axes: as ``in_axes`` of `jax.vmap`, from 0.
        tree: the batch or the carry.

    Raises:
        ProblemError: naming the array or the structure.
    """

    def require(axis: Any, part: PyTree) -> None:
        whole = isinstance(axis, (int, np.integer)) and not isinstance(axis, bool)
        for leaf in jax.tree.leaves(part):
            if axis is not None and not (whole and 0 <= axis < jnp.ndim(leaf)):
                raise ProblemError(
                    f"Axis mismatch: expected {name}_axes from 0 to {jnp.ndim(leaf) - 1}, or None, for "
                    f"{_array(leaf)} of the {name}, got {in_one_line(axis)}."
                )

    try:
        jax.tree.map(require, axes, tree, is_leaf=lambda node: node is None)
    except ProblemError:
        raise
    except (ValueError, TypeError):
        structure: Any = jax.tree.structure(tree)
        raise ProblemError(
            f"Axis mismatch: expected {name}_axes as a prefix of the {name}, {structure}, got "
            f"{in_one_line(axes)}."
        ) from None


def require_seed(seed: Any) -> None:
    """Refuse anything but one whole number from 0 to 2³² − 1, also a traced one.

    Raises:
        TypeError: no number.
        ValueError: another number.
    """
    if not isinstance(seed, (int, np.integer, jax.Array, np.ndarray)) or isinstance(seed, bool):
        raise TypeError(
            f"Type mismatch: expected seed as one whole number, got {in_one_line(seed)}."
        )
    require_int("seed", seed, most=2**32 - 1)


def require_optimizer(optimizer: Any) -> None:
    """Refuse anything without the two functions of an optax transformation.

    Raises:
        TypeError: with the type that came.
    """
    if not callable(getattr(optimizer, "init", None)) or not callable(
        getattr(optimizer, "update", None)
    ):
        raise TypeError(
            "Type mismatch: expected optimizer from optax, with init and update, got "
            f"{type(optimizer).__name__}."
        )


def require_params(params: PyTree) -> None:
    """Refuse parameters that cannot be trained: none at all, or numbers without a gradient.

    Raises:
        ProblemError: naming the leaf.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    if not leaves:
        raise ProblemError(
            "Parameter mismatch: expected init(key) with at least one array, got none."
        )
    for path, leaf in leaves:
        array = _is_numeric(leaf) and hasattr(leaf, "dtype")
        if not array or not jnp.issubdtype(leaf.dtype, jnp.inexact):
            got = leaf.dtype.name if array else type(leaf).__name__
            raise ProblemError(
                f"Parameter mismatch: expected init(key) with arrays of floating-point numbers, got {got} "
                f"in {leaf_name(path) or 'params'}."
            )


def require_pure_batch(batch: Callable[..., Any], data: PyTree) -> None:
    """Refuse a ``batch`` that gives other numbers when it is traced again: one that calls an iterator.

    The step is traced once, so it would train on the first of its batches for ever.

    Raises:
        ProblemError: saying so.
    """
    key = jax.random.key(0)

    def traced() -> list[Any]:
        # A function of its own, because JAX keeps what it traced.
        again = lambda data, step, key: batch(data, step, key)  # noqa: E731
        return traced_constants(jax.make_jaxpr(again)(data, jnp.zeros((), jnp.int32), key))

    try:
        ones, others = traced(), traced()
    except Exception:  # What else is wrong with it is said where the step calls it.
        return
    if len(ones) != len(others) or not all(map(_same_constant, ones, others)):
        raise ProblemError(
            "Batch mismatch: expected batch(data, step, key) to depend on its arguments alone, got other "
            "numbers when it was called again. An iterator or a random number of Python inside of it is "
            "called once, and every step would train on that batch. Give the whole data, or draw by the key."
        )


def traced_constants(traced: Any) -> list[Any]:
    """The numbers that a traced function has from outside of its arguments, and those inside of it."""
    jaxpr = getattr(traced, "jaxpr", traced)
    atoms = [*jaxpr.outvars, *(atom for eqn in jaxpr.eqns for atom in eqn.invars)]
    found = [*getattr(traced, "consts", ()), *(atom.val for atom in atoms if hasattr(atom, "val"))]
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                if hasattr(part, "eqns"):
                    found += traced_constants(part)
                elif isinstance(part, (int, float)):
                    found.append(part)  # where a slice begins
    return found


def _same_constant(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, jax.Array) and jnp.issubdtype(one.dtype, jax.dtypes.extended):
        one, other = jax.random.key_data(one), jax.random.key_data(other)
    return bool(np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True))


class Mean(NamedTuple):
    """A mean as its sum and its weight, where the parts of a batch weigh differently: steps that are masked.

    A loss, or one of its metrics, may be one. Parts of an accumulated batch are then added, and their sum is
    divided by their weight: the numbers of the whole batch. Where nothing counts, the mean is 0.

    Attributes:
        total: the sum, a number.
        weight: what it is divided by, a number that does not depend on the parameters: how many steps count.

    Example:
        >>> import jax.numpy as jnp
        >>> from lstm_jax.training import Mean
        >>> errors, counts = jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False])
        >>> mean = Mean(jnp.sum(errors * counts), jnp.sum(counts))
        >>> print(mean.total / mean.weight)
        1.5
    """

    total: Any
    weight: Any


def require_loss(found: Any, carry: PyTree) -> None:
    """Refuse what a loss gives if no step can use it.

    Args:
        found: what the loss gave, traced.
        carry: the one that it took.

    Raises:
        ProblemError: with what came.
    """
    if not isinstance(found, tuple) or len(found) != 2:
        raise ProblemError(f"Loss mismatch: expected {LOSS}, got {_kind(found)}.")
    value, rest = found
    if not isinstance(rest, tuple) or len(rest) != 2:
        raise ProblemError(f"Loss mismatch: expected {LOSS}, got (value, {_kind(rest)}).")
    after, metrics = rest
    for name, one in {"loss": value, **(metrics if isinstance(metrics, dict) else {})}.items():
        if isinstance(one, Mean) and not all(_is_numeric(part) for part in one):
            raise ProblemError(
                f"Loss mismatch: expected the total and the weight of {name} as numbers, got "
                f"{_kind(one.total)} and {_kind(one.weight)}."
            )
        if isinstance(one, Mean) and jnp.shape(one.weight) != ():
            raise ProblemError(
                f"Loss mismatch: expected the weight of {name} as one number, got an array "
                f"{show_shape(jnp.shape(one.weight))}."
            )
    value = value.total if isinstance(value, Mean) else value
    if not _is_numeric(value):
        raise ProblemError(f"Loss mismatch: expected one number, got {_kind(value)}.")
    if jnp.shape(value) != ():
        raise ProblemError(
            "Loss mismatch: expected one number, the mean over the samples, got an array "
            f"{show_shape(jnp.shape(value))}. Take its mean."
        )
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ProblemError(
            f"Loss mismatch: expected a floating-point number, got {jnp.result_type(value).name}."
        )
    if not isinstance(metrics, dict) or not all(isinstance(name, str) for name in metrics):
        raise ProblemError(
            f"Loss mismatch: expected metrics as a dict of numbers by name, got {_kind(metrics)}."
        )
    for name, number in metrics.items():
        if not isinstance(number, Mean) and not _is_numeric(number):
            raise ProblemError(
                f"Loss mismatch: expected the metric {name!r} as a number, got {_kind(number)}."
            )
    _require_same_carry(carry, after)


def _require_same_carry(before: PyTree, after: PyTree) -> None:
    """Refuse a carry of another structure, shape or dtype: the next step could not take it."""
    require_leaves("Carry", "the loss to return a carry", after)
    structure: Any = jax.tree.structure(before)
    got: Any = jax.tree.structure(after)
    if structure != got:
        raise ProblemError(
            f"Carry mismatch: expected the loss to return a carry like the one before it, {structure}, got "
            f"{got}."
        )
    leaves = jax.tree_util.tree_flatten_with_path(before)[0]
    for (path, leaf), other in zip(leaves, jax.tree.leaves(after), strict=True):
        if _array(leaf) != _array(other):
            raise ProblemError(
                f"Carry mismatch: expected the loss to return {leaf_name(path) or 'carry'} as "
                f"{_array(leaf)}, like the one before it, got {_array(other)}."
            )


def _is_numeric(leaf: Any) -> bool:
    """Whether it is an array of JAX or NumPy, or a Python number."""
    if isinstance(leaf, (bool, int, float, complex)):
        return True
    try:
        require_array("leaf", leaf)
    except TypeError:
        return False
    return True


def _array(leaf: Any) -> str:
    return f"{jnp.result_type(leaf).name}{show_shape(jnp.shape(leaf))}"


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if hasattr(value, "dtype") and _is_numeric(value):
        return f"an array {_array(value)}"
    return f"a {type(value).__name__}"
