"""What each network is fed: what it was made for, through its own embedding or convolution.

Each function takes the file of the network, its arrays by name, how many steps and samples, and a generator;
it gives xs[T, samples, D]. Samples differ: in their text, their voice, their tune or their draw.

Axes: codes[T, samples]; xs[T, samples, D]; a signal through a convolution is [channels, positions].
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.in_the_wild.packages import file_of
from experiments.in_the_wild.sounds import Mel, log_bands, music, speech
from lstm_jax.language import embedded_text

AMINO_ACIDS = "lasevgkidtrpnqfyhmcw"
"""In the order of asmscan's tokenizer, which counts from 1."""
ACIDS_COUNTED = (
    (1710018, 1378166, 1329956, 1216540, 1147589, 1113989, 1062853, 1015870, 956213, 945958)
    + (931036, 856469, 773356, 717585, 685967, 515108, 385471, 352520, 241345, 185169)
)  # fmt: skip
"""How often each was in its training set, by the same tokenizer."""

ARABIC = "ءآأؤإئابةتثجحخدذرزسشصضطظعغـفقكلمنهوي" + " .,،؛:؟!()-\"'\n"
"""The diacritizer's letters and marks, numbered from 4 after padding, unknown, begin and end."""

PERSIAN = "ءآئابتثجحخدذرزسشصضطظعغفقلمنهوُِپچژکگی"
"""The letters of g2p_fa, numbered from 3 after padding, start and end."""
PERSIAN_WORDS = (
    "سلام کتاب خانه درخت آسمان زمین دریا کوه شهر دانشگاه مدرسه معلم دوست پدر مادر "
    "برادر خواهر فرزند زندگی مردم کشور زبان فارسی نوشتن خواندن شنیدن دیدن رفتن آمدن "
    "گفتن پرسیدن بزرگ کوچک زیبا روشن تاریک سفید سیاه سبز آبی قرمز بهار تابستان پاییز "
    "زمستان خورشید ماه ستاره باران برف باد آتش چراغ پنجره دیوار اتاق میز صندلی گربه "
    "پرنده اسب ماهی گوسفند نان پنیر چای میوه سیب انگور گیلاس هندوانه"
).split()
PERSIAN_LENGTH = 30
"""To which g2p_fa pads a word."""


class Wanted(NamedTuple):
    """A network's file and arrays, and how much of what is wanted."""

    file: Path
    arrays: Mapping[str, Any]
    steps: int
    samples: int
    rng: np.random.Generator

    def array(self, name: str) -> np.ndarray:
        """The array whose name ends so."""
        (found,) = (key for key in self.arrays if key.endswith(name))
        return np.asarray(self.arrays[found], np.float32)


def resemblyzer(want: Wanted) -> np.ndarray:
    """Mel frames of 25 ms every 10 ms at 16 kHz, 40 bands."""
    mel = Mel(16000, 400, 160, 40)
    waves = (speech(want.rng, want.steps / 100 + 0.1, mel.rate) for _ in range(want.samples))
    return _stacked(want, map(mel.of, waves))


def silero_vad(want: Wanted) -> np.ndarray:
    """Pieces of 32 ms with the 4 ms before them, through the network's own convolutions."""
    rows = []
    for _ in range(want.samples):
        wave = speech(want.rng, (want.steps + 2) * 512 / 16000, 16000)
        before = np.pad(wave, (64, 0))
        pieces = [before[n * 512 : n * 512 + 576] for n in range(want.steps)]
        rows.append(np.stack([_silero_encoder(want, piece) for piece in pieces]))
    return _stacked(want, rows)


