"""The door: recurrent layers of whatever a user has, a file, a mapping of arrays or a model.

`recurrent_layers` lists them, `load` takes one. What a source is follows from its content: `open_file` reads
files, `flat_arrays` mappings, and `find_layers` recognises layers among named arrays. The converters of the
frameworks, `from_pytorch` and so on, do the rest.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Stack, StackParams
from lstm_jax.validation import require_path
from lstm_jax.weights.cell_specification import directions
from lstm_jax.weights.equinox import is_equinox_module, layers_of_equinox
from lstm_jax.weights.find_layers import find_layers
from lstm_jax.weights.flat_arrays import flat_arrays
from lstm_jax.weights.flax import layers_of_nnx
from lstm_jax.weights.flax_modules import is_nnx_module
from lstm_jax.weights.keras_configuration import Settings, configured_layers
from lstm_jax.weights.onnx.listed_nodes import layers_of_onnx
from lstm_jax.weights.open_file import open_file
from lstm_jax.weights.recurrent_layer import (
    Choices,
    RecurrentLayer,
    RecurrentLayers,
    require_no_choices,
    stacked,
)
from lstm_jax.weights.safetensors import load_safetensors

SHOWN = 12
"""Names that a message lists, at most."""


def recurrent_layers(source: Any, *, config: Any = None) -> tuple[RecurrentLayer, ...]:
    """The recurrent layers of a file, a mapping of arrays, or a model.

    A file is read by its content: PyTorch's state dicts and checkpoints, Keras's ``.h5`` and ``.keras``,
    ``.npz``, safetensors, ONNX, Flax's MessagePack; a folder is orbax's checkpoint, or a run's last one.
    Nothing in it is run, and only the package that it needs is imported. Layers are recognised by names and
    shapes; other arrays, optimizer states and counters are left out.

    Args:
        source: a path; a mapping of arrays, however nested, as parameters of Flax and Haiku or variables of
            TensorFlow 1; an ``onnx.ModelProto``; a ``torch.nn.Module``; a Keras layer or model; a module of
            Flax's nnx or of Equinox.
        config: of a Keras model whose weights are in a file of their own: the path of its JSON file, that
            text, or what ``get_config`` returns. Its activations and directions are honoured or refused.

    Returns:
        A tuple of `RecurrentLayer`, in the order of the source. It is empty where there is none; its
        ``misses`` then says what nearly was one.

    Raises:
        OSError: a file that does not exist.
        ImportError: without the package that the file needs.
        TypeError: a source of another kind, or a config beside a model.
        ValueError: a file of another kind, a damaged one, or one that needs more than arrays.

    Example:
        >>> import numpy as np
        >>> from lstm_jax import weights
        >>> checkpoint = {"step": 7, "model_state": {"rnn.weight_ih_l0": np.ones((8, 3), "f"),
        ...     "rnn.weight_hh_l0": np.ones((8, 2), "f"), "out.weight": np.ones((5, 2), "f")}}
        >>> [(layer.name, layer.kind, layer.hidden_size) for layer in weights.recurrent_layers(checkpoint)]
        [('rnn', 'lstm', 2)]
    """
    if isinstance(source, (str, os.PathLike)):
        return _of_file(source, config)
    if isinstance(source, Mapping):
        return find_layers(flat_arrays(source), settings=_settings(config))
    if config is not None:
        raise TypeError(
            "Type mismatch: expected config= beside a path or a mapping, got one beside "
            f"{type(source).__module__}.{type(source).__qualname__}."
        )
    if is_nnx_module(source):
        return layers_of_nnx(source)
    if is_equinox_module(source):
        return layers_of_equinox(source)
    if hasattr(source, "state_dict") and hasattr(source, "named_modules"):
        return _of_module(source)
    if hasattr(source, "get_config") and hasattr(source, "get_weights"):
        return _of_keras(source)
    if hasattr(source, "graph") and hasattr(source, "opset_import"):
        return layers_of_onnx(source)
    advice = " Give a list of arrays to from_keras." if isinstance(source, (list, tuple)) else ""
    raise TypeError(
        "Type mismatch: expected a path, a mapping of arrays, a model of ONNX, PyTorch or Keras, or a module "
        f"of nnx or Equinox, got {type(source).__module__}.{type(source).__qualname__}.{advice}"
    )


def load(
    source: Any,
    name: str | None = None,
    *,
    kind: str | None = None,
    gate_order: str | None = None,
    reset_after: bool | None = None,
    activation: str | None = None,
    forget_bias: float | None = None,
    config: Any = None,
) -> tuple[Stack, StackParams]:
    """One recurrent layer of a file, a mapping of arrays, or a model, with its parameters.

    Args:
        source: as for `recurrent_layers`, or what it returned.
        name: of the layer; None for the only one. The last parts of its name will do where they tell.
        kind: to check it, or to choose among layers.
        gate_order: the order of the gates in the source, where it is not the one assumed, as ``"iofg"``.
        reset_after: of a GRU whose arrays do not say it.
        activation: of a vanilla network, ``"tanh"``, ``"relu"`` or ``"identity"``.
        forget_bias: of an LSTM of TensorFlow 1, the number that its cell adds to the forget gate; 1, its
            default, if None.
        config: as for `recurrent_layers`.

    Returns:
        A `Stack`, also of one layer, for `lstm_jax.unroll_stack`, and `StackParams` in the dtype of the
        source. What was assumed is in the layer's ``assumed``.

    Raises:
        ValueError: no layer, with what nearly was one; several, with their names; and as
            `RecurrentLayer.load`.
        OSError, ImportError, TypeError: as `recurrent_layers`.

    Example:
        >>> import numpy as np
        >>> from lstm_jax import weights
        >>> arrays = {"enc_w_ih": np.ones((6, 3), "f"), "enc_w_hh": np.ones((6, 2), "f")}
        >>> net, params = weights.load(arrays, "enc")
        >>> net.layers
        (gru(input_size=3, hidden_size=2),)
    """
    found = source
    if not isinstance(source, RecurrentLayers):
        found = recurrent_layers(source, config=config)
    layer = chosen_layer(found, name, kind)
    return layer.load(
        kind=kind,
        gate_order=gate_order,
        reset_after=reset_after,
        activation=activation,
        forget_bias=forget_bias,
    )


def chosen_layer(
    found: tuple[RecurrentLayer, ...], name: str | None, kind: str | None = None
) -> RecurrentLayer:
    """The layer of a name, or of the last parts of one; the only one where None.

    Raises:
        TypeError: a name that is no text.
        ValueError: none or several, with their names and what nearly was one.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"Type mismatch: expected name as a text, got {name!r}.")
    fitting = list(found)
    if name is not None:
        fitting = [layer for layer in found if layer.name == name]
    if not fitting and name:  # Keras separates by slashes, and an ONNX node's name has its own.
        wanted = name.replace("/", ".")
        dotted = [(f".{layer.name.replace('/', '.')}", layer) for layer in found]
        fitting = [layer for full, layer in dotted if full == f".{wanted}"]
        fitting = fitting or [layer for full, layer in dotted if full == f".{wanted}.cell"]
        fitting = fitting or [layer for full, layer in dotted if full.endswith(f".{wanted}")]
    if len(fitting) > 1 and kind is not None:
        fitting = [layer for layer in fitting if layer.kind == kind] or fitting
    if len(fitting) == 1:
        return fitting[0]
    misses = getattr(found, "misses", ())
    if not found:
        nearest = f" Nearest: {_shortened(misses, '; ')}." if misses else ""
        raise ValueError(
            f"Layer missing: expected a recurrent layer in the source, got none.{nearest}"
        )
    names = _shortened([repr(layer.name) for layer in (fitting or found)], ", ")
    if name is None:
        raise ValueError(
            f"Name needed: expected name= of one of {len(fitting)} recurrent layers, got none. They are "
            f"{names}."
        )
    missed = [miss for miss in misses if miss.startswith(f"{name}:")]
    more = f" Nearest: {missed[0]}." if missed else ""
    got = "several" if fitting else "none"
    raise ValueError(
        f"Name mismatch: expected a recurrent layer named {name!r}, got {got}. They are {names}.{more}"
    )


