"""The tables of a run in Markdown: ratios first, then the times behind them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.competitors import JAX_PEERS, OURS, PYTORCH
from benchmarks.ratios import (
    Ratio,
    Summary,
    fastest_over_ours,
    least_seconds,
    median_seconds,
    ratios,
    summary,
)

NOTHING = "–"
FASTEST = "fastest in JAX"
Case = Mapping[str, Any]


def render(results: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """All tables of a run, finished or not."""
    parts = results["parts"]
    rates = best_rates(parts.get("matmul", []))
    blocks = [_heading(results, environment, rates, bandwidths(parts.get("bandwidth", [])))]
    unrolls = parts.get("unroll", [])
    if unrolls:
        blocks += _unroll_tables(unrolls, rates)
    if parts.get("latency"):
        blocks += _latency_tables(parts["latency"])
    if parts.get("training"):
        blocks += _training_tables(parts["training"])
    for name, title in (("jacobians", "Jacobian norms"), ("memory", "A very long unroll")):
        blocks += [f"## {title}"] * bool(parts.get(name))
        blocks += [_case_table(case) for case in parts.get(name, [])]
    if parts.get("kernels"):
        blocks += _kernel_tables(parts["kernels"])
    return "\n\n".join(blocks)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column flush left, the others flush right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best_rates(matmul: Sequence[Case]) -> dict[str, float]:
    """Operations a second of the fastest matrix product that was timed, by precision."""
    rates: dict[str, float] = {}
    for case in matmul:
        for entry in case["entries"].values():
            if entry["rounds"]:
                rate = case["flops"] / least_seconds(entry["rounds"])
                rates[_precision(case)] = max(rate, rates.get(_precision(case), 0.0))
    return rates


def bandwidths(cases: Sequence[Case]) -> dict[str, float]:
    """Bytes a second of each level of memory that was timed, by its name."""
    return {
        case["case"]["level"]: max(
            case["case"]["bytes"] / least_seconds(rounds) for rounds in timed
        )
        for case in cases
        if (timed := [e["rounds"] for e in case["entries"].values() if e["rounds"]])
    }


def _precision(case: Case) -> str:
    # Results from before there was a choice do not say.
    return str(case.get("case", {}).get("precision", "float32"))


def _heading(
    results: Mapping[str, Any],
    environment: Mapping[str, Any],
    rates: Mapping[str, float],
    speeds: Mapping[str, float],
) -> str:
    packages = ", ".join(f"{name} {found}" for name, found in environment["packages"].items())
    lines = [
        f"# Benchmarks, {environment['date']}",
        "",
        f"{environment['processor']}, {environment['cores_allowed']} cores of "
        f"{environment['cores']}, {environment['memory_gib']} GiB; {environment['threads']} threads "
        f"for each competitor; {environment['system']}; Python {environment['python']}; {packages}.",
    ]
    load = environment["load_at_start"]
    if load > 0.5:
        lines += ["", f"**The machine was not idle when this began: its load was {load:.1f}.**"]
    if results.get("settings", {}).get("device") == "gpu":
        lines[2] = f"Computed on a GPU, {environment.get('gpu') or 'unnamed'}. {lines[2]}"
    if rates:
        told = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in rates.items())
        lines[2] += f" Best matrix product: {told}."
    if speeds:
        told = ", ".join(f"{speed / 1e9:.0f} GB/s in {level}" for level, speed in speeds.items())
        lines[2] += f" Bandwidth: {told}."
    if not results.get("finished"):
        lines += ["", "**Not finished: these are the cases measured so far.**"]
    if results.get("settings", {}).get("quick"):
        lines += ["", "**A quick run on tiny shapes: its times mean nothing.**"]
    return "\n".join(lines)


def _unroll_tables(cases: Sequence[Case], rates: Mapping[str, float]) -> list[str]:
    names = list(dict.fromkeys(name for case in cases for name in case["entries"]))
    others = [name for name in names if name != OURS]
    sheet = partial(_sheet, cases, "cell T,B,D,H pass")
    blocks = [
        "## Unroll",
        sheet(
            f"Time over that of {OURS}: above 1, {OURS} is faster (median over rounds, quartiles)",
            others,
            _ratio_to_ours,
        ),
        _means(cases, others),
        sheet("Milliseconds: median / minimum", names, _cell(_milliseconds)),
        sheet(
            "GFLOP/s in the matrix products" + (", share of the best product" if rates else ""),
            names,
            lambda case, name: _rate(case, case["entries"].get(name), rates.get(_precision(case))),
        ),
        sheet("Seconds to trace and compile / of the first run", names, _cell(_compile)),
        sheet(
            "Peak memory in MB, of the process / of it beyond what was there before the run; of a GPU, "
            "all that was taken there",
            names,
            _cell(_peak),
        ),
    ]
    return blocks + _failures(cases)


def _sheet(
    cases: Sequence[Case],
    first: str,
    title: str,
    columns: Sequence[str],
    cell: Callable[[Case, str], str],
) -> str:
    rows = [[case["title"], *(cell(case, name) for name in columns)] for case in cases]
    return f"### {title}\n\n" + table([first, *columns], rows)


def _ratio_to_ours(case: Case, name: str) -> str:
    return _show_ratio(ratios(case).get(name), case["entries"].get(name))


def _latency_tables(cases: Sequence[Case]) -> list[str]:
    names = list(dict.fromkeys(name for case in cases for name in case["entries"]))
    sheet = partial(_sheet, cases, "B = 1, D = 32")

    def fastest(case: Case, name: str) -> str:
        over = [ratios(case)[n].median for n in JAX_PEERS if n in ratios(case)]
        return f"**{min(over):.2f}**" if name == FASTEST and over else _ratio_to_ours(case, name)

    return [
        "## Latency of a stream",
        sheet(
            f"Time over that of {OURS} (median over rounds, quartiles)",
            [FASTEST, *(name for name in names if name != OURS)],
            fastest,
        ),
        sheet("Microseconds: median / minimum", names, _cell(_microseconds)),
        *_failures(cases),
    ]


def _training_tables(cases: Sequence[Case]) -> list[str]:
    rows = []
    for case in cases:
        found = ratios(case)
        for name, entry in case["entries"].items():
            if not entry["rounds"]:
                rows.append([case["title"], name, short_status(entry["status"]), *[NOTHING] * 3])
                continue
            seconds = median_seconds(entry["rounds"])
            rate = f"{case['case']['tokens'] / seconds:,.0f}"
            shown = _show_ratio(found.get(name), entry)
            rows.append([case["title"], name, rate, shown, _milliseconds(entry), _compile(entry)])
    header = ["model", "", "tokens/s", f"time over {OURS}", "ms a step", "compile / first s"]
    return ["## Steps of training", table(header, rows), *_failures(cases)]


def _means(cases: Sequence[Case], others: Sequence[str]) -> str:
    """Over the cases of a cell and a pass, mean and lowest: the fastest peer in JAX, and each competitor."""
    columns = ["cases", FASTEST, *others, f"most seconds to compile {OURS}"]
    kinds: dict[tuple[str, ...], list[Case]] = {}
    for case in cases:
        told = case["case"]
        kinds.setdefault((told["cell"].upper(), told["pass_"], _precision(case)), []).append(case)
    several = len({precision for *_, precision in kinds}) > 1
    rows = []
    for (cell, kind, precision), chosen in kinds.items():
        found = [ratios(case) for case in chosen]
        name = f"{cell} {kind}, {precision}" if several else f"{cell} {kind}"
        fastest = _show_summary(summary(fastest_over_ours(chosen, JAX_PEERS)), "**")
        shown = [
            _show_summary(summary([here[other].median for here in found if other in here]))
            for other in others
        ]
        compiled = [
            e["compile_s"] for c in chosen if (e := c["entries"].get(OURS, {})).get("rounds")
        ]
        most = f"{max(compiled):.2f}" if compiled else NOTHING
        rows.append([name, str(len(chosen)), fastest, *shown, most])
    return (
        f"### Geometric mean over the cases, and the lowest, of the time over that of {OURS}\n\n"
        + table(["cell pass", *columns], rows)
        + f"\n\nThe fastest in JAX is chosen anew for each case; {PYTORCH} is not among them. A mean is "
        "over the cases that the competitor has."
    )


def _show_summary(found: Summary | None, around: str = "") -> str:
    if found is None:
        return NOTHING
    return f"{around}{found.mean:.2f}{around} ({found.lowest:.2f})"


def _kernel_tables(cases: Sequence[Case]) -> list[str]:
    names = list(dict.fromkeys(name for case in cases for name in case["entries"]))

    def sheet(title: str, show: Callable[[Case, Mapping[str, Any]], str]) -> str:
        rows = []
        for case in cases:
            row = [case["title"]]
            for name in names:
                entry = case["entries"].get(name, {"status": "ok"})
                row.append(
                    show(case, entry) if "launches" in entry else short_status(entry["status"])
                )
            rows.append(row)
        return f"### {title}\n\n" + table(["cell T,B,D,H pass", *names], rows)

    def a_step(case: Case, entry: Mapping[str, Any]) -> str:
        return f"{entry['launches'] / case['case']['shape']['time']:.1f}"

    return [
        "## Kernels, compiled for an H100 without one",
        sheet("Kernels launched for a time step", a_step),
        sheet("Temporary memory in MB", lambda case, entry: f"{entry['temporary_mb']:.3g}"),
        sheet("Seconds to trace and compile", lambda case, entry: f"{entry['compile_s']:.1f}"),
    ]


def _case_table(case: Case) -> str:
    found = ratios(case)
    rows = []
    for name, entry in case["entries"].items():
        if not entry["rounds"]:
            rows.append([name, entry["status"], *[NOTHING] * 5])
            continue
        rows.append(
            [
                name,
                _show_ratio(found.get(name), entry),
                f"{median_seconds(entry['rounds']):.3g}",
                f"{least_seconds(entry['rounds']):.3g}",
                f"{entry['compile_s']:.3g}",
                _peak(entry),
                str(len(entry["rounds"])),
            ]
        )
    header = [
        "",
        f"over {case['ours']}",
        "median s",
        "minimum s",
        "compile s",
        "peak / beyond MB",
        "rounds",
    ]
    blocks = [f"### {case['title']}", table(header, rows), *_failures([case], begun_only=True)]
    return "\n\n".join(blocks)


def _cell(show: Callable[[Mapping[str, Any]], str]) -> Callable[[Case, str], str]:
    def cell(case: Case, name: str) -> str:
        entry = case["entries"].get(name)
        return NOTHING if entry is None or not entry["rounds"] else show(entry)

    return cell


def _show_ratio(value: Ratio | None, entry: Mapping[str, Any] | None) -> str:
    if value is None:
        return NOTHING if entry is None else short_status(entry["status"])
    if value == (1.0, 1.0, 1.0):
        return "1"
    return f"{value.median:.2f} ({value.lower:.2f}–{value.upper:.2f})"


def short_status(status: str) -> str:
    """The words of a status before its details: ``not installed``, ``failed``, ``died``."""
    if status == "ok":
        return NOTHING
    return status.split(":")[0].split(" (")[0]


def _failures(cases: Sequence[Case], *, begun_only: bool = False) -> list[str]:
    told: dict[str, list[str]] = {}
    for case in cases:
        for name, entry in case["entries"].items():
            if entry["status"] != "ok" and (entry["rounds"] or not begun_only):
                told.setdefault(f"{name}: {entry['status']}", []).append(case["title"])
    lines = [f"- {what} — {len(where)} of {len(cases)} cases" for what, where in told.items()]
    return ["### Not, or not wholly, timed\n\n" + "\n".join(lines)] if lines else []


def _milliseconds(entry: Mapping[str, Any]) -> str:
    rounds = entry["rounds"]
    return f"{1e3 * median_seconds(rounds):.3g} / {1e3 * least_seconds(rounds):.3g}"


def _microseconds(entry: Mapping[str, Any]) -> str:
    rounds = entry["rounds"]
    return f"{1e6 * median_seconds(rounds):.3g} / {1e6 * least_seconds(rounds):.3g}"


def _rate(case: Case, entry: Mapping[str, Any] | None, rate: float | None) -> str:
    if entry is None or not entry["rounds"]:
        return NOTHING
    reached = case["flops"] / median_seconds(entry["rounds"])
    share = "" if rate is None else f", {reached / rate:.0%}"
    return f"{reached / 1e9:.1f}{share}"


def _compile(entry: Mapping[str, Any]) -> str:
    return f"{entry['compile_s']:.2f} / {entry['first_s']:.3f}"


def _peak(entry: Mapping[str, Any]) -> str:
    base = entry.get("base_mb")
    beyond = "" if base is None else f" / {max(entry['peak_mb'] - base, 0):.0f}"
    return f"{entry['peak_mb']:.0f}{beyond}"