def _silero_encoder(want: Wanted, piece: np.ndarray) -> np.ndarray:
    parts = convolved(
        np.pad(piece, (0, 64), mode="reflect")[None], want.array("stft_conv.weight"), 128
    )
    half = len(parts) // 2
    x = np.sqrt(parts[:half] ** 2 + parts[half:] ** 2)
    for number, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        kernel, bias = (want.array(f"conv{number}.{part}") for part in ("weight", "bias"))
        x = np.maximum(convolved(np.pad(x, ((0, 0), (1, 1))), kernel, stride) + bias[:, None], 0)
    return x[:, 0]


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """[channels, positions] through a kernel [out, channels, width], without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2], axis=1)[:, ::stride]
    return np.asarray(np.einsum("cpw,ocw->op", windows, kernel))


def beatnet(want: Wanted) -> np.ndarray:
    """Frames of 64 ms every 20 ms at 22,050 Hz, 24 bands an octave, through the network's own convolution."""
    rate, size, hop = 22050, 1411, 441
    kernel, bias = want.array("conv1.weight"), want.array("conv1.bias")
    weight, b_0 = want.array("linear0.weight"), want.array("linear0.bias")
    rows = []
    for _ in range(want.samples):
        wave = music(want.rng, (want.steps + 2) * hop / rate, rate)
        frames = log_bands(wave, rate, size, hop, 24)[: want.steps]
        x = np.stack([np.maximum(convolved(f[None], kernel, 1) + bias[:, None], 0) for f in frames])
        x = x[..., : x.shape[-1] // 2 * 2].reshape(*x.shape[:2], -1, 2).max(-1)
        rows.append(x.reshape(len(x), -1) @ weight.T + b_0)
    return _stacked(want, rows)


def textgenrnn(want: Wanted) -> np.ndarray:
    """Prose by the vocabulary beside the weights."""
    path = want.file.with_name("textgenrnn_vocab.json")
    numbers = json.loads(path.read_text("utf-8"))
    codes = _pieces(want, [numbers[c] for c in prose() if c in numbers])
    return want.array("embedding.embeddings")[codes]


def chars2vec(want: Wanted) -> np.ndarray:
    """Letters of words, one-hot: 33 signs stand before the letter a."""
    codes = _pieces(want, [ord(c) - ord("a") + 33 for word in words() for c in word])
    return np.eye(59, dtype=np.float32)[codes]


def g2p_en(want: Wanted) -> np.ndarray:
    """Letters of words, numbered from 3, and 2 at the end of each."""
    numbers = (n for word in words() for n in (*(ord(c) - ord("a") + 3 for c in word), 2))
    return want.array("enc_emb")[_pieces(want, list(numbers))]


def g2p_fa(want: Wanted) -> np.ndarray:
    """Words between 1 and 2, padded to 30."""
    columns = []
    for _ in range(want.samples):
        chosen = want.rng.permutation(PERSIAN_WORDS)
        column: list[int] = []
        for word in np.resize(chosen, 1 + want.steps // PERSIAN_LENGTH):
            row = [1, *(PERSIAN.index(c) + 3 for c in word), 2]
            column += row + [0] * (PERSIAN_LENGTH - len(row))
        columns.append(column[: want.steps])
    return want.array("encoder.embedding.weight")[np.stack(columns, axis=1)]


def diacritizer(want: Wanted) -> np.ndarray:
    """The longest sentences of the package's own cache, one after another."""
    path = file_of(want.file.parent, "word_cache.json.gz")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        sentences = sorted(json.load(file)["sentences"], key=lambda text: (-len(text), text))
    numbers: list[int] = []
    for sentence in sentences[:200]:
        letters = [ARABIC.index(c) + 4 if c in ARABIC else 1 for c in sentence]
        numbers += [2, *letters, 3]
    return want.array("embedding.weight")[_pieces(want, numbers)]


def languages(want: Wanted) -> np.ndarray:
    """Prose by the numbers that the file holds beside the weights."""
    import torch

    numbers = torch.load(want.file, map_location="cpu", weights_only=True)["char_to_idx"]
    codes = [numbers.get(c, len(numbers)) for c in prose()[:200_000]]
    return want.array("char_embeddings.weight")[_pieces(want, codes)]


def asmscan(want: Wanted) -> np.ndarray:
    """Amino acids at the frequencies of the training set."""
    shares = np.asarray(ACIDS_COUNTED) / sum(ACIDS_COUNTED)
    codes = 1 + want.rng.choice(len(shares), (want.steps, want.samples), p=shares)
    return want.array("embedding.embeddings")[codes]


def intrusion(want: Wanted) -> np.ndarray:
    """Connections of 76 features, each 37 steps after a convolution and the larger of every two."""
    kernel, bias = want.array("conv1d.kernel"), want.array("conv1d.bias")
    columns = []
    for _ in range(want.samples):
        parts = []
        for features in want.rng.standard_normal((1 + want.steps // 37, 76)):
            x = convolved(features[None], kernel.transpose(2, 1, 0), 1) + bias[:, None]
            x = np.maximum(x, 0)
            parts.append(x.reshape(len(x), -1, 2).max(-1).T)
        columns.append(np.concatenate(parts))
    return _stacked(want, columns)


INPUTS: dict[str, Callable[[Wanted], np.ndarray]] = {
    "resemblyzer": resemblyzer,
    "g2p_en": g2p_en,
    "textgenrnn": textgenrnn,
    "chars2vec": chars2vec,
    "silero_vad": silero_vad,
    "beatnet": beatnet,
    "asmscan": asmscan,
    "diacritizer": diacritizer,
    "g2p_fa": g2p_fa,
    "languages": languages,
    "intrusion": intrusion,
}
"""By the key of the package."""


def prose() -> str:
    """English prose with single blanks."""
    return " ".join(embedded_text().split())


def words() -> list[str]:
    """English words of two letters or more, in lower case."""
    return re.findall(r"[a-z]{2,}", prose().lower())


def _pieces(want: Wanted, numbers: list[int]) -> np.ndarray:
    """Pieces of a long sequence, from begin to end of it, as codes [T, samples]."""
    starts = np.linspace(0, len(numbers) - want.steps, want.samples).astype(int)
    return np.stack([numbers[start : start + want.steps] for start in starts], axis=1)


def _stacked(want: Wanted, rows: Iterable[np.ndarray]) -> np.ndarray:
    return np.stack([row[: want.steps] for row in rows], axis=1).astype(np.float32)
