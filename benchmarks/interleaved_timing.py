"""One case, all competitors: a process each, one at work at a time, in turns, round after round.

Every round asks each worker once, in an order shuffled anew, so that the times of one round were taken
within moments of each other, and a machine that slows down for a while slows them all.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from benchmarks.process import Entrant, Worker, WorkerLost, started

PAUSE = 0.01
"""Seconds between turns, for the last worker's threads to stop looking for work and fall asleep."""


@dataclass(frozen=True)
class Pace:
    """How long a race goes on.

    Attributes:
        rounds: at least so many rounds,
        seconds: and at least so long;
        limit: but no new round after so many seconds, once there is one.
        turn_ms: about how long one worker's turn is, where its calls are shorter than that.
        patience: seconds within which a worker has to answer.
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
        entrants: who takes part, each under its own name.
        pace: how long.
        tell: is told what is going on.

    Returns:
        For each name a dictionary with ``status`` (``"ok"``, or in words why there is nothing more),
        ``compile_s``, ``first_s``, ``base_mb``, ``peak_mb`` and ``rounds``: the seconds of every call,
        a list for each round; a worker that got lost keeps the rounds that it took part in.
    """
    found: dict[str, dict[str, Any]] = {e.name: {"status": "ok", "rounds": []} for e in entrants}
    shuffler = random.Random(pace.seed)
    with started(entrants, pace.threads, pace.turn_ms) as workers:
        # Imports may overlap; from the first compilation on, only one worker does anything.
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
    """Ask one worker after another, note what each says, and return those that are still there."""
    left = []
    for worker in workers:
        entry = found[worker.name]
        try:
            message = ask(worker)
        except WorkerLost as lost:
            entry["status"] = str(lost)
            # Whatever it still does must not disturb the others.
            worker.end()
            continue
        message.pop("state")
        if "seconds" in message:
            entry["rounds"].append(message.pop("seconds"))
        entry.update(message)
        left.append(worker)
    return left
