"""Read the Japanese Vowels data (Kudo, Toyama & Shimbo 1999; UCI, CC BY 4.0) from aeon's ``.ts`` files.

Nine speakers say /ae/: 270 utterances to train on and 370 to test on, each a sequence of 7 to 29 steps of 12
linear-prediction cepstrum coefficients.

Axes: each of the xs[N] is an utterance [T, D]; ``labels[N]`` from 0.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.running import Refusal
from lstm_jax.language.download import cache_folder

NAMES = ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")
SOURCE = "aeon-toolkit/aeon on GitHub, aeon/datasets/data/JapaneseVowels"


class Utterances(NamedTuple):
    """Labelled sequences of different lengths.

    Attributes:
        xs: N arrays [T, D].
        labels: [N], from 0.
    """

    xs: list[np.ndarray]
    labels: np.ndarray


def find(folder: Path | None) -> Path:
    """The folder of the two files: the one named, else ``japanese_vowels`` where texts are kept.

    Raises:
        Refusal: no folder, or one without the files.
    """
    if folder is None:
        folder = cache_folder() / "japanese_vowels"
    missing = [name for name in NAMES if not (folder / name).is_file()]
    if missing:
        raise Refusal(
            f"Data mismatch: expected {' and '.join(missing)} in {folder} (from {SOURCE}); name another "
            "folder with --data."
        )
    return folder


def read(path: Path) -> Utterances:
    """Read one ``.ts`` file: channels separated by colons, values by commas, the label last.

    Raises:
        Refusal: naming the line that does not fit.
    """
    found: list[np.ndarray] = []
    labels: list[int] = []
    body = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if line.lower() == "@data":
            body = True
        elif body and line:
            *channels, label = line.split(":")
            try:
                rows = [np.array(channel.split(","), np.float32) for channel in channels]
                found.append(np.stack(rows, axis=1))
                labels.append(int(label))
            except ValueError as error:
                raise Refusal(
                    f"Data mismatch: expected channels of one length and a label in line {number} of "
                    f"{path}, got {line[:60]!r}: {error}."
                ) from None
            if not np.isfinite(found[-1]).all() or found[-1].shape[1] != found[0].shape[1]:
                raise Refusal(
                    f"Data mismatch: expected {found[0].shape[1]} channels of finite values in line "
                    f"{number} of {path}, got {line[:60]!r}."
                )
    if not found:
        raise Refusal(f"Data mismatch: expected sequences after @data in {path}, got none.")
    return Utterances(found, np.array(labels, np.int32) - 1)
