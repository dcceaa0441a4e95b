"""The figures: where each derivation goes wrong, and the measurements of each claim.

Colours are those of Okabe & Ito, told apart by colour-blind readers.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.derivation_audit.claim import Saying
from experiments.derivation_audit.derivations import Derivation
from gradient_flow import Audit

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, YELLOW = "#0072B2", "#D55E00", "#CC79A7", "#F0E442"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK, YELLOW)
VERDICTS = {"true": "#00664B", "partly true": "#8A5A00", "false": "#A03C00"}
LEAST = 1e-16
"""Where an error of 0 is drawn."""
DASHES = {
    "untrained": (0, (4, 2)),
    "as it is": (0, (4, 2)),
    "trained on adding": (0, (1, 1)),
}
LIMITS = {"exceeds": (-3.0, 1.5), "three_hundred": (-30.0, 3.0), "clipping": (1.5, 6.0)}
NAMES = {"c": "$e_C$: δC", "h": "$e_h$: δh", "v": "V", "b_y": "$b_y$"}


def draw(
    out: Path,
    derivations: Sequence[Derivation],
    audits: Mapping[str, Mapping[str, Audit]],
    sayings: Sequence[Saying],
) -> None:
    """Write ``derivations.png`` and ``sayings.png``."""
    draw_derivations(derivations, audits).savefig(out / "derivations.png", dpi=100)
    draw_sayings(sayings).savefig(out / "sayings.png", dpi=100)


def draw_derivations(
    derivations: Sequence[Derivation], audits: Mapping[str, Mapping[str, Audit]]
) -> Figure:
    """Above: the published version's error by leaf and lag. Below: the worst leaf of every version."""
    shown = [d for d in derivations if len(next(iter(audits[d.name].values())).lags) > 1]
    figure = Figure(figsize=(3.5 * len(shown), 7.6), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False, height_ratios=[1.5, 1])
    image: Any = None
    for n, derivation in enumerate(shown):
        versions = audits[derivation.name]
        # The version that shows most: of several faults, the one that is not everywhere.
        label = next((k for k in versions if k.startswith("without the sigmoid")), "published")
        found = versions[label]
        top, bottom = axes[0, n], axes[1, n]
        errors = np.array([leaf.by_lag for leaf in found.leaves])
        with np.errstate(divide="ignore"):
            decades = np.log10(np.clip(errors, LEAST, 10))
        image = top.imshow(decades, aspect="auto", cmap="magma", vmin=-16, vmax=0.5)
        top.set_xticks(range(len(found.lags)), [str(lag) for lag in found.lags])
        top.set_yticks(
            range(len(found.leaves)), [NAMES.get(leaf.name, leaf.name) for leaf in found.leaves]
        )
        title = textwrap.fill(derivation.title, 36, break_on_hyphens=False) + f"\n({label})"
        top.set_title(title, fontsize=10)
        for color, (name, version) in zip(CYCLE[1:], versions.items(), strict=False):
            right = name == "corrected"
            worst = np.max([leaf.by_lag for leaf in version.leaves], axis=0)
            bottom.semilogy(
                version.lags,
                np.clip(worst, LEAST, None),
                color=BLUE if right else color,
                marker="o",
                markersize=3.5,
                lw=1.4,
                ls="-" if name == "published" or right else "--",
                label=name,
            )
        bottom.set_ylim(LEAST / 3, 1e2)
        bottom.axhline(1e-12, color="0.6", lw=0.8, ls=":")
        bottom.set_xlabel("lag")
        bottom.legend(frameon=False, fontsize=8, loc="center right")
        bottom.spines[["top", "right"]].set_visible(False)
        for ax in (top, bottom):
            ax.tick_params(labelsize=8)
        bottom.set_xticks(version.lags)
    axes[1, 0].set_ylabel("largest relative error of any leaf")
    bar = figure.colorbar(image, ax=axes[0, :].tolist(), shrink=0.8, pad=0.01)
    bar.set_label(r"$\log_{10}$ relative error")
    return figure


def draw_sayings(sayings: Sequence[Saying]) -> Figure:
    """A panel for each saying, with its verdict."""
    columns = 2
    rows = -(-len(sayings) // columns)
    figure = Figure(figsize=(11.5, 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, saying in zip(axes, sayings, strict=False):
        _panel(ax, saying)
    for ax in axes[len(sayings) :]:
        ax.set_visible(False)
    return figure


def _panel(ax: Axes, saying: Saying) -> None:
    # One colour for each network, one dash for each stage.
    colors: dict[str, str] = {}
    for line in saying.lines:
        network, _, stage = line.label.partition(", ")
        color = colors.setdefault(network, CYCLE[len(colors)])
        ax.plot(line.x, line.y, color=color, lw=1.4, ls=DASHES.get(stage, "-"), label=line.label)
    if saying.name in LIMITS:
        ax.set_ylim(*LIMITS[saying.name])
    if saying.name == "exceeds":
        ax.axhline(0, color="0.6", lw=0.8)
    ax.set_title(
        f"“{textwrap.fill(saying.said, 56)}”: {saying.verdict}",
        fontsize=10,
        loc="left",
        color=VERDICTS[saying.verdict],
    )
    ax.set_xlabel(saying.x, fontsize=9)
    ax.set_ylabel(saying.y, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
