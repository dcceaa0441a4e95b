r"""Other libraries' cells as steps for `gradient_flow`: one adapter for each library.

    step(params, state, x) -> (state, out)

The state of a known cell becomes `LSTMState(h, c)`, `GRUState(h)` or `RNNState(h)`, so that its blocks have
the same names as those of the built-in cells: the same weights give the same numbers. The state of any other
cell is not changed. A cell of your own needs no adapter: `jacobian_norms` takes any function of this form.

Axes: one sample: x[D], state leaves [H].
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.array_types import Array, PyTree
from lstm_jax.cells import GRUState, LSTMState, RNNState, Step


class Foreign(NamedTuple):
    """The arguments of a measurement: ``jacobian_norms(cell.step, cell.params, cell.state0, xs)``.

    Attributes:
        step: ``(params, state, x) -> (state, out)``.
        params: a pytree of arrays.
        state0: the starting state of one sample.
    """

    step: Step
    params: Any
    state0: Any


class _StateForm(NamedTuple):
    """Converts the carry of a kind of cell to a state of `lstm_jax`, and back."""

    to_state: Callable[[Any], Any]
    to_carry: Callable[[Any], Any]


_UNCHANGED = _StateForm(lambda carry: carry, lambda state: state)
_CH = _StateForm(lambda carry: LSTMState(h=carry[1], c=carry[0]), lambda s: (s.c, s.h))
_HC = _StateForm(lambda carry: LSTMState(h=carry[0], c=carry[1]), lambda s: (s.h, s.c))
_GRU = _StateForm(GRUState, lambda s: s.h)
_RNN = _StateForm(RNNState, lambda s: s.h)

_FLAX = {"LSTMCell": _CH, "OptimizedLSTMCell": _CH, "GRUCell": _GRU, "SimpleCell": _RNN}
_EQUINOX = {"LSTMCell": _HC, "GRUCell": _GRU}


def from_nnx(cell: Any, state0: PyTree | None = None) -> Foreign:
    """A `flax.nnx` cell: LSTMCell, OptimizedLSTMCell, GRUCell, SimpleCell, or your own ``cell(carry, x)``.

    Args:
        cell: the module; its parameters are copied, and later changes to it have no effect.
        state0: the starting carry of one sample, in the cell's form; ``cell.initialize_carry`` if None.

    Raises:
        TypeError: a module without ``initialize_carry`` and without a starting carry.

    Example:
        >>> import jax, jax.numpy as jnp, gradient_flow
        >>> from flax import nnx
        >>> from gradient_flow.foreign import from_nnx
        >>> cell = from_nnx(nnx.LSTMCell(3, 4, rngs=nnx.Rngs(0)))
        >>> xs = jax.random.normal(jax.random.key(0), (20, 3))
        >>> flow = gradient_flow.jacobian_norms(cell.step, cell.params, cell.state0, xs)
        >>> sorted(flow.spectral), flow.spectral["cc"].shape
        (['cc', 'ch', 'hc', 'hh'], (21,))
    """
    from flax import nnx

    form = _form_of(cell, _FLAX, "flax.")
    graph, params, rest = nnx.split(cell, nnx.Param, ...)  # type: ignore[misc]
    if state0 is None:
        _require_first_carry(cell)
        state0 = cell.initialize_carry((cell.in_features,), nnx.Rngs(0))

    def step(params: PyTree, state: PyTree, x: Array) -> tuple[PyTree, Array]:
        carry, out = nnx.merge(graph, params, rest, copy=True)(form.to_carry(state), x)
        return form.to_state(carry), out

    return Foreign(step, params, form.to_state(state0))


def from_linen(
    cell: Any, variables: Mapping[str, Any], input_size: int, state0: PyTree | None = None
) -> Foreign:
    """A `flax.linen` cell: LSTMCell, OptimizedLSTMCell, GRUCell, SimpleCell, or your own.

    Args:
        cell: the module, unbound.
        variables: ``{"params": ...}``, as ``cell.init`` returns them.
        input_size: D.
        state0: the starting carry of one sample, in the cell's form; ``cell.initialize_carry`` if None.

    Raises:
        TypeError: a module without ``initialize_carry`` and without a starting carry.
        ValueError: variables without ``params``.
    """
    form = _form_of(cell, _FLAX, "flax.")
    if "params" not in variables:
        raise ValueError(
            f"Name mismatch: expected variables with 'params', as cell.init returns them, got "
            f"{sorted(variables)}."
        )
    rest = {name: value for name, value in variables.items() if name != "params"}
    if state0 is None:
        _require_first_carry(cell)
        state0 = cell.initialize_carry(jax.random.key(0), (input_size,))

    def step(params: PyTree, state: PyTree, x: Array) -> tuple[PyTree, Array]:
        carry, out = cell.apply({**rest, "params": params}, form.to_carry(state), x)
        return form.to_state(carry), out

    return Foreign(step, variables["params"], form.to_state(state0))


def from_equinox(cell: Any, state0: PyTree | None = None) -> Foreign:
    """An `equinox.nn` LSTMCell or GRUCell, or your own module ``cell(x, state) -> state``.

    Args:
        cell: the module.
        state0: the starting state of one sample, in the cell's form; zeros for LSTMCell and GRUCell if None.

    Raises:
        TypeError: a module of another kind without a starting state.
    """
    import equinox

    form = _form_of(cell, _EQUINOX, "equinox.")
    params, rest = equinox.partition(cell, equinox.is_array)
    if state0 is None:
        if form is _UNCHANGED:
            raise TypeError(_no_state(cell))
        zeros = jnp.zeros(cell.hidden_size, cell.weight_hh.dtype)
        state0 = (zeros, zeros) if form is _HC else zeros

    def step(params: PyTree, state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        after = form.to_state(equinox.combine(params, rest)(x, form.to_carry(state)))
        return after, getattr(after, "h", after)

    return Foreign(step, params, form.to_state(state0))


def from_haiku(transformed: Any, params: Mapping[str, Any], state0: PyTree) -> Foreign:
    """A Haiku core, ``hk.without_apply_rng(hk.transform(lambda x, state: hk.LSTM(8)(x, state)))``.

    Args:
        transformed: with ``apply(params, x, state) -> (out, state)``.
        params: as ``transformed.init`` returns them.
        state0: the starting state of one sample; an ``hk.LSTMState`` becomes `LSTMState`, a bare array
            (hk.GRU, hk.VanillaRNN) becomes ``h``.

    Raises:
        TypeError: an ``apply`` that takes a key.
    """
    if "rng" in inspect.signature(transformed.apply).parameters:
        raise TypeError(
            "Argument mismatch: expected apply(params, x, state), got one that takes a key as well. Put "
            "hk.without_apply_rng around hk.transform."
        )
    form = _UNCHANGED
    if type(state0).__name__ == "LSTMState" and hasattr(state0, "hidden"):
        haiku_state = type(state0)
        form = _StateForm(lambda s: LSTMState(s.hidden, s.cell), lambda s: haiku_state(s.h, s.c))
    elif hasattr(state0, "shape"):
        form = _RNN

    def step(params: PyTree, state: PyTree, x: Array) -> tuple[PyTree, PyTree]:
        out, after = transformed.apply(params, x, form.to_carry(state))
        return form.to_state(after), out

    return Foreign(step, params, form.to_state(state0))


def _no_state(cell: Any) -> str:
    return f"State mismatch: expected a starting state for {type(cell).__name__}, got None."


def _require_first_carry(cell: Any) -> None:
    if not hasattr(cell, "initialize_carry"):
        raise TypeError(f"{_no_state(cell)} It has no initialize_carry. Give state0=.")


def _form_of(cell: Any, known: Mapping[str, _StateForm], module: str) -> _StateForm:
    kind = type(cell)
    return (
        known.get(kind.__name__, _UNCHANGED) if kind.__module__.startswith(module) else _UNCHANGED
    )
