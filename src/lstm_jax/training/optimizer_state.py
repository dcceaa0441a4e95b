"""An optax optimizer's update with all that it may ask for, and a state whose dtypes stay."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lstm_jax.array_types import Array, PyTree, shapes_of

ROUNDS = 3
"""Until a dtype has passed on to all parts of a state."""


def updated(
    optimizer: optax.GradientTransformation,
    d_params: PyTree,
    state: PyTree,
    params: PyTree,
    value: Array,
    value_fn: Callable[[PyTree], Array],
) -> tuple[PyTree, PyTree]:
    """The update and the next state.

    Args:
        optimizer: from optax.
        d_params: the gradient.
        state: of the optimizer.
        params: the parameters.
        value: the loss.
        value_fn: the loss of other parameters.
    """
    # Optax mixes integers and floats, which strict promotion does not allow.
    with jax.numpy_dtype_promotion("standard"):
        found: tuple[PyTree, PyTree] = optax.with_extra_args_support(optimizer).update(
            d_params,
            state,
            params,
            # For those that ask for it: line searches, and rates that fall when the loss does not.
            value=value,
            grad=d_params,
            value_fn=value_fn,
        )
    return found


def settled_state(optimizer: optax.GradientTransformation, params: PyTree) -> PyTree:
    """The first state, in the dtypes that it has after a step.

    With parameters in half precision the states of some optimizers begin in it and go on in float32, and a
    step's state has to be like the one before it.
    """
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(params)
    if all(leaf.dtype == jnp.result_type(float) for leaf in jax.tree.leaves(params)):
        return state

    def after(state: PyTree, params: PyTree, value: Array) -> PyTree:
        return updated(optimizer, params, state, params, value, lambda params: value)[1]

    for _ in range(ROUNDS):
        like = shapes_of(after, state, params, jnp.zeros(()))
        state = jax.tree.map(lambda leaf, new: jnp.asarray(leaf, new.dtype), state, like)
    return state
