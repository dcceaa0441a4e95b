"""Read a Keras HDF5 file: its weights under one kind of names, whichever Keras wrote it.

    Keras 1, 2, and 3's whole models    model_weights/enc/enc/forward_lstm/lstm_cell/kernel:0
    Keras 3's weights                   layers/bidirectional/forward_layer/cell/vars/0
    here                                enc.forward_lstm.lstm_cell.kernel

What belongs to an optimizer is left out.
"""

import json
from typing import Any

import numpy as np

from lstm_jax.weights.keras_configuration import names_by_class

PARTS = ("kernel", "recurrent_kernel", "bias")
LEFT_OUT = {"optimizer", "optimizer_weights"}
CONTAINERS = {"layers", "cells", "_layer_checkpoint_dependencies"}


def read_hdf5(
    file: Any, configuration: Any, limit: int
) -> tuple[dict[str, np.ndarray], Any, str | None]:
    """The arrays of an open file by their names, the configuration, and Keras's version.

    Args:
        file: an ``h5py.File``.
        configuration: where it is known from elsewhere; else the file's own, if it has one.
        limit: the bytes to which the arrays may unpack.

    Raises:
        OSError: arrays that unpack to more, or a damaged file.
    """
    root = file["model_weights"] if "model_weights" in file else file
    if configuration is None:
        configuration = _json(file.attrs.get("model_config"))
    version = root.attrs.get("keras_version", file.attrs.get("keras_version"))
    by_class = names_by_class(configuration)
    datasets: list[tuple[str, Any]] = []

    def collect(name: str, item: Any) -> None:
        # Stored elsewhere: another file would be read.
        if hasattr(item, "shape") and not (item.is_virtual or item.external):
            if item.dtype.kind in "fiu" and name.split("/")[0] not in LEFT_OUT:
                datasets.append((name, item))

    root.visititems(collect)
    unpacked = sum(item.nbytes for _, item in datasets)
    if unpacked > limit:
        raise OSError(f"{unpacked} bytes of arrays, of at most {limit} for its size")
    arrays: dict[str, np.ndarray] = {}
    for name, item in datasets:
        parts = name.split("/")
        if len(parts) > 2 and parts[-2] == "vars":
            short = _keras_3_name(root, parts, by_class)
        else:
            short = ".".join(_without_repeats(parts)).removesuffix(":0")
        arrays[short if short not in arrays else name] = item[()]
    version = version.decode() if isinstance(version, bytes) else version
    return _in_order(root, arrays, by_class), configuration, version


def _json(text: Any) -> Any:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str):
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise OSError(f"a model_config that is no JSON, {error}") from error


def _without_repeats(parts: list[str]) -> list[str]:
    """``enc/enc/kernel`` is ``enc/kernel``: the layer's group, and then the weight's own name."""
    for size in range((len(parts) - 1) // 2, 0, -1):
        if parts[:size] == parts[size : 2 * size]:
            return parts[size:]
    return parts


def _keras_3_name(root: Any, parts: list[str], by_class: dict[str, str]) -> str:
    """The name of ``layers/lstm/cell/vars/0``, with layers by their names instead of their classes."""
    names = []
    places = parts[:-2]
    for depth, part in enumerate(places):
        if part in CONTAINERS:
            continue
        named = part
        if depth and places[depth - 1] in CONTAINERS:
            path = "/".join(places[: depth + 1])
            own = root[f"{path}/vars"].attrs.get("name") if f"{path}/vars" in root else None
            named = own if isinstance(own, str) and own else by_class.get(path, part)
        names.append(named)
    index = parts[-1]
    cell = "cell" in places or "cells" in places
    part = PARTS[int(index)] if cell and index in ("0", "1", "2") else f"vars.{index}"
    return ".".join([*names, part])


def _in_order(
    root: Any, arrays: dict[str, np.ndarray], by_class: dict[str, str]
) -> dict[str, np.ndarray]:
    """Arrays in the order of the model's layers, where it is known; HDF5 sorts by name."""
    names = root.attrs.get("layer_names", list(by_class.values()))
    layers = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
    place = {name.split("/")[0]: number for number, name in enumerate(layers)}
    order = sorted(arrays, key=lambda name: place.get(name.split(".")[0], len(place)))
    return {name: arrays[name] for name in order}
