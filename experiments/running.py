"""What all experiments share: comparing, printing, saving results and exit codes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from gradient_flow.command_line.memory import TooLargeError
from gradient_flow.results_folder import (
    FINISHED,
    STAGE,
    OutputError,
    environment,
    publish,
    write_arrays,
    write_json,
)
from lstm_jax.atomic_write import write_file
from lstm_jax.command_line import exit_codes

NO_TORCH = "PyTorch is not installed: the comparison with it is left out."


class Refusal(ValueError):
    """A request that a run refuses, in one sentence; the exit code is 2."""


class Mismatch(RuntimeError):
    """A number that differs from the one that the experiment reproduces; the exit code is 1."""


class Stopped(RuntimeError):
    """A run that stopped early, in one sentence; the exit code is 1."""


REFUSED: exit_codes.Errors = (OutputError, Refusal, TooLargeError)
FAILED: exit_codes.Errors = (Mismatch, Stopped)
"""What ends an experiment with one sentence, and exit code 2 or 1."""


def keep(
    out: Path, arrays: Mapping[str, np.ndarray], results: Mapping[str, Any], tables: str
) -> None:
    """Write ``arrays.npz``, ``tables.txt`` and ``environment.json``, then ``results.json``.

    Args:
        out: the folder, from `gradient_flow.results_folder.claim_folder`.
        arrays: named arrays of any shape.
        results: of types that JSON has.
        tables: the tables that the run prints.
    """

    def write_tables(path: Path) -> None:
        path.write_text(tables + "\n", encoding="utf-8")

    stage = out / STAGE
    write_arrays(stage / "arrays.npz", dict(arrays))
    write_file(stage / "tables.txt", write_tables)
    write_json(stage / "environment.json", environment())
    write_json(stage / FINISHED, dict(results))
    publish(out, replaces=[PARTS])


PARTS = "parts.json"
"""The parts that an interrupted run had found."""


@contextmanager
def parts_kept(out: Path, found: Mapping[str, Any]) -> Iterator[None]:
    """Write what has been found so far if Ctrl-C ends the run, beside no other results.

    Args:
        out: the folder, from `gradient_flow.results_folder.claim_folder`.
        found: what is being filled, of types that JSON has.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not any(found.values()):
            raise
        write_json(out / STAGE / PARTS, dict(found))
        where = out / STAGE if (out / FINISHED).exists() else out
        if where is out:
            publish(out, finishes=False)
        raise KeyboardInterrupt(f"the parts so far are in {where / PARTS}") from None


def require_seed(seed: int, option: str = "--seed") -> None:
    """Refuse a number that is no seed.

    Raises:
        Refusal: naming the option.
    """
    if not 0 <= seed < 2**32:
        raise Refusal(f"Range mismatch: expected {option} from 0 to 2^32 − 1, got {seed}.")


def torch_if_installed() -> ModuleType | None:
    """PyTorch, or None: every comparison with it is optional."""
    try:
        import torch
    except ModuleNotFoundError:
        return None
    return torch


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A text table under a title: the first column flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        first, *others = (
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *others)).rstrip())
    return "\n".join((title, lines[0], "-" * len(lines[0]), *lines[1:]))


def max_difference(a: np.ndarray, b: np.ndarray) -> float:
    """max|a − b| of two arrays of one shape."""
    if np.shape(a) != np.shape(b):
        raise Mismatch(f"Shape mismatch: expected {np.shape(b)}, got {np.shape(a)}.")
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))))


def exit_code(
    action: Callable[[], None],
    *,
    refused: exit_codes.Errors = (),
    failed: exit_codes.Errors = (),
) -> int:
    """The exit code: 0; or, after one sentence, 2 for a refusal, 1 for a failure, 130 for Ctrl-C."""
    return exit_codes.exit_code(
        action,
        refused=(*REFUSED, *refused),
        failed=(*FAILED, *failed),
    )
