r"""One step of training as a pure function.

    g   = ∂/∂θ loss(θ, carry, batch(data, n, key), key)          clipped, scheduled and applied by optax:
    θ, s = apply(θ, update(g, s)),   n = n + 1

The state has all that a run depends on: parameters, the optimizer's state, the carry from batch to batch (the
recurrent state in truncated back-propagation through time), the step and the key. A step's batch and noise
depend on the step and the key alone, so a run that is resumed from a state computes the same numbers.

Axes: `Problem.batch_axes` and `Problem.carry_axes` give the axis of the samples in the batch and in the
carry, to split them for accumulation and over devices.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from lstm_jax.array_types import Array, Bool, Float, Int, PyTree, shapes_of
from lstm_jax.jax_extensions.mesh_axes import DATA
from lstm_jax.training.optimizer_state import settled_state, updated
from lstm_jax.training.problem_checks import (
    Mean,
    require_axes,
    require_functions,
    require_leaves,
    require_loss,
    require_optimizer,
    require_params,
    require_seed,
)
from lstm_jax.training.sample_axes import constrained, joined, merged, parted, separated
from lstm_jax.validation import (
    leaf_name,
    require_array,
    require_floating_dtype,
    require_int,
    require_one_of,
    require_positive_int,
    require_same_structure,
    require_type,
    show_shape,
)

ON_NONFINITE = ("stop", "skip")


def _nothing() -> None:
    return None


def as_given(data: PyTree, step: Array, key: Array) -> PyTree:
    """The batch that a stream gave."""
    return data


class Problem(NamedTuple):
    """A training problem as pure functions.

    Attributes:
        init: ``init(key) -> params``.
        loss: ``loss(params, carry, batch, key) -> (value, (carry, metrics))``: a mean over the samples of the
            batch, the carry for the next batch, and a dict of numbers for the log. Where samples or steps
            weigh differently, because some are masked, the value and the numbers are a `Mean`.
        batch: ``batch(data, step, key) -> batch``, steps from 0, under `jax.jit`; the key is the same at
            every step (`jax.random.fold_in` it with the step). By default the data themselves: the batch
            that a stream gave.
        carry: ``carry() -> carry``, for the first batch; returns None by default.
        batch_axes: the axis of the samples in a batch, as ``in_axes`` of `jax.vmap`; by default 1, after
            time.
        carry_axes: the axis of the samples in the carry; by default 0. None for a leaf that is the same for
            all samples.
        description: what the parameters are of, as JSON; kept in every checkpoint for whoever loads it. None
            says nothing. `language_problem` describes its model.
    """

    init: Callable[[Array], PyTree]
    loss: Callable[[PyTree, PyTree, PyTree, Array], tuple[Array, tuple[PyTree, dict[str, Array]]]]
    batch: Callable[[PyTree, Array, Array], PyTree] = as_given
    carry: Callable[[], PyTree] = _nothing
    batch_axes: Any = 1
    carry_axes: Any = 0
    description: Any = None


class TrainState(NamedTuple):
    """All that a run depends on; the content of a checkpoint.

    Attributes:
        step: steps done, an int32.
        params: the parameters.
        optimizer: the state of the optax transformation.
        carry: for the next batch.
        key: raw data of the run's key, uint32.
    """

    step: Int[Array, ""]
    params: PyTree
    optimizer: PyTree
    carry: PyTree
    key: Array


class Metrics(NamedTuple):
    """The numbers of a step for the log.

    Attributes:
        loss: before the step.
        gradient_norm: global norm of the gradient, unclipped.
        gradient_norms: the norm of each parameter's gradient, in the order of `parameter_names`.
        more: the metrics of the problem's loss, averaged over the parts of an accumulated batch; of a `Mean`
            by weight.
        finite: whether loss and gradient are finite, and with ``on_nonfinite="skip"`` what the update led to.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    gradient_norms: Float[Array, "parameters"]
    more: dict[str, Array]
    finite: Bool[Array, ""]


Step = Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]


