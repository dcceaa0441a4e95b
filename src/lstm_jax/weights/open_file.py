"""Open a file of weights by its content: what is in it, as named arrays with what is said of them.

    zip archive      PyTorch (data.pkl), Keras 3 (config.json, model.weights.h5), NumPy (.npy files)
    HDF5             Keras: whole models and weights
    length, JSON     safetensors: own files, and others'
    pickle           PyTorch's files before 1.6
    MessagePack      Flax's ``to_bytes``
    protobuf         ONNX
    a folder         orbax, and runs of `lstm_jax.training` (`open_folder`)

Only the package that the file needs is imported. No pickle runs code: PyTorch reads weights alone, NumPy no
objects. An archive unpacks to what its size allows.
"""

import importlib
import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from lstm_jax.validation import show_shape
from lstm_jax.weights.flat_arrays import flat_arrays
from lstm_jax.weights.keras_configuration import Settings, configured_layers
from lstm_jax.weights.open_folder import read_folder
from lstm_jax.weights.open_hdf5 import read_hdf5

ALWAYS, RATIO = 2**26, 100
"""The bytes to which a file may unpack: so many, and so many times its own size."""
BEFORE_1_6 = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""What PyTorch's files before 1.6 begin with: a number as a pickle of its own."""
KNOWN = "PyTorch, Keras (HDF5 or .keras), NumPy (.npz), safetensors, ONNX or Flax (MessagePack)"


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        form: ``"arrays"``, ``"onnx"`` or ``"own"``, a file of `save_safetensors`.
        arrays: by their names; empty but for ``"arrays"``.
        settings: of Keras's layers.
        version: of Keras.
        ours: whether a run of `lstm_jax.training` wrote the arrays.
    """

    form: str
    arrays: dict[str, Any] = {}
    settings: dict[str, list[Settings]] = {}
    version: str | None = None
    ours: bool = False


def open_file(path: Path) -> Content:
    """Read a file by its content; its ending decides nothing.

    Raises:
        OSError: a file that does not exist or cannot be read.
        ImportError: without the package that the file needs, which is named.
        ValueError: another kind of file, a damaged one, or one that needs more than arrays.
    """
    if path.is_dir():
        found = read_folder(path, ALWAYS, RATIO)
        return Content("arrays", found.arrays, ours=found.ours)
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PK\x03\x04"):
        content = _open_zip(path)
    elif head.startswith(b"\x89HDF\r\n\x1a\n"):
        content = _open_hdf5(path, path.read_bytes())
    elif _is_safetensors(head, path.stat().st_size):
        content = _open_safetensors(path)
    elif head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        content = _open_pytorch(path)
    elif head[:1] == b"\x08" and path.suffix.lower() != ".msgpack":
        return Content("onnx")
    elif len(head) > 1 and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        content = _open_msgpack(path)
    else:
        got = "an empty file" if not head else f"one that begins with {head[:8]!r}"
        raise ValueError(f"File mismatch: expected {path} as a file of {KNOWN}, got {got}.")
    # Views may claim any size.
    _require_bound(path, sum(_bytes_of(array) for array in content.arrays.values()))
    return content


def _bytes_of(array: Any) -> int:
    size = 1
    for length in array.shape:
        size *= int(length)
    return size * getattr(array.dtype, "itemsize", 8)


def _require_bound(path: Path, unpacked: int) -> None:
    packed = path.stat().st_size
    if unpacked > ALWAYS + RATIO * packed:
        raise ValueError(
            f"File mismatch: expected {path} to unpack to at most {RATIO} times its size, got {unpacked} "
            f"bytes in {packed}."
        )


def _package(name: str, path: Path, install: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Package missing: expected {name} to be installed for {path}, got none. Do pip install "
            f"{install}."
        ) from error


def _damaged(path: Path, form: str, error: Exception) -> ValueError:
    return ValueError(
        f"File mismatch: expected {path} as a whole file of {form}, got: {str(error)[:300].rstrip('.')}."
    )


def _open_zip(path: Path) -> Content:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            _require_bound(path, sum(entry.file_size for entry in archive.infolist()))
            if "model.weights.h5" in names:
                described = {
                    name: json.loads(archive.read(name))
                    for name in ("config.json", "metadata.json")
                    if name in names
                }
                weights = archive.read("model.weights.h5")
                version = (described.get("metadata.json") or {}).get("keras_version")
                return _open_hdf5(path, weights, described.get("config.json"), version)
    except (zipfile.BadZipFile, EOFError, OSError, RecursionError, NotImplementedError) as error:
        raise _damaged(path, "arrays", error) from error
    except (json.JSONDecodeError, AttributeError) as error:
        raise _damaged(path, "Keras", error) from error
    if any(name.endswith("data.pkl") for name in names):
        script = any(name.endswith("constants.pkl") for name in names)
        return _open_pytorch(path, script=script)
    if names and all(name.endswith(".npy") for name in names):
        return _open_npz(path)
    shown = ", ".join(names[:3])
    raise ValueError(f"File mismatch: expected {path} as a file of {KNOWN}, got a zip of {shown}.")


def _open_npz(path: Path) -> Content:
    arrays, objects = {}, []
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    array = _read_npy(file, entry.file_size)
                name = entry.filename.removesuffix(".npy")
                if array is None:  # Weights are none.
                    objects.append(name)
                else:
                    arrays[name] = array
    except Exception as error:  # Damaged archives raise a dozen types.
        raise _damaged(path, "NumPy", error) from error
    if objects and not arrays:
        raise ValueError(
            f"File mismatch: expected arrays of numbers in {path}, got Python objects, which are not read, "
            f"as {objects[0]}. Save each array under a name by np.savez."
        )
    return Content("arrays", flat_arrays(arrays))


def _read_npy(file: Any, size: int) -> np.ndarray | None:
    """One array of an archive; None for Python objects. A header may claim any shape."""
    read = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
    version = read_magic(file)
    if version not in read:
        raise ValueError(f"the version {version} of a .npy file")
    shape, by_columns, dtype = read[version](file)
    if dtype.hasobject:
        return None
    count = math.prod(shape)
    if count * dtype.itemsize > size or len(shape) > 32:
        raise ValueError(f"an array {show_shape(shape)} of {dtype} in {size} bytes")
    array = np.frombuffer(file.read(count * dtype.itemsize), dtype, count)
    return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)


def _open_hdf5(path: Path, data: bytes, configuration: Any = None, version: Any = None) -> Content:
    h5py = _package("h5py", path, "'lstm-jax[keras]'")
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            limit = ALWAYS + RATIO * path.stat().st_size
            arrays, configuration, found = read_hdf5(file, configuration, limit)
    except Exception as error:  # Damaged files raise a dozen types.
        raise _damaged(path, "HDF5", error) from error
    version = found or version
    settings = configured_layers(configuration) if configuration else {}
    return Content("arrays", arrays, settings, version if isinstance(version, str) else None)


def _open_pytorch(path: Path, *, script: bool = False) -> Content:
    if script:
        raise ValueError(
            f"File mismatch: expected weights in {path}, got a TorchScript program, which is not run. Do "
            "torch.jit.load(path), where you trust it, and pass the module."
        )
    torch = _package("torch", path, "'lstm-jax[pytorch]'")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # Unpicklers raise a dozen types.
        if _is_quantised(path):
            raise ValueError(
                f"File mismatch: expected {path} with weights as arrays, got a quantised model, whose "
                "weights are packed. Load the model that it was made from."
            ) from error
        if "weights_only" in str(error) or type(error).__name__ == "UnpicklingError":
            advice = "torch.load(path, weights_only=False) and pass its state dict"
            if not _is_pytorchs(path):
                advice = "pickle.load and pass the arrays"
            raise ValueError(
                f"File mismatch: expected tensors and plain values in {path}, got a pickle that needs more, "
                f"and no pickle runs code here. Where you trust it, load it by {advice}. PyTorch says: "
                f"{_reason(error)}."
            ) from error
        raise _damaged(path, "PyTorch", error) from error
    if not isinstance(loaded, (Mapping, list, tuple)):
        loaded = {"": loaded}
    return Content(
        "arrays", flat_arrays({"": loaded} if not isinstance(loaded, Mapping) else loaded)
    )


def _is_pytorchs(path: Path) -> bool:
    """Whether PyTorch wrote a file, as an archive or, before 1.6, behind a number of its own."""
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(len(BEFORE_1_6)) == BEFORE_1_6


def _is_quantised(path: Path) -> bool:
    """Whether a checkpoint that was not read names what quantised modules of PyTorch hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            texts = [archive.read(name) for name in pickles]
    except Exception:  # Not an archive, or damaged: other messages say so.
        return False
    words = (b"_packed_params", b"_all_weight_values", b"torch.ao.nn.quantized")
    return any(word in text for word in words for text in texts)


