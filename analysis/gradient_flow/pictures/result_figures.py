"""Draw a result of a measurement into an axis, as its ``plot`` does in a notebook.

Curves are medians over the samples, with 10 to 90 % shaded. Matplotlib's backend is left as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

LN10 = float(np.log(10))
STYLES = tuple(
    (colour, dash)
    for dash in ("-", (0, (5, 2)), (0, (1, 1.5)))
    for colour in ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
)
"""Colours of Okabe & Ito (2008); after the last, again with other dashes."""


def jacobian_curves(result: Any, ax: Axes | None) -> Axes:
    """Log-norms of `JacobianNorms` against the lag, from the latest time back."""
    curves = {}
    for block, logs in (result.spectral or result.frobenius or result.smallest).items():
        curve = np.asarray(logs)
        curves[block] = curve[..., -1, :] if len(result.times) > 1 else curve
    return _lines(result.lags, curves, ax)


def detour_curves(result: Any, ax: Axes | None, block: str | None = None) -> Axes:
    """Log-norms of `DetourNorms` against the lag, a line for each number of detours."""
    spectral = bool(result.spectral)
    norms = result.spectral if spectral else result.frobenius
    whole = result.whole_spectral if spectral else result.whole_frobenius
    block = _block(norms, block)
    terms = np.moveaxis(np.asarray(norms[block]), -1, 0)
    last = len(terms) - 1
    names = [f"{m} detours" if m < last else f"more than {last - 1}" for m in range(len(terms))]
    curves = dict(zip(names, terms, strict=True)) | {"all paths": np.asarray(whole[block])}
    return _lines(result.lags, curves, ax, title=block)


def gate_path_curves(result: Any, ax: Axes | None, block: str | None = None) -> Axes:
    """Log-norms of `GatePaths` against the lag, a line for each subset of gates."""
    norms = result.spectral or result.frobenius
    block = _block(norms, block)
    names = ["+".join(kept) or "no gate" for kept in result.kept]
    curves = dict(zip(names, np.moveaxis(np.asarray(norms[block]), -2, 0), strict=True))
    return _lines(result.lags, curves, ax, title=block)


def credit_curves(result: Any, ax: Axes | None) -> Axes:
    """Log-norms of `Credit` against the step: of each part of the state and of the input."""
    ax = _axis(ax)
    curves = dict(result.states)
    if result.inputs is not None and hasattr(result.inputs, "shape"):
        curves["x"] = result.inputs
    for (name, logs), style in zip(curves.items(), STYLES, strict=False):
        curve = np.asarray(logs)
        # States are counted from 0, inputs from 1.
        first = 1 if name == "x" else 0
        _line(ax, np.arange(first, first + curve.shape[-1]), curve, name, style)
    ax.set_xlabel("step k")
    ax.set_ylabel(r"$\log_{10}$ of the gradient's norm")
    ax.legend(frameon=False)
    return ax


def pair_map(result: Any, ax: Axes | None, block: str | None = None) -> Axes:
    """The map of `PairNorms` over all (t, k); of a batch, its first sample."""
    ax = _axis(ax)
    norms = result.spectral or result.frobenius or result.smallest
    block = _block(norms, block)
    logs = np.asarray(norms[block])
    logs = logs.reshape(-1, *logs.shape[-2:])[0] / LN10
    known = logs[np.isfinite(logs)]
    low = max(float(known.min()), -40.0) if known.size else -1.0
    image = ax.pcolormesh(
        result.starts, result.times, logs, cmap="cividis", shading="nearest", vmin=low
    )
    ax.figure.colorbar(image, ax=ax, label=r"$\log_{10}$ norm")
    ax.set_xlabel("k, the earlier step")
    ax.set_ylabel("t, the later step")
    ax.set_title(block, fontsize=10)
    return ax


def spectrum_lines(result: Any, ax: Axes | None) -> Axes:
    """The singular values of `SingularSpectrum`, a line for each lag; medians over the samples."""
    ax = _axis(ax)
    logs = np.asarray(result.log_values)
    for n, (lag, style) in enumerate(zip(result.lags, STYLES, strict=False)):
        values = logs[..., n, :]
        _line(ax, np.arange(1, values.shape[-1] + 1), values, f"lag {lag}", style)
    ax.set_xlabel("direction, the strongest first")
    ax.set_ylabel(r"$\log_{10}$ singular value")
    ax.legend(frameon=False)
    return ax


def _block(norms: Mapping[str, Any], block: str | None) -> str:
    if block is None:
        return next(iter(norms))
    if block not in norms:
        raise ValueError(
            f"Option mismatch: expected block as one of {', '.join(norms)}, got {block!r}."
        )
    return block


def _axis(ax: Axes | None) -> Any:
    return plt.subplots(layout="constrained")[1] if ax is None else ax


def _lines(lags: np.ndarray, curves: Mapping[str, Any], ax: Axes | None, title: str = "") -> Axes:
    ax = _axis(ax)
    for (name, logs), style in zip(curves.items(), STYLES, strict=False):
        _line(ax, lags, np.asarray(logs), name, style)
    ax.axhline(-3, color="0.5", linewidth=0.8, zorder=0)
    ax.set_xlabel(r"lag $t-k$ (steps)")
    ax.set_ylabel(r"$\log_{10}$ norm")
    if title:
        ax.set_title(title, fontsize=10)
    ax.legend(frameon=False)
    return ax


def _line(ax: Axes, x: Sequence[int] | np.ndarray, logs: np.ndarray, name: str, style: Any) -> None:
    """The median over all axes but the last, with a band where there are samples."""
    colour, dash = style
    curves = logs.reshape(-1, logs.shape[-1]) / LN10
    curves = np.where(np.isfinite(curves), curves, np.nan)
    low, middle, high = np.quantile(curves, [0.1, 0.5, 0.9], axis=0)
    ax.plot(x, middle, color=colour, linestyle=dash, label=name)
    if len(curves) > 1:
        ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
