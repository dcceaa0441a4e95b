"""A model is one thing on disk: the network, its parameters, its vocabulary and other arrays, in one file.

    model.safetensors      tensors by the names of the parameters; metadata with JSON of the network
                           (`describe`) and of the vocabulary, and a format with a version
    a run's folder         of `lstm_jax.training.fit`: the checkpoints say what they are of

Nothing in either is executed.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.cells.cell import Cell
from lstm_jax.layers.description import described, network_of
from lstm_jax.layers.stack import Backward, Bidirectional, Stack
from lstm_jax.validation import AnyPath, DtypeError, require_array, require_path, require_text
from lstm_jax.weights.arrays import to_jax
from lstm_jax.weights.cell_specification import checked_params
from lstm_jax.weights.safetensors import (
    BROKEN,
    DTYPES,
    MORE,
    SHOWN,
    WHOLE,
    Stored,
    named_leaves,
    params_in,
    read_stored,
    write_stored,
)

NET, VOCABULARY = "net", "vocabulary"


class Model(NamedTuple):
    """A network as it lay on disk.

    Attributes:
        net: a cell, a layer, a stack or a language model, with the default initialisers.
        params: its parameters.
        vocabulary: of a language model; None where there was none.
        arrays: others that were kept with it, by name, as NumPy arrays.
    """

    net: Any
    params: PyTree
    vocabulary: Any = None
    arrays: dict[str, Any] = {}


def describe(net: Any) -> dict[str, Any]:
    """A network as values for JSON: its kind, sizes and options. Initialisers are not among them.

    Args:
        net: a cell, a layer, a stack or a language model.

    Raises:
        TypeError: something else, or a cell with a step of one's own, which cannot be described.

    Example:
        >>> import lstm_jax
        >>> lstm_jax.describe(lstm_jax.gru(3, 4, reset_after=False))
        {'kind': 'gru', 'input_size': 3, 'hidden_size': 4, 'reset_after': False}
        >>> lstm_jax.from_description(lstm_jax.describe(lstm_jax.lstm(3, 4))) == lstm_jax.lstm(3, 4)
        True
    """
    if isinstance(net, (Cell, Bidirectional, Backward, Stack)):
        return described(net)
    from lstm_jax.language.description import described_model
    from lstm_jax.language.model import LanguageModel

    if isinstance(net, LanguageModel):
        return described_model(net)
    raise TypeError(
        "Network mismatch: expected a cell, a layer, a stack or a language model, got "
        f"{type(net).__name__}. A step of one's own cannot be described: save its parameters alone."
    )


def from_description(description: Mapping[str, Any]) -> Any:
    """The network of a description, with the default initialisers.

    Raises:
        ValueError: a description of nothing.
    """
    try:
        values = dict(description)
        if values.get("kind") == "language_model":
            from lstm_jax.language.description import model_of

            return model_of(values)
        return network_of(values)
    except BROKEN as error:
        raise ValueError(
            "Description mismatch: expected that of a cell, a layer, a stack or a language model, got "
            f"{str(description)[:SHOWN]}, of which: {error}"
        ) from error


def save(
    path: AnyPath,
    net: Any,
    params: PyTree,
    *,
    vocabulary: Any = None,
    arrays: Mapping[str, Any] | None = None,
) -> None:
    """Write a network with its parameters into one safetensors file, completely or not at all.

    Args:
        path: of the file; an existing one is replaced.
        net: a cell, a layer, a stack or a language model.
        params: of the net, in one floating dtype.
        vocabulary: of a language model.
        arrays: others to keep with it, by name, such as the mean and the scale of the inputs.

    Raises:
        OSError: a folder that cannot be written to.
        TypeError: another net, a step of one's own, or params of another structure.
        ShapeError, DtypeError: params that are not the net's.
        TextError: a vocabulary of another size.

    Example:
        >>> import jax, jax.numpy as jnp, lstm_jax, tempfile
        >>> net = lstm_jax.stack(lstm_jax.lstm(3, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/model.safetensors"
        ...     lstm_jax.save(path, net, net.init(jax.random.key(0)), arrays={"mean": jnp.ones(3)})
        ...     model = lstm_jax.load(path)
        >>> model.net == net, model.arrays["mean"].tolist()
        (True, [1.0, 1.0, 1.0])
    """
    require_path("path", path)
    metadata = {NET: json.dumps(describe(net))}
    if isinstance(net, (Cell, Bidirectional, Backward, Stack)):
        if vocabulary is not None:
            raise TypeError(
                f"Vocabulary mismatch: expected one with a language model alone, got one with {net}."
            )
        params = checked_params(net, params)
    else:
        from lstm_jax.language.description import described_vocabulary
        from lstm_jax.language.model import require_model_params
        from lstm_jax.language.vocabulary import require_vocabulary

        require_model_params(net, params)
        if vocabulary is not None:
            require_vocabulary(vocabulary, net.vocabulary_size)
            metadata[VOCABULARY] = json.dumps(described_vocabulary(vocabulary))
    tensors = named_leaves(params)
    for name, array in (arrays or {}).items():
        require_text("a name in arrays", name)
        require_array(f"arrays[{name!r}]", array)
        tensors[MORE + name] = found = np.array(array, order="C")
        if found.dtype not in map(np.dtype, (DTYPES | WHOLE).values()):
            raise DtypeError(
                f"Dtype mismatch: expected arrays[{name!r}] in floating point or whole numbers, got "
                f"{found.dtype}."
            )
    write_stored(path, metadata, tensors)


def load(path: AnyPath, which: str | int | None = None) -> Model:
    """Read a network with its parameters: a file of `save`, or the folder of a run.

    Args:
        path: of a file of `save` or `lstm_jax.weights.save_safetensors`, or of a run whose problem described
            its network, as `language_problem` does.
        which: of a run's checkpoints: ``"last"``, ``"best"`` or a step; None for the best where the run
            selects one, else for the last.

    Returns:
        `Model`, as a tuple ``net, params, vocabulary, arrays``.

    Raises:
        OSError: a file that does not exist.
        ValueError: a file that is not one of these, is damaged or describes nothing; a run without a
            description; a ``which`` beside a file.
        CheckpointError: no such checkpoint, or a damaged one.
        ShapeError, DtypeError: parameters that are not the network's.
    """
    place = require_path("path", path)
    if place.is_dir():
        return _of_run(path, which)
    if which is not None:
        raise ValueError(
            f"Option mismatch: expected which={which!r} beside the folder of a run, got the file {path}."
        )
    return model_in(path, read_stored(path))


def model_in(path: AnyPath, stored: Stored) -> Model:
    """The model of a file that was read."""
    if NET not in stored.metadata:
        raise ValueError(f"Metadata mismatch: expected {path} with a network, got none.")
    own = {name: one for name, one in stored.arrays.items() if not name.startswith(MORE)}
    net = _checked(path, stored.metadata[NET], len(own))
    vocabulary = None
    if VOCABULARY in stored.metadata:
        vocabulary = _vocabulary(path, _parsed(path, stored.metadata[VOCABULARY]), net)
    more = {name.removeprefix(MORE): one for name, one in stored.arrays.items() if name not in own}
    return Model(net, params_in(path, net, own), vocabulary, more)


def _parsed(path: AnyPath, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"Metadata mismatch: expected JSON in {path}, got {text[:SHOWN]!r}, of which: {error}"
        ) from error


def _checked(path: AnyPath, text: str, tensors: int) -> Any:
    """The network that a file describes; its layers cannot be more than its tensors."""
    description = _parsed(path, text)
    inner = description.get("stack", description) if isinstance(description, dict) else {}
    layers = inner.get("layers", ()) if isinstance(inner, dict) else ()
    try:
        if not isinstance(description, dict) or len(layers) > tensors:
            raise ValueError(f"layers in a file of {tensors} tensors")
        return from_description(description)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Metadata mismatch: expected {path} to describe a network, got {text[:SHOWN]}, of which: {error}"
        ) from error


def _vocabulary(path: AnyPath, description: Any, net: Any) -> Any:
    from lstm_jax.language.description import vocabulary_of
    from lstm_jax.language.vocabulary import require_vocabulary

    try:
        vocabulary = vocabulary_of(description)
        require_vocabulary(vocabulary, net.vocabulary_size)
    except BROKEN as error:
        raise ValueError(
            f"Metadata mismatch: expected {path} to describe the network's vocabulary, got "
            f"{str(description)[:SHOWN]}, of which: {error}"
        ) from error
    return vocabulary


def _of_run(path: AnyPath, which: str | int | None) -> Model:
    from lstm_jax.training.loaded_run import in_structure
    from lstm_jax.training.loaded_run import load as load_run

    found = load_run(path, which)
    description = found.description
    if not isinstance(description, dict) or NET not in description:
        raise ValueError(
            f"Description mismatch: expected a run in {path} whose problem describes its network, got one "
            "that does not. Load its parameters by lstm_jax.training.load, or name "
            'Problem(description={"net": lstm_jax.describe(net)}).'
        )
    net = from_description(description[NET])
    dtype = next((leaf.dtype for leaf in jax.tree.leaves(found.params)), float)
    like = shapes_of(partial(net.init, dtype=dtype), jax.random.key(0))
    params = in_structure(require_path("path", path) / str(found.step), found.params, like)
    vocabulary = description.get(VOCABULARY)
    return Model(
        net, to_jax(params), None if vocabulary is None else _vocabulary(path, vocabulary, net)
    )
