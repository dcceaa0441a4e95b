"""The network of a source: the only recurrent layer, the stack that several plainly form, or a step."""

import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Stack, StackParams, stack
from lstm_jax.weights import recurrent_layers
from lstm_jax.weights.any_source import chosen_layer
from lstm_jax.weights.recurrent_layer import RecurrentLayer, RecurrentLayers

SHOWN = 12
"""Layers that a message lists, at most."""


class Network(NamedTuple):
    """A network to look at.

    Attributes:
        source: where it comes from, in words.
        found: the recurrent layers of the source; empty for a network that was given.
        chosen: the names of those that make up the network.
        net: a `Stack`, a `Cell` or a step.
        params: its parameters.
        state0: a starting state; None for zeros.
        xs: inputs that came with it; None where none did.
        cast: in a sentence, from which dtype its numbers were cast; empty if they were not.
    """

    source: str
    found: tuple[RecurrentLayer, ...]
    chosen: tuple[str, ...]
    net: Any
    params: PyTree
    state0: PyTree | None = None
    xs: Any = None
    cast: str = ""


def network_of(
    source: Any,
    layer: str | Sequence[str] | None = None,
    *,
    config: Any = None,
    **choices: Any,
) -> Network:
    """The network of a source.

    Args:
        source: as for `lstm_jax.weights.recurrent_layers`; ``"module.py:name"``; or a tuple of a cell, stack
            or step, its parameters and, for a step, its starting state.
        layer: the name of a layer, or several, which are stacked in that order. None for the only one, or
            for several of one kind that are numbered and fit each other.
        config: of a Keras model, as for `recurrent_layers`.
        **choices: ``gate_order``, ``reset_after`` and ``activation`` as for `lstm_jax.weights.load`.

    Raises:
        ValueError: no layer; several, with their names; layers that do not fit each other; a Python file
            without a name.
        OSError, ImportError, TypeError: as `recurrent_layers`.
    """
    if is_given(source):
        for name, value in {"layer": layer, "config": config, **choices}.items():
            if value is not None:
                raise ValueError(
                    f"Option mismatch: expected no {name} beside a network in Python, got {value!r}."
                )
        if isinstance(source, (tuple, list)):
            return _given(source, "a network in Python")
        path, _, name = os.fspath(source).rpartition(":")
        return _of_module(Path(path), name)
    if isinstance(source, (str, os.PathLike)) and os.fspath(source).endswith(".py"):
        raise ValueError(
            f"Name needed: expected {os.fspath(source)}:NAME, the network in that file, got no name."
        )
    found = source
    if not isinstance(source, RecurrentLayers):
        found = recurrent_layers(source, config=config)
    chosen = _chosen(found, layer)
    with jax.enable_x64(True):  # weights in double precision are read, and cast afterwards
        loaded = [one.load(**choices) for one in chosen]
    names = tuple(one.name for one in chosen)
    net, params = loaded[0] if len(loaded) == 1 else _stacked(names, loaded)
    known = isinstance(source, (str, os.PathLike))
    what = os.fspath(source) if known else f"a {type(source).__name__}"
    return _measurable(Network(what, tuple(found), names, net, params))


def is_given(source: Any) -> bool:
    """Whether a source is a network in Python: a tuple, or ``module.py:name``."""
    if isinstance(source, (str, os.PathLike)):
        path, separator, _ = os.fspath(source).rpartition(":")
        return bool(separator) and path.endswith(".py")
    return isinstance(source, (tuple, list)) and not isinstance(source, RecurrentLayers)


def _chosen(
    found: tuple[RecurrentLayer, ...], layer: str | Sequence[str] | None
) -> list[RecurrentLayer]:
    if layer is not None:
        names = [layer] if isinstance(layer, str) else list(layer)
        return [chosen_layer(found, name) for name in names]
    if len(found) < 2:
        return [chosen_layer(found, None)]
    numbered = sorted(found, key=_numbers)  # files may have layer 10 before layer 9
    if _plainly_a_stack(numbered):
        return numbered
    raise ValueError(
        f"Layer needed: expected layer= as the name of one of {len(found)} recurrent layers, or several in "
        f"their order, got none. They are {listed_layers(found)}."
    )