def init_state(
    problem: Problem, optimizer: optax.GradientTransformation, seed: Array | int
) -> TrainState:
    """The state before the first step.

    Args:
        problem: the `Problem` to train.
        optimizer: from optax.
        seed: of everything random; may be traced, for `jax.vmap`.

    Raises:
        ProblemError: no parameters, some that are no floating-point numbers, or a carry of no arrays.
        TypeError: no `Problem`, no optimizer, no seed.
        ValueError: a seed that is not from 0 to 2³² − 1.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from lstm_jax.training import Problem, init_state
        >>> problem = Problem(
        ...     init=lambda key: jnp.zeros(2),
        ...     loss=lambda params, carry, batch, key: (((params - batch) ** 2).sum(), (carry, {})),
        ...     batch=lambda data, step, key: data,
        ... )
        >>> init_state(problem, optax.sgd(0.1), seed=0).step.item()
        0
    """
    require_problem(problem, optimizer)
    require_seed(seed)
    key_params, key_run = jax.random.split(jax.random.key(seed))
    params = problem.init(key_params)
    require_params(params)
    carry = problem.carry()
    require_leaves("Carry", "carry()", carry)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=settled_state(optimizer, params),
        carry=_strong(carry),
        key=jax.random.key_data(key_run),
    )


def _keys(key: Array) -> tuple[Array, Array]:
    key_batch, key_loss = jax.random.split(jax.random.wrap_key_data(key))
    return key_batch, key_loss


def batch_key(key: Array) -> Array:
    """The key that ``batch`` is given, from that of a `TrainState`."""
    return _keys(key)[0]


def require_problem(problem: Any, optimizer: Any) -> None:
    """Refuse anything but a problem of functions, and an optimizer.

    Raises:
        TypeError: with what came.
    """
    require_type("problem", problem, Problem)
    require_functions(problem)
    require_optimizer(optimizer)


def require_mesh(mesh: Any) -> None:
    """Refuse anything but a mesh with the axis of the samples, or None.

    Raises:
        TypeError: no mesh.
        ValueError: a mesh without that axis.
    """
    if mesh is None:
        return
    require_type("mesh", mesh, Mesh)
    if DATA not in mesh.axis_names:
        raise ValueError(
            f"Mesh mismatch: expected a mesh with the axis {DATA!r}, from data_mesh(), got one with "
            f"{', '.join(map(repr, mesh.axis_names)) or 'none'}."
        )


def _require_state(state: Any, optimizer: optax.GradientTransformation) -> None:
    """Refuse a state that this step could not continue.

    Raises:
        TypeError, ProblemError: another type, or parts of it.
    """
    require_type("state", state, TrainState)
    require_params(state.params)
    require_int("state.step", state.step)
    require_array("state.key", state.key)
    if state.key.dtype != jnp.uint32 or state.key.ndim != 1:
        raise TypeError(
            "Key mismatch: expected state.key as the raw data of one key, uint32 [2], got "
            f"{state.key.dtype}{show_shape(state.key.shape)}."
        )
    with jax.numpy_dtype_promotion("standard"):
        like = shapes_of(optimizer.init, state.params)
    require_same_structure("state.optimizer", state.optimizer, like)


def _strong(tree: PyTree) -> PyTree:
    """Arrays whose dtypes are their own: a program that was compiled for a number takes no other array."""

    def strong(leaf: Any) -> Any:
        dtype = jnp.result_type(leaf)
        return leaf if jnp.issubdtype(dtype, jax.dtypes.extended) else jnp.asarray(leaf, dtype)

    return jax.tree.map(strong, tree)


