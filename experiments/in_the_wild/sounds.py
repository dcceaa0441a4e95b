r"""Synthetic speech and music, and the frames of them that networks are given.

    speech    harmonics k f_0(t) of a gliding pitch, as loud as three gliding formants say; noise; pauses
    music     drums on the beats, and chords that change with the bar

Axes: waves[samples]; frames[T, bands].
"""

from typing import NamedTuple

import numpy as np

VOWELS = np.asarray(
    [
        [730, 1090, 2440],
        [530, 1840, 2480],
        [270, 2290, 3010],
        [570, 840, 2410],
        [300, 870, 2240],
        [660, 1720, 2410],
    ],
    float,
)
"""Formants of six English vowels in hertz, those of men in Peterson & Barney 1952."""
LOUDNESS = 0.05
"""Root mean square of a wave."""


def speech(rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """A voice that babbles: its pitch and the size of its throat are the sample's own."""
    count = int(seconds * rate)
    time = np.arange(count) / rate
    times, vowels, loud, hiss = [0.0], [VOWELS[0]], [0.0], [0.0]
    while times[-1] < seconds:
        vowel = VOWELS[rng.integers(len(VOWELS))]
        pause = rng.random() < 0.12
        for share, level, noise in (
            (0.25, 0.2, rng.choice([0, 0.5])),
            (0.5, 1.0, 0.0),
            (0.25, 0.3, 0.0),
        ):
            times.append(times[-1] + share * rng.uniform(0.12, 0.3))
            vowels.append(vowel)
            loud.append(0.0 if pause else level)
            hiss.append(0.0 if pause else noise)
    formants = rng.uniform(0.9, 1.2) * np.stack(vowels)
    pitch = rng.uniform(90, 230) * np.exp(0.15 * rng.standard_normal(len(times)))
    phase = 2 * np.pi * np.cumsum(np.interp(time, times, pitch)) / rate
    glided = [np.interp(time, times, formants[:, n]) for n in range(3)]
    wave = np.zeros(count)
    f_0 = np.interp(time, times, pitch)
    for k in range(1, 40):
        tone = sum(1 / (1 + ((k * f_0 - f) / (50 + 0.05 * f)) ** 2) for f in glided)
        wave += np.where(k * f_0 < rate / 2, tone / k**0.5, 0) * np.sin(k * phase)
    wave *= np.interp(time, times, loud)
    rough = np.diff(rng.standard_normal(count + 1))
    wave += 0.3 * np.interp(time, times, hiss) * rough + 1e-3 * rng.standard_normal(count)
    return LOUDNESS * wave / np.sqrt(np.mean(wave**2))


def music(rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """Four beats to the bar at a tempo of the sample's own."""
    count = int(seconds * rate)
    beat = 60 / rng.uniform(90, 150)
    wave = 1e-3 * rng.standard_normal(count)
    root = 110 * 2 ** (rng.integers(12) / 12)
    for number, start in enumerate(np.arange(0, seconds, beat / 2)):
        first = int(start * rate)
        t = np.arange(min(count - first, int(0.4 * rate))) / rate
        if number % 2 == 0:
            low = np.sin(2 * np.pi * (50 * t + 4 * (1 - np.exp(-30 * t)))) * np.exp(-12 * t)
            snare = rng.standard_normal(len(t)) * np.exp(-25 * t) * (number % 4 == 2)
            wave[first : first + len(t)] += low + 0.6 * snare
        wave[first : first + len(t)] += 0.2 * rng.standard_normal(len(t)) * np.exp(-80 * t)
        if number % 8 == 0:
            chord = root * 2 ** (np.asarray([0, 4, 7]) / 12 + rng.integers(-5, 6) / 12)
            long = np.arange(min(count - first, int(4 * beat * rate))) / rate
            tones = sum(np.sin(2 * np.pi * k * f * long) / k for f in chord for k in (1, 2, 3))
            wave[first : first + len(long)] += 0.3 * tones * np.exp(-long)
    return LOUDNESS * wave / np.sqrt(np.mean(wave**2))


def magnitudes(wave: np.ndarray, size: int, hop: int, window: np.ndarray) -> np.ndarray:
    """|STFT| [T, size // 2 + 1], each frame centred on a multiple of ``hop``."""
    padded = np.pad(wave, size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return np.abs(np.fft.rfft(frames * window, axis=1))


class Mel(NamedTuple):
    """Frames of mel bands: ``rate`` in hertz, ``size`` and ``hop`` in samples."""

    rate: int
    size: int
    hop: int
    bands: int

    def of(self, wave: np.ndarray) -> np.ndarray:
        """Power in mel bands [T, bands], not its logarithm, as librosa's ``melspectrogram`` by default."""
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.size) / self.size)
        power = magnitudes(wave, self.size, self.hop, window) ** 2
        return power @ self.filters().T

    def filters(self) -> np.ndarray:
        """Triangles of equal area on Slaney's scale, [bands, size // 2 + 1]."""
        edges = _hertz(np.linspace(0, _mel(self.rate / 2), self.bands + 2))
        bins = np.fft.rfftfreq(self.size, 1 / self.rate)
        rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
        falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
        return np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]


def _mel(hertz: float) -> float:
    """Slaney's scale: linear to 1000 Hz, logarithmic from there."""
    linear = hertz * 3 / 200
    return linear if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def log_bands(wave: np.ndarray, rate: int, size: int, hop: int, per_octave: int) -> np.ndarray:
    """log₁₀(1 + magnitude) in logarithmic bands beside its rises since the frame before, [T, 2 · bands].

    As madmom's filtered logarithmic spectrogram with ``norm_filters`` from 30 to 17,000 Hz. By
    BeatNet's constants the window is at half its height one frame from its centre.
    """
    bins = np.arange(size // 2) * rate / size
    filters = _octave_filters(bins, per_octave)
    spectrum = magnitudes(wave, size, hop, np.hanning(size))[:, : len(bins)]
    logs = np.log10(1 + spectrum @ filters)
    rises = np.maximum(0, np.diff(logs, axis=0, prepend=logs[:1]))
    return np.concatenate([logs, rises], axis=1)


def _octave_filters(bins: np.ndarray, per_octave: int) -> np.ndarray:
    """Triangles between the bins nearest to tones of A = 440 Hz, each of sum 1, [bins, bands]."""
    low = np.floor(np.log2(30 / 440) * per_octave)
    high = np.ceil(np.log2(17000 / 440) * per_octave)
    tones = 440 * 2 ** (np.arange(low, high) / per_octave)
    tones = tones[(tones >= 30) & (tones <= 17000)]
    right = np.clip(np.searchsorted(bins, tones), 1, len(bins) - 1)
    nearest = np.unique(right - (tones - bins[right - 1] < bins[right] - tones))
    filters = np.zeros((len(bins), len(nearest) - 2))
    for n, (start, centre, stop) in enumerate(zip(nearest, nearest[1:], nearest[2:], strict=False)):
        if stop - start < 2:
            centre, stop = start, start + 1
        filters[start:centre, n] = np.linspace(0, 1, centre - start, endpoint=False)
        filters[centre:stop, n] = np.linspace(1, 0, stop - centre, endpoint=False)
    return filters / filters.sum(axis=0)
