"""Save and load a cell, a layer or a stack with its parameters in one safetensors file.

    tensors     named as in the params: w_x, layers.0.forward.w_h, state0.1.c, w_y, …
    metadata    format "lstm_jax", version "1"
                gate_order  JSON: the order of the gates in every kind of cell
                net         JSON: kind, sizes and options of every cell, and the connections of the layers

Nothing in such a file is executed. Initialisers and initial gate biases (``forget_bias``, ``update_bias``)
are not in it: the loaded cell has the defaults, which do not affect its parameters.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.atomic_write import write_whole
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import (
    Backward,
    Bidirectional,
    Layer,
    Stack,
    backward,
    bidirectional,
    cells_of,
    stack,
)
from lstm_jax.validation import AnyPath, leaf_name, require_path
from lstm_jax.weights.arrays import require_one_dtype, require_shape, to_jax
from lstm_jax.weights.cell_specification import Specification, checked_params, make_cell, specify
from lstm_jax.weights.gate_order import GRU, LSTM, PEEPHOLES

FORMAT, VERSION = "lstm_jax", "1"
GATE_ORDER = {
    "lstm": LSTM["lstm_jax"],
    "lstm with coupled gates": LSTM["lstm_jax"].replace("i", ""),
    "peepholes": PEEPHOLES["lstm_jax"],
    "gru": GRU["lstm_jax"],
}
DTYPES = {"F16": np.float16, "BF16": jnp.bfloat16, "F32": np.float32, "F64": np.float64}
SHOWN = 500
"""Characters of a description that a message shows, at most."""

OPTIONS = (
    "dropout",
    "variational",
    "zoneout",
    "recurrent_dropout",
    "residual",
    "learned_state",
    "output_size",
)


def save_safetensors(path: AnyPath, net: Layer | Stack, params: PyTree) -> None:
    """Write a cell, a layer or a stack with its parameters, completely or not at all.

    Args:
        path: of the file; an existing one is replaced.
        net: from `lstm`, `gru`, `rnn`, `bidirectional` or `stack`.
        params: of the net, float16, bfloat16, float32 or float64.

    Raises:
        OSError: a folder that cannot be written to.
        ValueError: a cell of an unknown kind.
        ShapeError, DtypeError, TypeError: params that are not the net's.

    Example:
        >>> import jax, lstm_jax, tempfile
        >>> from lstm_jax import weights
        >>> net = lstm_jax.stack(lstm_jax.lstm(3, 4), dropout=0.1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/net.safetensors"
        ...     weights.save_safetensors(path, net, net.init(jax.random.key(0)))
        ...     again, params = weights.load_safetensors(path)
        >>> again == net
        True
    """
    params = checked_params(net, params)
    tensors = {
        leaf_name(place): np.array(leaf, order="C")
        for place, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "gate_order": json.dumps(GATE_ORDER),
        "net": json.dumps(_described(net)),
    }
    # Imported here, so that `import lstm_jax` does not need it.
    from safetensors.numpy import save

    write_whole(path, save(tensors, metadata))


def load_safetensors(
    path: AnyPath,
) -> tuple[Layer | Stack, PyTree]:
    """Read a file of `save_safetensors`: the cell, layer or stack, and its parameters.

    Args:
        path: of the file.

    Returns:
        The net, equal to the saved one if that had the default initialisers, and its params in their dtype.

    Raises:
        OSError: a file that does not exist.
        ValueError: a file that is not a complete safetensors file or not from `save_safetensors`, another
            version or gate order, metadata without a net, or a tensor that is missing or unexpected.
        ShapeError: a tensor of another shape than the net's.
        DtypeError: tensors that are not all of one floating dtype, or float64 without ``jax_enable_x64``.
    """
    import safetensors

    content = require_path("path", path).read_bytes()
    try:
        tensors = dict(safetensors.deserialize(content))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"File mismatch: expected {path} to be a whole safetensors file, got one with: {error}."
        ) from error
    # A valid file has a header, whose size is in the first eight bytes.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    net = _net_of(path, header.get("__metadata__", {}), len(tensors))
    arrays = {}
    for name, tensor in tensors.items():
        if tensor["dtype"] not in DTYPES:
            raise ValueError(
                f"Dtype mismatch: expected {name} in {path} as one of {', '.join(DTYPES)}, got "
                f"{tensor['dtype']}."
            )
        array = np.frombuffer(bytes(tensor["data"]), DTYPES[tensor["dtype"]])
        arrays[name] = array.reshape(tensor["shape"])
    shapes = shapes_of(net.init, jax.random.key(0))
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    expected = {leaf_name(place): leaf.shape for place, leaf in leaves}
    for name in sorted(set(expected) ^ set(arrays)):
        if name in expected:
            raise ValueError(f"Name mismatch: expected {name} in {path}, got a file without it.")
        raise ValueError(f"Name mismatch: expected only what {net} has in {path}, got {name}.")
    for name, shape in expected.items():
        require_shape(name, arrays[name], shape, f"in {path}")
    # In the params' order; the file orders tensors by size.
    arrays = {name: arrays[name] for name in expected}
    require_one_dtype(arrays)
    return net, to_jax(jax.tree.unflatten(structure, list(arrays.values())))


def _described(net: Any) -> dict[str, Any]:
    """A net as values for JSON."""
    if isinstance(net, Cell):
        specification = specify(net)
        return dict(zip(Specification._fields[:3], specification, strict=False)) | (
            specification.options
        )
    if isinstance(net, Backward):
        return {"backward": _described(net.cell)}
    if isinstance(net, Bidirectional):
        return {"forward": _described(net.forward), "backward": _described(net.backward)}
    options = net._asdict() | {"output_size": net.projected_size}
    options["zoneout"] = _rates(net.zoneout)
    for name in ("dropout", "recurrent_dropout"):
        options[name] = float(options[name])
    return {"layers": [_described(layer) for layer in net.layers]} | {
        name: options[name] for name in OPTIONS
    }


def _rates(zoneout: Any) -> Any:
    """One rate, or a state of rates by its fields."""
    if not isinstance(zoneout, tuple):
        return float(zoneout)
    return {name: float(rate) for name, rate in zip(zoneout._fields, zoneout, strict=True)}  # type: ignore[attr-defined]


def _net_of(path: Any, metadata: dict[str, str], tensors: int) -> Any:
    """The net that a file's metadata describe; its layers cannot be more than its tensors."""
    known = {"format": FORMAT, "version": VERSION, "gate_order": json.dumps(GATE_ORDER)}
    for name, value in known.items():
        if metadata.get(name) != value:
            raise ValueError(
                f"Metadata mismatch: expected {path} with {name} {value}, got {metadata.get(name)}."
            )
    try:
        description = json.loads(metadata["net"])
        layers = len(description.get("layers", ()))
        if layers > tensors:
            raise ValueError(f"{layers} layers, in a file of {tensors} tensors")
        return _made(description)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"Metadata mismatch: expected {path} to describe a cell, a layer or a stack, got "
            f"{str(metadata.get('net'))[:SHOWN]}, of which: {error}"
        ) from error


def _made(description: dict[str, Any]) -> Any:
    """The inverse of `_described`."""
    if "layers" in description:
        layers = [_made(layer) for layer in description.pop("layers")]
        zoneout = description["zoneout"]
        if isinstance(zoneout, dict):
            state = shapes_of(cells_of(layers)[0].initial_state)
            description["zoneout"] = type(state)(**zoneout)
        return stack(*layers, **description)
    if "forward" in description:
        return bidirectional(**{direction: _made(cell) for direction, cell in description.items()})
    if "backward" in description:
        return backward(_made(description["backward"]))
    return make_cell(Specification(**description))
