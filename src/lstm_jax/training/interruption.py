"""Signals that ask a run to stop, in one process or in several."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


class InterruptedRun(RuntimeError):
    """A run that was stopped by a signal and can be resumed."""


def any_process(asked: list[str]) -> bool:
    """Whether any process was asked to stop, so that all stop after the same step."""
    if jax.process_count() == 1:
        return bool(asked)
    told = bool(np.any(multihost_utils.process_allgather(np.int32(bool(asked)))))
    if told and not asked:
        asked.append("another process")
    return told


@contextmanager
def signals() -> Iterator[list[str]]:
    """Names of the signals that asked the run to stop; a second signal has its usual effect."""
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def hear(number: int, frame: FrameType | None) -> None:
        asked.append(signal.Signals(number).name)
        for each, handler in before.items():
            signal.signal(each, handler)

    try:
        for number in before:
            signal.signal(number, hear)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
