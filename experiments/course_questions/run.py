"""Ask the questions, print the answers as tables, and keep the numbers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.course_questions.questions import QUESTIONS, QUICK, Sizes, with_seeds
from experiments.course_questions.tables import tables
from experiments.running import Refusal, exit_code, keep, require_seed
from gradient_flow.results_folder import claim_folder
from lstm_jax.command_line.tyro_options import parse


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train networks with one part changed, five seeds each, and say what a course's questions come to."""

    questions: tuple[str, ...] = tuple(QUESTIONS)
    """Some of parts, weight_decay, truncation, saturation."""
    quick: bool = False
    """Tiny networks, hardly trained, a minute; no result."""
    seed: int = 0
    """Of the first network of each kind; the others' are those that follow."""
    seeds: int | None = None
    """Networks of each kind; 5, with --quick 2."""
    out: Path = Path("experiments/course_questions/results")
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of a finished run."""


def run(config: Config) -> None:
    """Compute, keep and print.

    Raises:
        Refusal, OutputError: what cannot be run, before anything is.
    """
    unknown = sorted(set(config.questions) - set(QUESTIONS))
    if unknown or not config.questions:
        got = ", ".join(unknown) or "none"
        raise Refusal(
            f"Name mismatch: expected --questions from {', '.join(QUESTIONS)}, got {got}."
        )
    require_seed(config.seed)
    if config.seeds is not None and config.seeds < 1:
        raise Refusal(f"Range mismatch: expected --seeds of at least 1, got {config.seeds}.")
    claim_folder(config.out, "course_questions", overwrite=config.overwrite)
    sizes = with_seeds(QUICK if config.quick else Sizes(), config.seed, config.seeds)
    answers, seconds = {}, {}
    for name in dict.fromkeys(config.questions):
        began = time.process_time()
        answers[name] = QUESTIONS[name](sizes)
        seconds[name] = round(time.process_time() - began, 1)
    results = {
        "experiment": "course_questions",
        "quick": config.quick,
        "cpu_seconds": seconds,
        "answers": answers,
    }
    text = tables(results)
    keep(config.out, {}, results, text)
    print(text)
    print(f"\nWritten to {config.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run; the exit code."""
    config = parse(Config, "python -m experiments.course_questions", arguments)
    return exit_code(lambda: run(config))
