"""The process of one competitor: imports, compiles, warms up, then times one turn for each line it reads.

    parent  ``python -m benchmarks.worker SPEC``   SPEC: JSON with module, name, arguments, threads, turn_ms
    worker  {"state": "imported"}, or {"state": "absent", "reason": …}, or {"state": "failed", …}
    parent  ``compile``
    worker  {"state": "ready", "compile_s": …, "first_s": …, "base_mb": …}
    parent  ``turn``, again and again
    worker  {"state": "turn", "seconds": […], "peak_mb": …}           of the GPU where there is one

The worker ends when its input ends. The output of libraries goes to standard error, never into the replies.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, TextIO

from benchmarks.device_and_precision import device_peak_mb
from benchmarks.machine import peak_mb, reset_peak, resident_mb, restrict_to
from benchmarks.timed_program import Contestant, NotOffered

LONG_CALL = 0.1
"""A call of at least so many seconds refills the caches itself: no call is discarded before it."""
MOST_CALLS = 50


def timed(call: Callable[[], float | None]) -> float:
    """Seconds of one call: those that it returns, or by the clock around it."""
    start = perf_counter()
    seconds = call()
    return perf_counter() - start if seconds is None else seconds


def turn(call: Callable[[], float | None], typical: float, turn_seconds: float) -> list[float]:
    """One discarded call (none if calls are long), then as many as fill the turn, at least one."""
    if typical < LONG_CALL:
        call()
    count = round(turn_seconds / max(typical, 1e-9))
    return [timed(call) for _ in range(min(max(count, 1), MOST_CALLS))]


def serve(spec: dict[str, Any], commands: TextIO, reply: Callable[..., None]) -> None:
    """Answer the commands of the parent until there are no more."""
    restrict_to(spec["threads"])
    try:
        module = importlib.import_module(spec["module"])
        contestant: Contestant = module.contestant(spec["name"], spec["arguments"])
    except ModuleNotFoundError as error:
        reply("absent", reason=f"not installed ({error.name})")
        return
    except NotOffered as error:
        reply("absent", reason=str(error))
        return
    reply("imported")
    call: Callable[[], float | None] | None = None
    typical = 0.0
    for line in commands:
        if line.strip() == "compile":
            start = perf_counter()
            call = contestant.compile()
            compile_s = perf_counter() - start
            resettable = reset_peak()
            base = resident_mb()
            first = timed(call)
            typical = first if first >= LONG_CALL else timed(call)
            reply(
                "ready",
                compile_s=max(compile_s - first * contestant.compile_runs, 0.0)
                * contestant.compile_scale,
                first_s=first,
                base_mb=base if resettable and device_peak_mb() is None else None,
            )
        elif call is not None:
            seconds = turn(call, typical, spec["turn_ms"] / 1e3)
            typical = min(typical, *seconds)
            device_peak = device_peak_mb()
            peak = peak_mb() if device_peak is None else device_peak
            reply("turn", seconds=seconds, peak_mb=peak)


def main() -> int:
    """Serve on the standard streams; a failure is reported in one line before the process ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(state: str, **rest: Any) -> None:
        replies.write(json.dumps({"state": state, **rest}) + "\n")
        replies.flush()

    try:
        serve(json.loads(sys.argv[1]), sys.stdin, reply)
    except BrokenPipeError:  # the parent is gone
        return 1
    except Exception as error:  # every failure of a competitor is a line of the table
        words = " ".join(str(error).split())
        reply("failed", reason=f"failed: {type(error).__name__}: {words[:200]}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
