"""Jacobian norms of the layers of a stack, one by one, in both directions.

The transition of each layer, ∂s^l_t/∂s^l_k with the outputs of the layer below fixed, is that of a gradient
that goes back through time inside this layer. For the whole state of a stack in one direction, with all paths
between layers, give the stack to `jacobian_norms`.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from gradient_flow.measurements.jacobian_norms import JacobianNorms, jacobian_norms
from lstm_jax.array_types import Array, Float, PyTree
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Backward, Both, Layer, Stack, StackParams, stack
from lstm_jax.layers.unroll_stack import check_stack_arguments, unroll_stack


def layer_norms(
    network: Stack,
    params: PyTree,
    state0: PyTree | None,
    xs: Float[Array, "time *batch d"],
    **options: Any,
) -> tuple[JacobianNorms | Both, ...]:
    """Log-norms of ∂s_t/∂s_k for each layer of a stack by itself, each direction by itself.

    Args:
        network: from `lstm_jax.stack`, without zoneout; dropout does not act here.
        params: of the stack.
        state0: the starting states; the learned ones, or zeros, if None.
        xs: [T, D] or [T, B, D].
        **options: ``times``, ``lags``, ``blocks`` and ``norms`` of `jacobian_norms`, the same for all layers.

    Returns:
        One `JacobianNorms` for each layer; `Both` for a bidirectional one. A layer that runs backward counts
        its times from the last step of the sequence: lag 5 at time T is from step 6 back to step 1.

    Raises:
        As `jacobian_norms`; ValueError: a stack with zoneout.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> net = lstm_jax.stack(lstm_jax.bidirectional(lstm_jax.gru(3, 4)), lstm_jax.lstm(8, 5))
        >>> params = net.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (20, 3))
        >>> first, second = gradient_flow.layer_norms(net, params, None, xs)
        >>> first.backward.spectral["hh"].shape, sorted(second.spectral)[:3]
        ((21,), ['carousel', 'cc', 'ch'])
    """
    found: list[JacobianNorms | Both] = []
    for layer, weights, state, ys in each_layer(network, params, state0, xs):
        if isinstance(layer, Cell):
            found.append(jacobian_norms(layer, weights, state, ys, **options))
        elif isinstance(layer, Backward):
            found.append(jacobian_norms(layer.cell, weights, state, jnp.flip(ys, 0), **options))
        else:
            found.append(
                Both(
                    jacobian_norms(layer.forward, weights.forward, state.forward, ys, **options),
                    jacobian_norms(
                        layer.backward, weights.backward, state.backward, jnp.flip(ys, 0), **options
                    ),
                )
            )
    return tuple(found)


def each_layer(
    network: Stack, params: PyTree, state0: PyTree | None, xs: Float[Array, "time *batch d"]
) -> Iterator[tuple[Layer, PyTree, PyTree, Array]]:
    """Each layer of a stack with its parameters, its starting state and the sequence that drives it.

    Args:
        network: from `lstm_jax.stack`, without zoneout; dropout does not act here.
        params: of the stack.
        state0: the starting states; the learned ones, or zeros, if None.
        xs: [T, D] or [T, B, D].

    Raises:
        ShapeError, DtypeError, TypeError: arguments that do not fit the stack or each other.
        ValueError: a stack with zoneout.
    """
    states = check_stack_arguments(network, params, xs, state0)
    require_no_zoneout(network)
    last = len(network.layers) - 1
    for number, (layer, weights, state) in enumerate(
        zip(network.layers, params.layers, states, strict=True)
    ):
        yield layer, weights, state, xs
        if number < last:
            _, out = jax.jit(unroll_stack, static_argnums=0)(
                stack(layer), StackParams((weights,)), xs, (state,)
            )
            xs = out + xs if network.residual and number else out


def has_zoneout(network: Stack) -> bool:
    """Whether a unit of the stack may keep its state."""
    return any(network.zoneout if isinstance(network.zoneout, tuple) else [network.zoneout])


def require_no_zoneout(network: Stack) -> None:
    """Refuse a stack with zoneout, whose layers are not plain cells.

    Raises:
        ValueError: with the zoneout in the message.
    """
    if has_zoneout(network):
        raise ValueError(
            "Option mismatch: expected a stack without zoneout, got zoneout="
            f"{network.zoneout!r}. For the stack as a whole, use jacobian_norms."
        )
