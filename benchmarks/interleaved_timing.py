"""Time all competitors on one case: a process each, one at a time in turns, round after round.

Every round asks each worker once, in a new random order. The times of one round are taken within moments of
each other, so a machine that slows down for a while slows all of them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from benchmarks.process import Entrant, Worker, WorkerLost, started

PAUSE = 0.01
"""Seconds between turns, in which the threads of the last worker stop waiting for work and sleep."""


@dataclass(frozen=True)
class Pace:
    """The length of a race.

    Attributes:
        rounds: the fewest rounds.
        seconds: the shortest time.
        limit: seconds after which no new round starts, except the first.
        turn_ms: the length of one worker's turn, about, where its calls are shorter.
        patience: seconds within which a worker must answer.
        threads: cores and threads of each worker.
        seed: of the order of the turns.
    """

    rounds: int
    seconds: float
    limit: float
    turn_ms: float
    patience: float
    threads: int
    seed: int


def race(
    entrants: Sequence[Entrant], pace: Pace, tell: Callable[[str], None] = lambda text: None
) -> dict[str, dict[str, Any]]:
    """Time the entrants against each other.

    Args:
        entrants: the competitors, with different names.
        pace: the length.
        tell: called with a few words on the progress.

    Returns:
        For each name a dictionary with ``status`` (``"ok"``, or why the worker stopped), ``compile_s``,
        ``first_s``, ``base_mb``, ``peak_mb`` and ``rounds``: the seconds of every call, a list for each
        round. A worker that is lost keeps its rounds up to then.
    """
    found: dict[str, dict[str, Any]] = {e.name: {"status": "ok", "rounds": []} for e in entrants}
    shuffler = random.Random(pace.seed)
    with started(entrants, pace.threads, pace.turn_ms) as workers:
        # Imports may overlap; from the first compilation on, only one worker runs at a time.
        running = _each(workers, found, lambda worker: worker.hear(pace.patience))
        tell("compiling")
        running = _each(running, found, lambda worker: worker.ask("compile", pace.patience))
        start = monotonic()
        done = 0
        while running and _goes_on(done, monotonic() - start, pace):
            tell(f"round {done + 1}")
            order = list(running)
            shuffler.shuffle(order)
            running = _each(order, found, lambda worker: _turn(worker, pace))
            done += 1
    return found


def _goes_on(done: int, elapsed: float, pace: Pace) -> bool:
    if done == 0:
        return True
    if elapsed >= pace.limit:
        return False
    return done < pace.rounds or elapsed < pace.seconds


def _turn(worker: Worker, pace: Pace) -> dict[str, Any]:
    message = worker.ask("turn", pace.patience)
    sleep(PAUSE)
    return message


def _each(
    workers: Sequence[Worker],
    found: dict[str, dict[str, Any]],
    ask: Callable[[Worker], dict[str, Any]],
) -> list[Worker]:
    """Ask one worker after another, record each reply, and return the workers that are not lost."""
    left = []
    for worker in workers:
        entry = found[worker.name]
        try:
            message = ask(worker)
        except WorkerLost as lost:
            entry["status"] = str(lost)
            # It must not disturb the others.
            worker.end()
            continue
        message.pop("state")
        if "seconds" in message:
            entry["rounds"].append(message.pop("seconds"))
        entry.update(message)
        left.append(worker)
    return left
