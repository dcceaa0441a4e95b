"""``python -m benchmarks``: time `lstm_jax` and `gradient_flow` against their peers, side by side."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks import (
    bandwidth,
    jacobians,
    kernels,
    language_training,
    latency,
    matmul,
    memory,
    report,
    results,
    roofline,
)
from benchmarks.cases import CaseError, select
from benchmarks.competitors import NETWORKS, OURS
from benchmarks.compile_without_device import NoCompiler
from benchmarks.config import (
    All,
    Command,
    Jacobians,
    Kernels,
    Latency,
    Memory,
    Report,
    Roofline,
    Timing,
    Training,
    Unroll,
    check,
    check_names,
    competitors,
    names_on,
    pace,
    threads,
)
from benchmarks.interleaved_timing import Pace, race
from benchmarks.machine import cores_allowed, environment
from benchmarks.process import Entrant
from gradient_flow.results_folder import OutputError, release_folder
from lstm_jax.command_line.exit_codes import exit_code, leave
from lstm_jax.command_line.tyro_options import VERSION, parse


class Job(NamedTuple):
    """One case to be timed: the part it belongs to, who takes part, and how long."""

    part: str
    title: str
    ours: str
    case: dict[str, Any]
    flops: float | None
    entrants: list[Entrant]
    pace: Pace


def jobs(config: Timing) -> list[Job]:
    """Every case of a run.

    Raises:
        CaseError: options that fit no case.
    """
    check(config)
    found = []
    if isinstance(config, All | Unroll):
        quickly, on_gpu = pace(config, long_calls=False), config.device == "gpu"
        size = 64 if config.quick else 8192 if on_gpu else 2048
        for precision in config.precision:
            setting: dict[str, Any] = {"device": config.device, "precision": precision}
            product: dict[str, Any] = {"size": size, **setting}
            names = [Entrant(n, matmul.__name__, product, **setting) for n in matmul.NAMES]
            title = f"matrix product, {size} × {size}, {precision}"
            work = matmul.flops(size)
            found.append(Job("matmul", title, matmul.NAMES[0], product, work, names, quickly))
        if not on_gpu:
            found += [
                Job(flops=None, pace=quickly, **c) for c in bandwidth.cases(quick=config.quick)
            ]
        part = config if isinstance(config, Unroll) else Unroll()
        cases = select(
            part.cell,
            part.shape,
            part.pass_,
            quick=config.quick,
            gpu=on_gpu,
            precisions=config.precision,
            device=config.device,
        )
        for case in cases:
            arguments = case.as_json()
            entrants = [
                Entrant(name, "benchmarks.competitors", arguments, case.device, case.precision)
                for name in competitors(part.competitor, names_on(config.device))
            ]
            found.append(Job("unroll", case.title, OURS, arguments, case.flops, entrants, quickly))
    if isinstance(config, All | Training) and config.device == "cpu":
        models = language_training.cases(quick=config.quick)
        pace_ = pace(config, long_calls=False)
        found += [Job(flops=None, pace=pace_, **case) for case in models]
    if isinstance(config, All | Latency) and config.device == "cpu":
        quickly = pace(config, long_calls=False)
        found += [Job(flops=None, pace=quickly, **c) for c in latency.cases(quick=config.quick)]
    slowly = pace(config, long_calls=True)
    if isinstance(config, All | Jacobians):
        curves = jacobians.cases(quick=config.quick)
        found += [Job("jacobians", flops=None, pace=slowly, **_on(config, case)) for case in curves]
    if isinstance(config, All | Memory):
        long = memory.cases(quick=config.quick)
        found += [Job("memory", flops=None, pace=slowly, **_on(config, case)) for case in long]
    return found


def _on(config: Timing, case: dict[str, Any]) -> dict[str, Any]:
    entrants = [entrant._replace(device=config.device) for entrant in case["entrants"]]
    return {**case, "entrants": entrants}


def run(config: Timing) -> int:
    """Time all cases of the options, writing results after every case; print the tables."""
    todo = jobs(config)
    folder = results.claim(config.out)
    found: dict[str, Any] = {"settings": asdict(config), "finished": False, "parts": {}}
    machine = environment(threads(config))
    try:
        with tqdm(total=len(todo), unit="case", dynamic_ncols=True, file=sys.stderr) as bar:
            for job in todo:
                bar.set_description(job.title)
                entries = race(job.entrants, job.pace, bar.set_postfix_str)
                told = {"title": job.title, "ours": job.ours, "case": job.case, "flops": job.flops}
                found["parts"].setdefault(job.part, []).append({**told, "entries": entries})
                results.write(folder, found, machine, report.render(found, machine))
                bar.update()
    except KeyboardInterrupt:
        raise _interrupted(folder) from None
    return _finish(folder, found, machine)


def count(config: Kernels) -> int:
    """Compile all cases of the options, writing results after every program; print the tables.

    Raises:
        CaseError, OutputError: options that fit no case, or a folder that is not free.
        NoCompiler: JAX's CUDA plugin is missing.
    """
    check_names(config.competitor, tuple(NETWORKS))
    cases = select(config.cell, config.shape, config.pass_, quick=config.quick, gpu=True)
    names = competitors(config.competitor, tuple(NETWORKS))
    folder = results.claim(config.out)
    told = [{"title": case.title, "case": case.as_json(), "entries": {}} for case in cases]
    found: dict[str, Any] = {"settings": asdict(config), "finished": False, "parts": {}}
    machine = environment(cores_allowed())
    try:
        with tqdm(total=len(cases) * len(names), unit="program", file=sys.stderr) as bar:
            for entry in kernels.counted(cases, names):
                number = entry.pop("case")
                told[number]["entries"][entry.pop("name")] = entry
                found["parts"]["kernels"] = told[: number + 1]
                results.write(folder, found, machine, report.render(found, machine))
                bar.set_description(cases[number].title)
                bar.update()
    except KeyboardInterrupt:
        raise _interrupted(folder) from None
    except NoCompiler:
        release_folder(folder)
        if not found["parts"] and config.out is None:  # a folder that was named stays
            folder.rmdir()
        raise
    return _finish(folder, found, machine)


def _interrupted(folder: Path) -> KeyboardInterrupt:
    release_folder(folder)
    return KeyboardInterrupt(f"the results so far are in {folder}")


def _finish(folder: Path, found: dict[str, Any], machine: dict[str, Any]) -> int:
    found["finished"] = True
    tables = report.render(found, machine)
    results.write(folder, found, machine, tables)
    release_folder(folder)
    print(tables)
    print(f"\nresults:  {folder}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for success, 2 for invalid input, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", VERSION)):
        words = ["all", *words]
    config: Timing | Kernels | Report | Roofline = parse(Command, "benchmarks", words)

    def action() -> int:
        if isinstance(config, Report):
            return show(config)
        if isinstance(config, Roofline):
            return draw(config)
        return count(config) if isinstance(config, Kernels) else run(config)

    return exit_code(action, refused=(CaseError, NoCompiler, OutputError))


def show(config: Report) -> int:
    """Print the tables of a run again.

    Raises:
        OutputError: files that are no benchmark's, or damaged.
    """
    found, machine = results.read(config.folder)
    with _of_a_run(config.folder):
        tables = report.render(found, machine)
    print(tables)
    return 0


def draw(config: Roofline) -> int:
    """Draw the roofline of a run.

    Raises:
        CaseError: a run without unrolls, a matrix product or bandwidths.
        OutputError: files that are no benchmark's, or damaged.
    """
    found, machine = results.read(config.folder)
    with _of_a_run(config.folder):
        roofline.draw(found, machine, config.out)
    print(f"picture:  {config.out}")
    return 0


@contextlib.contextmanager
def _of_a_run(folder: Path) -> Iterator[None]:
    try:
        yield
    except CaseError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise OutputError(
            f"No benchmark: expected timings in {folder}, got others ({error})."
        ) from None


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    leave(main())
