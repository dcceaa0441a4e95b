"""Keep what orbax says on the standard error out of the terminal: its errors are raised as well.

Orbax logs by absl. Where a read fails, tensorstore's threads still report to an event loop that is closed by
then, and each such report would print a traceback.
"""

import gc
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LINGER = 0.1
"""Seconds in which tensorstore's threads end after a failure."""


@contextmanager
def without_noise() -> Iterator[None]:
    """Silence orbax's log and the reports of its threads; everything else is said as before."""
    logger, before = logging.getLogger("absl"), sys.unraisablehook

    def silent(record: logging.LogRecord) -> bool:
        # Others log by absl too, and a checkpoint is written while training goes on.
        return "orbax" not in record.pathname

    def hook(report: Any) -> None:
        closed = isinstance(report.exc_value, RuntimeError) and "Event loop" in str(
            report.exc_value
        )
        if not closed and "coroutine object" not in repr(report.object):
            before(report)

    logger.addFilter(silent)
    sys.unraisablehook = hook
    try:
        yield
    except Exception:
        quiet_after_failure()
        raise
    finally:
        sys.unraisablehook = before
        logger.removeFilter(silent)


def quiet_after_failure() -> None:
    """Let the threads of a failure end while their reports are silent, and the tasks whenever they do."""
    # A task that failed says so when it is collected, which may be at the very end of the process.
    logging.getLogger("asyncio").addFilter(_not_of_orbax)
    time.sleep(LINGER)
    gc.collect()


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.getMessage()
