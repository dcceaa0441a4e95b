"""Every array of a source by its name: what is in a file beside its recurrent layers, as embeddings."""

import os
from collections.abc import Mapping
from typing import Any

from lstm_jax.validation import require_path
from lstm_jax.weights.flat_arrays import flat_arrays
from lstm_jax.weights.onnx.convert import opened_model
from lstm_jax.weights.open_file import open_file


def named_arrays(source: Any) -> dict[str, Any]:
    """The arrays of a file, a mapping or a model, by their names, with dots between the parts of a name.

    Args:
        source: as for `lstm_jax.weights.recurrent_layers`.

    Returns:
        Arrays as the source has them; `numpy.asarray` converts one. What belongs to an optimizer is left out.

    Raises:
        OSError, ImportError, TypeError, ValueError: as `recurrent_layers`.

    Example:
        >>> import numpy as np
        >>> from lstm_jax import weights
        >>> checkpoint = {"state_dict": {"embed.weight": np.ones((9, 3)), "rnn.bias_ih_l0": np.ones(8)}}
        >>> sorted(weights.named_arrays(checkpoint))
        ['embed.weight', 'rnn.bias_ih_l0']
    """
    if isinstance(source, (str, os.PathLike)):
        path = require_path("source", source)
        content = open_file(path)
        if content.form == "onnx":
            return _of_onnx(opened_model(path)[1])
        if content.form == "own":
            from safetensors.numpy import load_file

            return dict(load_file(path))
        return content.arrays
    if isinstance(source, Mapping):
        return flat_arrays(source)
    if hasattr(source, "state_dict") and hasattr(source, "named_modules"):
        return flat_arrays(dict(source.state_dict()))
    if hasattr(source, "weights") and hasattr(source, "get_config"):
        return {getattr(w, "path", w.name).replace("/", "."): w for w in source.weights}
    if hasattr(source, "graph"):
        return _of_onnx(source)
    raise TypeError(
        "Type mismatch: expected a path, a mapping of arrays, a model of ONNX, PyTorch or Keras, got "
        f"{type(source).__module__}.{type(source).__qualname__}."
    )


def _of_onnx(model: Any) -> dict[str, Any]:
    from onnx import numpy_helper

    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
