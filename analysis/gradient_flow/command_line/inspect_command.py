"""``gradient-flow inspect``: look at a trained network out of a file."""

import contextlib
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gradient_flow.command_line.comparison import ConfigError
from gradient_flow.command_line.report_command import page_of_run
from gradient_flow.inspections.inspection import Inspection, inspect, stages_of
from gradient_flow.pages.run_page import PAGE
from gradient_flow.results_folder import (
    ARRAYS,
    FINISHED,
    STAGE,
    claim_folder,
    environment,
    publish,
    release_folder,
    write_arrays,
    write_json,
)
from gradient_flow.verdicts.finding import ILLNESSES
from lstm_jax.atomic_write import write_whole

VERDICTS = ("vanishing", "exploding", "steady", "no recurrence")
UNHEALTHY = 3
"""The exit code where a verdict is one of --fail-on."""
WIDTH = 80


@dataclass(frozen=True)
class Inspect:
    """Look at a trained network out of a file: its verdict, its curves, and a page to explore."""

    model: Annotated[str, tyro.conf.Positional]
    """A file or folder with a recurrent network (PyTorch, Keras, ONNX, .npz, safetensors, Flax, orbax, a
    training run), or module.py:NAME with a cell or step and its parameters."""
    input: str | None = None
    """What drives it: .npy, .npz (file.npz:NAME), .csv, or a text; noise if left out."""
    layer: tuple[str, ...] = ()
    """The recurrent layer, or several, stacked in that order."""
    embedding: str | None = None
    """The array in the file in which tokens are looked up."""
    vocabulary: Path | None = None
    """The tokens of a text: JSON, or a token in each line."""
    scaling: tuple[str, ...] = ()
    """Two arrays in the file, a mean and a scale, that the input is normalised by."""
    time_axis: int | None = None
    """The axis of time in the input; the first if left out."""
    batch_axis: int | None = None
    """The axis of samples in an input of three axes; the second if left out."""
    samples: int = 4
    """Sequences that are looked at, at most."""
    lag: int | None = None
    """How far back the network has to learn, in steps; if left out the length of the input, at most 200
    without samples."""
    gate_order: str | None = None
    """The order of the gates in the file, such as iofg, where it is not the usual one."""
    reset_after: bool | None = None
    """Whether a GRU's reset gate acts after the product."""
    activation: str | None = None
    """Of a vanilla network: tanh, relu or identity."""
    config: Path | None = None
    """The configuration of a Keras model whose weights are in a file of their own."""
    compare: str | None = None
    """Another file of the same network, such as a checkpoint after training, to set beside MODEL."""
    fail_on: str = ""
    """Verdicts or findings, separated by commas, with which the command ends with code 3."""
    quick: bool = False
    """The verdict, curves and gates alone."""
    everything: bool = False
    """Also what takes long for wide cells: maps, paths, spectra."""
    seed: int = 0
    """Seed of the noise."""
    out: Path | None = None
    """Folder for the results; if left out, the next free one of runs/inspect-001, …"""
    overwrite: bool = False
    """Replace the results of a finished run in --out."""


def run_inspect(config: Inspect, words: list[str]) -> int:
    """Look, print the verdict, write results, arrays and the page.

    Returns:
        0, or 3 where the verdict or a finding is one of --fail-on.

    Raises:
        ConfigError: what cannot be read or does not fit, in one sentence.
    """
    wanted = _fail_on(config.fail_on)
    for name in (config.model, *filter(None, [config.compare])):
        if not Path(name.rpartition(".py:")[0] + ".py" if ".py:" in name else name).exists():
            raise ConfigError(
                f"Unreadable file: expected a file or folder, got {name} (No such file or directory)."
            )
    folder = claim_folder(config.out, "inspect", overwrite=config.overwrite)
    try:
        found = _look(config, config.model)
        other = None if config.compare is None else _look(config, config.compare)
        looks = [found] if other is None else [found, other]
        results, arrays = stages_of(looks)
    except BaseException as stop:
        _give_back(folder, made=config.out is None)
        if isinstance(stop, (ValueError, TypeError, ImportError, OSError)):
            raise ConfigError(_sentence(stop)) from None
        raise
    results["command"] = ["gradient-flow", "inspect", *words]
    lines = [_wrapped(line) for line in found.results["says"]]
    for look in looks:
        lines += [
            "",
            *([] if other is None else [look.network.source]),
            _wrapped(str(look.diagnosis)),
        ]
    for name, missing in results["left_out"].items():
        lines += ["", _wrapped(f"Left out of {name}: {', '.join(missing)}; --everything has them.")]
    text = "\n".join(lines)
    print(text + "\n")
    stage = folder / STAGE
    write_arrays(stage / ARRAYS, arrays)
    write_json(stage / "environment.json", environment())
    write_whole(stage / "verdict.txt", (text + "\n").encode())
    write_json(stage / FINISHED, results)
    publish(folder, replaces=[PAGE], more=True)
    print(f"results:  {folder}")
    try:
        page = page_of_run(folder, stage)
    finally:
        publish(folder, finishes=False)
    print(page)
    last = looks[-1].diagnosis
    told = {last.verdict, *(finding.name for finding in last.findings if finding.illness)}
    return UNHEALTHY if wanted & told else 0


def _look(config: Inspect, model: str) -> Inspection:
    return inspect(
        model,
        config.input,
        layer=list(config.layer) or None,
        embedding=config.embedding,
        vocabulary=config.vocabulary,
        scaling=config.scaling or None,
        time_axis=config.time_axis,
        batch_axis=config.batch_axis,
        lag=config.lag,
        samples=config.samples,
        seed=config.seed,
        config=config.config,
        gate_order=config.gate_order,
        reset_after=config.reset_after,
        activation=config.activation,
        quick=config.quick,
        everything=config.everything,
        tell=lambda line: print(line, file=sys.stderr),
    )


def _fail_on(words: str) -> set[str]:
    """The words of --fail-on.

    Raises:
        ConfigError: a word that is no verdict and no finding.
    """
    wanted, known = (
        {word.strip() for word in words.split(",") if word.strip()},
        (*VERDICTS, *ILLNESSES),
    )
    if unknown := sorted(wanted.difference(known)):
        raise ConfigError(
            f"Name mismatch: expected --fail-on from {', '.join(known)}, got {unknown[0]!r}."
        )
    return wanted


def _sentence(error: BaseException) -> str:
    """An error in one sentence, with the options of the command in place of those of Python."""
    if isinstance(error, OSError) and error.strerror:
        return (
            f"Unreadable file: expected a file or folder, got {error.filename} ({error.strerror})."
        )
    text = " ".join(str(error).split())
    names = "|".join(
        (
            "layer",
            "embedding",
            "vocabulary",
            "scaling",
            "time_axis",
            "batch_axis",
            "gate_order",
            "config",
        )
    )
    text = re.sub(rf"\b({names})=", lambda found: f"--{found[1].replace('_', '-')} ", text)
    return " ".join(text.split())


def _wrapped(text: str) -> str:
    """Lines of at most 80 columns; what goes on is indented further."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line,
            WIDTH,
            subsequent_indent=indent + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines)


def _give_back(folder: Path, *, made: bool) -> None:
    release_folder(folder)
    if made:
        with contextlib.suppress(OSError):
            folder.rmdir()