def _shortened(words: Any, between: str) -> str:
    shown = between.join(words[:SHOWN])
    return shown + (f"{between}… ({len(words)} in all)" if len(words) > SHOWN else "")


def _settings(config: Any) -> dict[str, list[Settings]]:
    """What a configuration says of each layer; a text that is no JSON is a path."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return configured_layers(dict(config))
    path = require_path("config", config)
    text = os.fspath(config)
    try:
        return configured_layers(
            json.loads(text if text.lstrip().startswith("{") else path.read_bytes())
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"File mismatch: expected config={text[:80]!r} as JSON of a Keras model, got: {error}."
        ) from error


def _of_file(source: Any, config: Any) -> tuple[RecurrentLayer, ...]:
    path = require_path("source", source)
    content = open_file(path)
    if config is not None:
        content = content._replace(settings=_settings(config))
    if content.form == "onnx":
        return layers_of_onnx(path)
    if content.form == "own":
        return _own(path)
    return find_layers(
        content.arrays, settings=content.settings, version=content.version, ours=content.ours
    )


def _own(path: Any) -> RecurrentLayers:
    """A file of `save_safetensors`, which is one network."""
    net, params = stacked(*load_safetensors(path))
    pairs = directions(net.layers[0], net.layers[0])  # of the cells alone
    cell: Cell = pairs[0][0]

    def read(choices: Choices) -> tuple[Any, Any]:
        require_no_choices("", choices, "whose file says it all")
        return net, params

    sizes = (net.input_size, cell.hidden_size, len(pairs), len(net.layers))
    return RecurrentLayers([RecurrentLayer("", cell.kind, *sizes, (), None, read)])


def _of_module(module: Any) -> RecurrentLayers:
    """A module of PyTorch, whose attributes say what a state dict does not."""
    modules, quantised = {}, []
    for name, inner in module.named_modules():
        own = type(inner)
        if own.__name__.startswith("Parametrized"):  # PyTorch's subclass, which computes the same
            own = own.__mro__[1]
        if own.__module__ == "torch.nn.modules.rnn":
            modules[name] = getattr(inner, "nonlinearity", "tanh")
        recurrent = any(word in own.__name__ for word in ("LSTM", "GRU", "RNN"))
        if recurrent and "quantized" in own.__module__:
            quantised.append(name or "the root")
    arrays = flat_arrays(dict(module.state_dict()))
    return find_layers(arrays, modules=modules, quantised=tuple(quantised))


def _of_keras(model: Any) -> RecurrentLayers:
    """A layer or a model of Keras, with the configurations of all layers in it."""
    configurations, arrays = [], {}
    waiting = [model]
    while waiting:
        layer = waiting.pop()
        inner = getattr(layer, "layers", None)
        if isinstance(inner, (list, tuple)):
            waiting += inner
        else:
            configurations.append(
                {"class_name": type(layer).__name__, "config": layer.get_config()}
            )
    for weight in model.weights:
        name = getattr(weight, "path", None) or weight.name
        arrays[name] = weight
    flat = {
        name.replace("/", ".").removesuffix(":0").removeprefix(f"{model.name}."): array
        for name, array in arrays.items()
    }
    if not isinstance(getattr(model, "layers", None), (list, tuple)):
        # A layer alone keeps its name.
        flat = {f"{model.name}.{name}": array for name, array in flat.items()}
    return find_layers(flat, settings=configured_layers(configurations))