def train_step(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    compute_dtype: Any = None,
    mesh: Mesh | None = None,
    on_nonfinite: str = "stop",
) -> Step:
    """One step as a pure function ``step(state, data) -> (state, Metrics)``, for `jax.jit` and `jax.vmap`.

    Args:
        problem: the `Problem` to train.
        optimizer: from optax, clipping included (`optax.clip_by_global_norm`); it is given ``value``,
            ``grad`` and ``value_fn`` too, for `optax.lbfgs` and `optax.contrib.reduce_on_plateau`.
        accumulate: the number of parts of a batch, computed one after the other to save memory; the gradient
            is the mean over the parts, by their weight where the loss is a `Mean`. It must divide the number
            of samples.
        compute_dtype: that of the loss and its gradient, as bfloat16: the loss is given parameters, carry and
            batch in it, integers as they are. Parameters, optimizer, carry and the sums of the parts stay in
            their own dtypes. Nothing is cast if None.
        mesh: devices with an axis ``"data"``, over which the samples are spread; no constraint if None.
        on_nonfinite: ``"skip"`` leaves out an update where loss, gradient or the parameters after it are not
            finite: the state stays but for the number of the step.

    Returns:
        The step.

    Raises:
        ValueError: ``accumulate`` is not a positive integer, a mesh without the axis ``"data"``, or another
            ``on_nonfinite``.
        TypeError: no `Problem`, no optimizer, no mesh; in the step, no `TrainState` of theirs.
        DtypeError: a ``compute_dtype`` that is not a floating one.
        SamplesError: in the step, a number of samples that does not divide.
        ProblemError: in the step, a loss that is no number, a carry of another structure or shape, a batch of
            no arrays, or axes that its arrays do not have.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from lstm_jax.training import Problem, init_state, train_step
        >>> problem = Problem(
        ...     init=lambda key: jnp.zeros(2),
        ...     loss=lambda params, carry, batch, key: (((params - batch) ** 2).sum(), (carry, {})),
        ...     batch=lambda data, step, key: data,
        ... )
        >>> step = jax.jit(train_step(problem, optax.sgd(0.25)))
        >>> state, metrics = step(init_state(problem, optax.sgd(0.25), 0), jnp.array([2.0, 4.0]))
        >>> state.params.tolist(), metrics.loss.item()
        ([1.0, 2.0], 20.0)
    """
    require_problem(problem, optimizer)
    require_positive_int("accumulate", accumulate)
    if compute_dtype is not None:
        require_floating_dtype(compute_dtype, "compute_dtype")
    require_mesh(mesh)
    require_one_of("on_nonfinite", on_nonfinite, ON_NONFINITE)

    def value(params: PyTree, carry: PyTree, batch: PyTree, key: Array) -> Any:
        stored, wide = carry, jax.tree.leaves(params)[0].dtype
        if compute_dtype is not None:
            params, carry, batch = (cast(tree, compute_dtype) for tree in (params, carry, batch))
        found = problem.loss(params, carry, batch, key)
        require_loss(found, carry)
        value, (carry, metrics) = found
        total, weight = _as_mean(value)
        means = {name: _as_mean(one) for name, one in metrics.items()}
        carry = _strong(carry)
        if compute_dtype is not None:
            carry = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), carry, stored)
            # Sums of many parts would lose in it what they add.
            total, means, weight = cast((total, means, weight), wide)
        return total, (carry, means, weight)

    differentiated = jax.value_and_grad(value, has_aux=True)

    def gradient(params: PyTree, carry: PyTree, batch: PyTree, key: Array) -> Any:
        if accumulate == 1:
            (total, (carry, more, weight)), d_params = differentiated(params, carry, batch, key)
        else:
            total, carry, more, weight, d_params = _in_parts(
                differentiated, problem, accumulate, params, carry, batch, key
            )
        more = {name: _divided(one, its, accumulate) for name, (one, its) in more.items()}
        d_params = jax.tree.map(lambda leaf: _divided(leaf, weight, accumulate), d_params)
        return _divided(total, weight, accumulate), carry, more, d_params

    def step(state: TrainState, data: PyTree) -> tuple[TrainState, Metrics]:
        _require_state(state, optimizer)
        require_leaves("Data", "data", data)
        key_batch, key_loss = _keys(state.key)
        batch = problem.batch(data, state.step, key_batch)
        require_leaves("Batch", "batch(data, step, key)", batch)
        if accumulate > 1 or mesh is not None:
            require_axes("batch", problem.batch_axes, batch)
            require_axes("carry", problem.carry_axes, state.carry)
        batch = constrained(batch, problem.batch_axes, mesh)
        key = jax.random.fold_in(key_loss, state.step)
        loss, carry, more, d_params = gradient(state.params, state.carry, batch, key)
        carry = constrained(carry, problem.carry_axes, mesh)
        updates, optimizer_state = updated(
            optimizer,
            d_params,
            state.optimizer,
            state.params,
            loss,
            lambda params: gradient(params, state.carry, batch, key)[0],
        )
        with jax.numpy_dtype_promotion("standard"):
            params = optax.apply_updates(state.params, updates)
        lengths = [jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(d_params)]
        # Parameters may be of several dtypes.
        with jax.numpy_dtype_promotion("standard"):
            norms = jnp.stack(lengths)
        norm = jnp.linalg.norm(norms)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        after = TrainState(state.step + 1, params, optimizer_state, carry, state.key)
        if on_nonfinite == "skip":
            finite &= finite_leaves(params).all()
            after = where(finite, after, state)._replace(step=after.step)
        return after, Metrics(loss, norm, norms, more, finite)

    return step


