"""Save and load a cell, a layer or a stack with its parameters in one safetensors file.

    tensors     named as in the params: w_x, layers.0.forward.w_h, state0.1.c, w_y, …
    metadata    format "lstm_jax", version "1"
                gate_order  JSON: the order of the gates in every kind of cell
                net         JSON: the network, as `lstm_jax.layers.description` has it

Nothing in such a file is executed. `lstm_jax.save` writes the same files, of language models too.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.atomic_write import write_whole
from lstm_jax.layers.description import described, network_of
from lstm_jax.layers.stack import Layer, Stack
from lstm_jax.validation import AnyPath, leaf_name, require_path
from lstm_jax.weights.arrays import require_one_dtype, require_shape, to_jax
from lstm_jax.weights.cell_specification import checked_params
from lstm_jax.weights.gate_order import GRU, LSTM, PEEPHOLES

FORMAT, VERSION = "lstm_jax", "1"
GATE_ORDER = {
    "lstm": LSTM["lstm_jax"],
    "lstm with coupled gates": LSTM["lstm_jax"].replace("i", ""),
    "peepholes": PEEPHOLES["lstm_jax"],
    "gru": GRU["lstm_jax"],
}
DTYPES = {"F16": np.float16, "BF16": jnp.bfloat16, "F32": np.float32, "F64": np.float64}
WHOLE = {"BOOL": np.bool_, "U8": np.uint8, "I32": np.int32, "U32": np.uint32, "I64": np.int64}
"""Dtypes of arrays that are no parameters."""
MORE = "arrays/"
"""What the names of those begin with."""
SHOWN = 500
"""Characters of a description that a message shows, at most."""
BROKEN = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What a description raises that describes nothing."""


def save_safetensors(path: AnyPath, net: Layer | Stack, params: PyTree) -> None:
    """Write a cell, a layer or a stack with its parameters, completely or not at all.

    Args:
        path: of the file; an existing one is replaced.
        net: from `lstm`, `gru`, `rnn`, `bidirectional` or `stack`.
        params: of the net, float16, bfloat16, float32 or float64.

    Raises:
        OSError: a folder that cannot be written to.
        ShapeError, DtypeError, TypeError: params that are not the net's, or a cell with a step of one's own.

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
    write_stored(path, {"net": json.dumps(described(net))}, named_leaves(params))


def named_leaves(params: PyTree) -> dict[str, np.ndarray]:
    """The arrays of parameters by their names, as `safetensors` wants them."""
    return {
        leaf_name(place): np.array(leaf, order="C")
        for place, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def write_stored(
    path: AnyPath, metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write arrays with metadata, in the format of this project, completely or not at all."""
    # Imported here, so that `import lstm_jax` does not need it.
    from safetensors.numpy import save

    own = {"format": FORMAT, "version": VERSION, "gate_order": json.dumps(GATE_ORDER)}
    write_whole(path, save(dict(arrays), own | dict(metadata)))


def load_safetensors(
    path: AnyPath,
) -> tuple[Layer | Stack, PyTree]:
    """Read a file of `save_safetensors`: the cell, layer or stack, and its parameters.

    Of a language model that `lstm_jax.save` wrote, the stack.

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
    stored = recurrent_part(read_stored(path))
    net = network_in(path, stored)
    return net, params_in(path, net, stored.arrays)


class Stored(NamedTuple):
    """A file of this project: its metadata and its arrays by name."""

    metadata: dict[str, str]
    arrays: dict[str, np.ndarray]


def read_stored(path: AnyPath) -> Stored:
    """Read a file of `write_stored`.

    Raises:
        OSError: a file that does not exist.
        ValueError: another file, a damaged one, another version or gate order, or a tensor of another dtype.
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
    metadata = header.get("__metadata__", {})
    expected = {"format": FORMAT, "version": VERSION, "gate_order": json.dumps(GATE_ORDER)}
    for name, value in expected.items():
        if metadata.get(name) != value:
            raise ValueError(
                f"Metadata mismatch: expected {path} with {name} {value}, got {metadata.get(name)}."
            )
    arrays = {}
    for name, tensor in tensors.items():
        known = DTYPES | WHOLE if name.startswith(MORE) else DTYPES
        if tensor["dtype"] not in known:
            raise ValueError(
                f"Dtype mismatch: expected {name} in {path} as one of {', '.join(known)}, got "
                f"{tensor['dtype']}."
            )
        array = np.frombuffer(bytes(tensor["data"]), known[tensor["dtype"]])
        arrays[name] = array.reshape(tensor["shape"])
    return Stored(metadata, arrays)


def recurrent_part(stored: Stored) -> Stored:
    """A file without the arrays that are no parameters; of a language model the stack alone."""
    own = {name: one for name, one in stored.arrays.items() if not name.startswith(MORE)}
    try:
        stack = json.dumps(json.loads(stored.metadata["net"])["stack"])
    except BROKEN:
        return stored._replace(arrays=own)
    prefix = "stack."
    inner = {name.removeprefix(prefix): a for name, a in own.items() if name.startswith(prefix)}
    return Stored(stored.metadata | {"net": stack}, inner)


def network_in(path: AnyPath, stored: Stored) -> Layer | Stack:
    """The network that a file describes; its layers cannot be more than its tensors."""
    try:
        description = json.loads(stored.metadata["net"])
        layers = len(description.get("layers", ()))
        if layers > len(stored.arrays):
            raise ValueError(f"{layers} layers, in a file of {len(stored.arrays)} tensors")
        net: Layer | Stack = network_of(description)
    except BROKEN as error:
        raise ValueError(
            f"Metadata mismatch: expected {path} to describe a cell, a layer or a stack, got "
            f"{str(stored.metadata.get('net'))[:SHOWN]}, of which: {error}"
        ) from error
    return net


def params_in(path: AnyPath, net: Any, arrays: Mapping[str, np.ndarray]) -> PyTree:
    """Arrays as the parameters of a network, after their names, shapes and dtypes were compared.

    Raises:
        ValueError: a tensor that is missing or unexpected.
        ShapeError: a tensor of another shape than the net's.
        DtypeError: tensors that are not all of one dtype, or float64 without ``jax_enable_x64``.
    """
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
    return to_jax(jax.tree.unflatten(structure, list(arrays.values())))
