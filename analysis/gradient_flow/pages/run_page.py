"""`report`: a run as one HTML page.

From the run's files to words (`verdict_words`) and numbers (`figure_numbers`, `watch_numbers`), as many as
leave the page below 8 MB, and from both to one file (`html_page`).
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradient_flow.pages.figure_numbers import figures
from gradient_flow.pages.html_page import Words, html_page
from gradient_flow.pages.run_numbers import (
    COMPARISON,
    INSPECTION,
    RunNumbers,
    from_results,
    read_numbers,
)
from gradient_flow.pages.screen_numbers import Limits
from gradient_flow.pages.verdict_words import STAGES, labels, number, short, table, verdicts
from gradient_flow.pages.watch_numbers import watch_figure
from gradient_flow.results_folder import OutputError
from lstm_jax.atomic_write import write_whole
from lstm_jax.validation import AnyPath, require_path

MOST_BYTES = 8_000_000
PAGE = "report.html"
LONGEST_TEXT = 4000


class MissingPlotlyError(OutputError):
    """Plotly is not installed, from which a page's figures are drawn."""


def report(result_or_folder: Any, path: AnyPath) -> Path:
    """Write a run as one HTML page, which opens in a browser without a server or a network.

    Args:
        result_or_folder: the folder of an inspection, of ``gradient-flow compare`` or of a training run that
            `flow_watch` watched; or a result in memory that has ``results`` and ``arrays`` as those files do.
        path: of the page, a file that is replaced if it exists.

    Returns:
        The path.

    Raises:
        OutputError: a folder in which no run can be read, a page that cannot be written, or a missing
            package. What is missing in a run is said on its page.
        TypeError: something else than a folder or a result.

    Example:
        >>> import gradient_flow
        >>> gradient_flow.report("no-such-folder", "page.html")
        Traceback (most recent call last):
        ...
        gradient_flow.results_folder.OutputError: Missing folder: expected that of a run, got no folder ...
    """
    try:
        out = require_path("path", path)
    except (TypeError, ValueError) as error:
        raise OutputError(str(error)) from None
    if isinstance(result_or_folder, (str, os.PathLike)):
        run = read_numbers(Path(result_or_folder))
    else:
        run = _in_memory(result_or_folder)
    text = page_of(run, _plotly_script())
    try:
        write_whole(out, text.encode("utf-8", errors="replace"))
    except (OSError, TypeError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise OutputError(
            f"Unwritable page: expected to write the file {out}, got: {said}."
        ) from None
    return out


def _in_memory(result: Any) -> RunNumbers:
    results, arrays = (getattr(result, name, None) for name in ("results", "arrays"))
    if not isinstance(results, Mapping) or not isinstance(arrays, Mapping):
        raise TypeError(
            "Type mismatch: expected a run's folder, or a result with results and arrays, got "
            f"{type(result).__name__}."
        )
    named = {str(name): np.asarray(array) for name, array in arrays.items()}
    return from_results(results, named, "a result in memory")


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise MissingPlotlyError(
            "Package missing: expected plotly for the page, got none. Do pip install 'lstm-jax[report]'."
        ) from None
    return get_plotlyjs()


def page_of(run: RunNumbers, plotly: str) -> str:
    """The page of a run, with fewer numbers until it is small enough."""
    limits = Limits()
    while True:
        page = _page(run, plotly, limits)
        if len(page.encode("utf-8", errors="replace")) < MOST_BYTES or limits == limits.fewer():
            return page
        limits = limits.fewer()


def _page(run: RunNumbers, plotly: str, limits: Limits) -> str:
    found = figures(run, limits)
    problems = [*run.problems, *found.problems]
    watch = None
    if run.watch is not None:
        watch = watch_figure(run.watch, run.losses, limits, problems)
    parts = found.parts
    stages = list(dict.fromkeys(part["stage"] for part in parts["curves"]))
    has = {name for name, list_of in parts.items() if list_of}
    if len(stages) > 1 or (watch is not None and (watch["curves"] or watch["horizons"])):
        has.add("training")
    names = labels(run)
    every = [part for list_of in parts.values() for part in list_of]
    numbers = {
        "kind": run.kind,
        "networks": {
            part["network"]: names.get(part["network"], part["network"]) for part in every
        },
        "stages": {part["stage"]: STAGES.get(part["stage"], part["stage"]) for part in every},
        "text": _text(run),
        "watch": watch,
        **parts,
    }
    words = Words(
        title=f"Gradient flow: {run.name}",
        kind=run.kind,
        verdicts=verdicts(run, parts["curves"], watch)[:8],
        table=table(run, parts["curves"]),
        facts=_facts(run),
        problems=problems,
        notes=found.notes,
        command=_command(run),
        environment=run.environment,
    )
    return html_page(words, numbers, has, plotly)


def _text(run: RunNumbers) -> str | None:
    """The characters of the sample whose gates and credit are shown, if it is text."""
    inputs = run.results.get("inputs")
    text = inputs.get("text") if isinstance(inputs, Mapping) else run.results.get("gate_text")
    return text[:LONGEST_TEXT] if isinstance(text, str) and text else None


def _facts(run: RunNumbers) -> list[tuple[str, str]]:
    """What was measured: names and values."""
    results, found = run.results, []
    if run.kind == INSPECTION:
        sources = results.get("sources")
        if isinstance(sources, Mapping):
            found += [(f"network {stage}", str(source)) for stage, source in sources.items()]
        else:
            found.append(("network", str(results.get("source", "not named"))))
        for layer in _mappings(results.get("layers")):
            found.append((f"layer {layer.get('name')}", _layer(layer, results.get("chosen"))))
        inputs = results.get("inputs")
        if isinstance(inputs, Mapping):
            shape = inputs.get("shape")
            size = f" {' × '.join(map(str, shape))}" if isinstance(shape, list) else ""
            found.append(("inputs", f"{inputs.get('says', inputs.get('from', 'not named'))}{size}"))
        if "lag" in results:
            found.append(("lag", f"{results['lag']} steps"))
    text = results.get("text")
    if run.kind == COMPARISON and isinstance(text, Mapping):
        found.append(("text", f"{text.get('name')}, {text.get('characters')} characters"))
    left_out = results.get("left_out")
    for name, lines in left_out.items() if isinstance(left_out, Mapping) else ():
        if isinstance(lines, list) and lines:
            found.append((f"left out of {name}", ", ".join(map(str, lines))))
    if isinstance(results.get("seconds"), Mapping):
        seconds = {name: number(value) for name, value in results["seconds"].items()}
        told = ", ".join(f"{name} {short(s)}" for name, s in seconds.items() if s is not None)
        found.append(("seconds", told))
    return found[:60]


def _mappings(values: Any) -> list[Mapping[str, Any]]:
    return [
        value
        for value in (values if isinstance(values, list) else [])
        if isinstance(value, Mapping)
    ]


def _layer(layer: Mapping[str, Any], chosen: Any) -> str:
    """A layer that was found, in a few words."""
    kind = (
        f"{layer.get('kind')}, {layer.get('input_size')} inputs, {layer.get('hidden_size')} units"
    )
    directions = layer.get("directions")
    if directions not in (None, 1):
        kind += f", {directions} directions"
    if isinstance(layer.get("refused"), str):
        return f"{kind}; not measured: {layer['refused']}"
    if isinstance(chosen, list) and layer.get("name") not in chosen:
        return f"{kind}; not chosen"
    assumed = layer.get("assumed")
    more = [
        line for line in (assumed if isinstance(assumed, list) else []) if isinstance(line, str)
    ]
    return "; ".join([kind, *more])


def _command(run: RunNumbers) -> str | None:
    """The command as a shell reads it; of a comparison, from its settings."""
    told = run.results.get("command")
    if isinstance(told, str):
        return told
    if isinstance(told, list) and told:
        return shlex.join(map(str, told))
    config = run.results.get("config")
    if run.kind != COMPARISON or not isinstance(config, Mapping):
        return None
    return shlex.join(["gradient-flow", "compare", *_options(config)])


def _options(config: Mapping[str, Any]) -> Sequence[str]:
    """The settings of a comparison as options; those that were left out stay out."""
    words: list[str] = []
    for name, value in config.items():
        if value is None or name in ("out", "overwrite"):
            continue
        many = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, many)]
    return words
