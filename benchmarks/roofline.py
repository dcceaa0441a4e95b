"""The roofline of a run: the operations for each byte of a step, against the operations a second.

    bound(I) = min(rate of the best matrix product, I · bytes a second)

I counts every array that a step needs once, from wherever it is: a step forward reads its weights, x and h
and writes h; with gradient, the gates are written and read, the weights read once more, δz written and read.
So the intensity of a step grows with the rows of its batch, which share the weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bandwidth import CACHE, MEMORY
from benchmarks.cases import PRE_ACTIVATIONS, Case, CaseError, case_from
from benchmarks.competitors import JAX_PEERS, OURS, PYTORCH
from benchmarks.ratios import median_seconds
from benchmarks.report import FASTEST, bandwidths, best_rates

COLORS = {OURS: "#0072b2", PYTORCH: "#d55e00", FASTEST: "#767676"}


class Roofs(NamedTuple):
    """The bounds of a machine: operations a second, and bytes a second of each level."""

    flops: float
    bytes: dict[str, float]


class Point(NamedTuple):
    """One competitor on one case: operations for a byte, and operations a second."""

    name: str
    pass_: str
    intensity: float
    rate: float


def intensity(case: Case) -> float:
    """Operations of the matrix products for every byte of a step, in four-byte numbers."""
    s = case.shape
    width = PRE_ACTIVATIONS[case.cell] * s.hidden_size
    weights, rows = (s.input_size + s.hidden_size) * width, s.input_size + 2 * s.hidden_size
    numbers = weights + s.batch * rows
    if case.pass_ == "gradient":
        # Gates and δz, each written and read; x, h and their cotangents.
        numbers += weights + s.batch * (4 * width + 2 * rows)
    return case.flops / s.time / (4.0 * numbers)


def roofs(parts: Mapping[str, Sequence[Mapping[str, Any]]], threads: int) -> Roofs:
    """The bounds that a run measured; that of a core's cache times the threads, each of which has one.

    Raises:
        CaseError: a run without a matrix product or without bandwidths.
    """
    rate = best_rates(parts.get("matmul", [])).get("float32")
    found = bandwidths(parts.get("bandwidth", []))
    if rate is None or not found:
        missing = "a matrix product" if rate is None else "bandwidths"
        raise CaseError(f"No roofs: expected a run with {missing} in float32, got none.")
    return Roofs(rate, {name: b * (threads if name == CACHE else 1) for name, b in found.items()})


def points(cases: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Ours, PyTorch and the fastest of the others in JAX, on every case in float32."""
    found = []
    for told in cases:
        case = case_from(told["case"])
        if case.precision != "float32":
            continue
        seconds = {
            name: median_seconds(entry["rounds"])
            for name, entry in told["entries"].items()
            if entry["rounds"]
        }
        chosen = {name: seconds[name] for name in (OURS, PYTORCH) if name in seconds}
        peers = [seconds[name] for name in JAX_PEERS if name in seconds]
        chosen |= {FASTEST: min(peers)} if peers else {}
        found += [
            Point(name, case.pass_, intensity(case), case.flops / second)
            for name, second in chosen.items()
        ]
    return found


def draw(results: Mapping[str, Any], environment: Mapping[str, Any], out: Path) -> None:
    """Draw the roofline of a run into ``out``, whose ending says the format.

    Raises:
        CaseError: a run without unrolls or bounds.
    """
    found = points(results["parts"].get("unroll", []))
    if not found:
        raise CaseError("No unroll: expected a run with timed unrolls, got none.")
    bounds = roofs(results["parts"], environment["threads"])
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    # Without them the same figure would be another file each time.
    matplotlib.rcParams["svg.hashsalt"] = "roofline"
    metadata = {"Date": None} if out.suffix == ".svg" else None
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    axes = figure.subplots()
    ends = 0.7 * min(p.intensity for p in found), 1.6 * max(p.intensity for p in found)
    for level, style in ((MEMORY, ":"), (CACHE, "--")):
        if level not in bounds.bytes:
            continue
        rate = bounds.bytes[level]
        corner = min(max(bounds.flops / rate, ends[0]), ends[1])
        line = [min(bounds.flops, at * rate) / 1e9 for at in (ends[0], corner)]
        name = f"every core's cache, {rate / 1e9:.0f} GB/s" if level == CACHE else None
        label = name or f"{level}, {rate / 1e9:.0f} GB/s"
        axes.plot((ends[0], corner), line, style, color="#444444", lw=1.2, label=label)
    label = f"best matrix product, {bounds.flops / 1e9:.0f} GFLOP/s"
    axes.plot(ends, [bounds.flops / 1e9] * 2, color="#444444", lw=1.2, label=label)
    for name, color in COLORS.items():
        for kind, filled in (("forward", False), ("gradient", True)):
            here = [p for p in found if (p.name, p.pass_) == (name, kind)]
            axes.plot(
                [p.intensity for p in here],
                [p.rate / 1e9 for p in here],
                "o",
                ms=5.5,
                color=color,
                mfc=color if filled else "white",
                label=f"{name}, {kind}" if here else None,
            )
    axes.set(xscale="log", yscale="log", xlim=ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("operations for a byte, every array of a step counted once")
    axes.set_ylabel("GFLOP/s in the matrix products")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    axes.set_title(
        f"{environment['processor']}, {environment['threads']} threads, {environment['date'][:10]}",
        fontsize=9,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata=metadata)