def listed_layers(found: Sequence[RecurrentLayer]) -> str:
    """The layers in words: ``'enc' (gru, 256 to 256), …``."""
    words = [f"{one.name!r} ({one.kind}, {one.input_size} to {one.hidden_size})" for one in found]
    more = len(words) - SHOWN
    return ", ".join(words[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _plainly_a_stack(found: Sequence[RecurrentLayer]) -> bool:
    """Whether layers of one kind are numbered, and each takes what the one before gives."""
    stems = {re.sub(r"[._/]?\d+", "", one.name) for one in found}
    numbers = [_numbers(one) for one in found]
    fits = all(
        after.input_size == before.hidden_size * before.directions
        for before, after in zip(found, found[1:], strict=False)
    )
    kinds = {one.kind for one in found}
    rising = all(a < b for a, b in zip(numbers, numbers[1:], strict=False))
    return len(stems) == len(kinds) == 1 and rising and fits


def _numbers(layer: RecurrentLayer) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", layer.name)]


def _stacked(names: Sequence[str], loaded: list[tuple[Stack, StackParams]]) -> tuple[Stack, Any]:
    for (lower, (net, _)), (upper, (above, _)) in zip(
        zip(names, loaded, strict=True), zip(names[1:], loaded[1:], strict=False), strict=False
    ):
        if net.output_size != above.input_size:
            raise ValueError(
                f"Layer mismatch: expected {upper!r} to take the {net.output_size} outputs of {lower!r}, got "
                f"input size {above.input_size}."
            )
    for name, (_, params) in zip(names, loaded, strict=True):
        if params.state0 is not None or params.w_y is not None:
            raise ValueError(
                f"Layer mismatch: expected layers to be stacked without a projection or a learned starting "
                f"state, got {name!r} with one. Look at it alone."
            )
    layers = [one for net, _ in loaded for one in net.layers]
    weights = [one for _, params in loaded for one in params.layers]
    return stack(*layers), StackParams(tuple(weights))


def _of_module(path: Path, name: str) -> Network:
    """What a name of a Python file holds, or what a function of that name returns."""
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    spec = importlib.util.spec_from_file_location(f"inspected_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"File mismatch: expected {path} as a Python file, got another.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look there
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, name):
            raise ValueError(f"Name mismatch: expected {name!r} in {path}, got no such name.")
        value = getattr(module, name)
        if inspect.isfunction(value) and not inspect.signature(value).parameters:
            value = value()
    except (ValueError, OSError):
        raise
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(
            f"Module mismatch: expected {path} to run, got {type(error).__name__}: {words}."
        ) from error
    return _given(value, f"{path}:{name}")


def _given(value: Any, where: str) -> Network:
    """A tuple of a network, its parameters and perhaps a starting state and inputs."""
    if isinstance(value, (Cell, Stack)) or not isinstance(value, (tuple, list)):
        value = (value,)
    if not 2 <= len(value) <= 4 or not callable(getattr(value[0], "step", value[0])):
        kinds = ", ".join(type(one).__name__ for one in value)
        raise ValueError(
            f"Network mismatch: expected {where} as a tuple of a cell, stack or step, its parameters and "
            f"perhaps a starting state and inputs, got ({kinds})."
        )
    return _measurable(Network(where, (), (), *value))


def _measurable(network: Network) -> Network:
    """In single precision, where the dtype is one in which no norm is measured."""
    dtypes = {getattr(leaf, "dtype", None) for leaf in jax.tree.leaves(network.params)}
    if len(dtypes) != 1 or not isinstance(network.net, (Cell, Stack)):
        return network
    dtype: Any = dtypes.pop()
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return network
    if dtype in (np.float32, jax.dtypes.canonicalize_dtype(np.float64)):
        return network

    def convert(leaf: Any) -> Any:
        same = getattr(leaf, "dtype", None) == dtype
        return jnp.asarray(np.asarray(leaf).astype(np.float32)) if same else leaf

    params, state0 = jax.tree.map(convert, (network.params, network.state0))
    more = "; with JAX_ENABLE_X64=1 they stay as they are" if dtype == np.float64 else ""
    says = f"The weights of {np.dtype(dtype).name} were cast to float32{more}."
    return network._replace(params=params, state0=state0, cast=says)