def _reason(error: Exception) -> str:
    """The line of PyTorch's message that names what it refuses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line or "nsupported" in line]
    return (named or lines or ["nothing"])[0].split(". Please")[0][:200].rstrip(".")


def _is_safetensors(head: bytes, size: int) -> bool:
    length = int.from_bytes(head[:8], "little")
    return len(head) > 8 and head[8:9] == b"{" and length <= size - 8


def _open_safetensors(path: Path) -> Content:
    import safetensors

    from lstm_jax.weights.safetensors import DTYPES, FORMAT

    data = path.read_bytes()
    try:
        tensors = safetensors.deserialize(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise _damaged(path, "safetensors", error) from error
    if (header.get("__metadata__") or {}).get("format") == FORMAT:
        return Content("own")
    arrays = {}
    for name, tensor in tensors:
        # Others are no weights.
        if tensor["dtype"] in DTYPES:
            array = np.frombuffer(bytes(tensor["data"]), DTYPES[tensor["dtype"]])
            arrays[name] = array.reshape(tensor["shape"])
    return Content("arrays", flat_arrays(arrays))


def _open_msgpack(path: Path) -> Content:
    from flax import serialization

    try:
        return Content("arrays", flat_arrays(serialization.msgpack_restore(path.read_bytes())))
    except Exception as error:  # Damaged files raise a dozen types.
        raise _damaged(path, "Flax", error) from error