def _in_parts(
    differentiated: Callable[..., Any],
    problem: Problem,
    parts: int,
    params: PyTree,
    carry: PyTree,
    batch: PyTree,
    key: Array,
) -> Any:
    def one(whole: PyTree, at: tuple[PyTree, PyTree, Array]) -> Any:
        common, total = whole
        of_samples, batch, number = at
        carry = merged(of_samples, common)
        (value, (carry, more, weight)), d_params = differentiated(
            params, carry, batch, jax.random.fold_in(key, number)
        )
        of_samples, common = separated(problem.carry_axes, carry)
        return (common, jax.tree.map(jnp.add, total, d_params)), (of_samples, value, more, weight)

    of_samples, common = separated(problem.carry_axes, carry)
    pieces = (
        parted(of_samples, problem.carry_axes, parts, "carry"),
        parted(batch, problem.batch_axes, parts, "batch"),
        jnp.arange(parts),
    )
    start = (common, jax.tree.map(jnp.zeros_like, params))
    (common, d_params), (of_samples, *rest) = jax.lax.scan(one, start, pieces)
    carry = merged(joined(of_samples, problem.carry_axes), common)
    value, more, weight = jax.tree.map(lambda leaf: leaf.sum(0), rest)
    return value, carry, more, weight, d_params


def _as_mean(value: Any) -> tuple[Any, Any]:
    """Sum and weight; a plain number has none, and parts of it count alike."""
    if not isinstance(value, Mean):
        return value, None
    return value.total, jax.lax.stop_gradient(jnp.asarray(value.weight))


def _divided(total: Any, weight: Any, parts: int) -> Any:
    """A sum over its weight, in the dtype of the sum; over the number of parts where it has none."""
    if weight is None:
        return total if parts == 1 else total / parts
    dtype = jnp.result_type(total)
    dtype = dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.result_type(float)
    # A batch in which nothing counts has sums of 0, and is no reason to end a run.
    weight = jnp.where(weight == 0, jnp.ones_like(weight), weight)
    return jnp.asarray(total, dtype) / weight.astype(dtype)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Floating-point leaves in another dtype, the others as they are."""

    def one(leaf: Any) -> Any:
        found = jnp.result_type(leaf)
        return jnp.asarray(leaf, dtype) if jnp.issubdtype(found, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def finite_leaves(tree: PyTree) -> Bool[Array, "leaves"]:
    """Whether each leaf of a tree is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])


def where(condition: Bool[Array, ""], tree: PyTree, other: PyTree) -> PyTree:
    """One tree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), tree, other)


def parameter_names(params: PyTree) -> list[str]:
    """The names of the parameters, as ``stack.layers.0.w_h``, in the order of `Metrics.gradient_norms`."""
    return [leaf_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
