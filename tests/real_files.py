"""Trained networks in packages of others: each layer is loaded and compared with an independent computation.

    python -m tests.real_files

It needs PyPI, h5py and PyTorch, and takes a minute; pytest does not collect it. Four packages are downloaded
without what they depend on into a temporary folder and unpacked, and none is imported. The outputs of every
layer are within 1e-5 of PyTorch's or of a NumPy loop's: over 5 steps in float32, and over 50 steps where both
compute in float64 with the weights of the file.

Over 50 steps in float32 textgenrnn's layers amplify rounding errors: two float32 programs differ by 1e-5 to
2e-4 there, NumPy's loop in float32 and its loop in float64 as well.
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tests.numpy_loops import cudnn_lstm, keras_lstm, pytorch_gru

import lstm_jax
from lstm_jax import weights

PACKAGES = {
    "resemblyzer": ("Resemblyzer==0.1.4", "*/pretrained.pt"),
    "g2p_en": ("g2p-en==2.1.0", "*/checkpoint20.npz"),
    "textgenrnn": ("textgenrnn==2.0.0", "*/*/*.hdf5"),
    "chars2vec": ("chars2vec==0.1.7", "*/*/trained_models/*/weights.h5"),
}
"""What pip downloads, and which files in it hold a trained network."""
LAYERS = {"resemblyzer": 1, "g2p_en": 2, "textgenrnn": 2, "chars2vec": 10}
"""How many recurrent layers each package holds, stacked ones as one."""
SHORT, LONG, MOST = 5, 50, 1e-5


def fetched(requirement: str, folder: Path) -> Path:
    """Download a package with pip, without its dependencies, and unpack its archive."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), requirement], check=True)
    target = folder / "unpacked"
    for archive in folder.glob("*.whl"):
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(target)
    for archive in folder.glob("*.tar.gz"):
        with tarfile.open(archive) as opened:
            opened.extractall(target, filter="data")
    return target


def of_pytorch(path: Path, name: str, xs: np.ndarray) -> np.ndarray:
    """PyTorch's own outputs, in the dtype of xs."""
    import torch

    state = torch.load(path, weights_only=True, map_location="cpu")["model_state"]
    own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
    sizes = own["weight_ih_l0"].shape[1], own["weight_hh_l0"].shape[1]
    module = torch.nn.LSTM(*sizes, num_layers=sum(k.startswith("weight_ih") for k in own))
    module.load_state_dict(own)
    module.to(torch.tensor(xs).dtype)
    with torch.no_grad():
        return module(torch.tensor(xs))[0].numpy()


def of_npz(path: Path, name: str, xs: np.ndarray) -> np.ndarray:
    """The loop in the package's own words."""
    with np.load(path) as file:
        arrays = [
            file[f"{name}_{part}"].astype(xs.dtype) for part in ("w_ih", "w_hh", "b_ih", "b_hh")
        ]
    return pytorch_gru(xs, *arrays)


def of_keras(path: Path, name: str, xs: np.ndarray) -> np.ndarray:
    """Keras's LSTM with sigmoid, or cuDNN's where the bias is as long."""
    import h5py

    with h5py.File(path) as file:
        group = file[f"{name}/{name}"]
        parts = ("kernel:0", "recurrent_kernel:0", "bias:0")
        arrays = [group[part][()].astype(xs.dtype) for part in parts]
    loop = cudnn_lstm if len(arrays[2]) == 8 * len(arrays[1]) else keras_lstm
    return loop(xs, *arrays)


Computed = Callable[[Path, str, np.ndarray], np.ndarray]
COMPUTED: dict[str, Computed] = {
    "resemblyzer": of_pytorch,
    "g2p_en": of_npz,
    "textgenrnn": of_keras,
    "chars2vec": of_keras,
}


def difference(
    net: Any, params: Any, xs: np.ndarray, compute: Computed, path: Path, name: str
) -> float:
    """The largest difference of the outputs."""
    ys = lstm_jax.unroll_stack(net, params, jnp.asarray(xs))[1]
    return float(np.abs(np.asarray(ys) - compute(path, name, xs)).max())


def compared(package: str, folder: Path) -> list[tuple[str, Any, float, float]]:
    """``(file, layer, largest difference in float32, in float64)`` for every layer in an unpacked package."""
    rng = np.random.default_rng(0)
    rows = []
    for path in sorted(folder.glob(PACKAGES[package][1])):
        for layer in weights.recurrent_layers(path):
            net, params = layer.load()
            xs = rng.standard_normal((LONG, layer.input_size)).astype("f")
            short = difference(net, params, xs[:SHORT], COMPUTED[package], path, layer.name)
            with jax.enable_x64(True):
                wide = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
                wide = jax.tree.map(jnp.asarray, wide)
                xs = xs.astype(float)
                long = difference(net, wide, xs, COMPUTED[package], path, layer.name)
            rows.append((str(path.relative_to(folder)), layer, short, long))
    return rows


def main() -> int:
    """Print a line for each layer; 1 if one is missing or differs."""
    bad = 0
    for package, (requirement, _) in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows = compared(package, fetched(requirement, Path(folder)))
        print(f"{requirement}: {len(rows)} layers")
        for file, layer, short, long in rows:
            words = (
                f"{layer.kind} {layer.input_size} -> {layer.hidden_size}, {layer.layers} stacked"
            )
            print(f"  {file}  {layer.name}: {words}")
            print(f"    difference {short:.1e} in float32, {long:.1e} in float64")
            for assumed in layer.assumed:
                print(f"    assumed: {assumed}")
            bad += not (short <= MOST and long <= MOST)
        bad += len(rows) != LAYERS[package]
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
