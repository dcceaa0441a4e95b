"""How a command that trains or reads a run ends."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

from lstm_jax.command_line.exit_codes import Errors, exit_code
from lstm_jax.language.vocabulary import TextError
from lstm_jax.training import (
    CheckpointError,
    DivergedError,
    IncompleteRunWarning,
    InterruptedRun,
    LogError,
    ProcessError,
    RunError,
    SamplesError,
)


def training_exit_code(
    action: Callable[[], None], *, refused: Errors = (), failed: Errors = ()
) -> int:
    """`exit_code`, also for the errors of training: 2 for refusals, 1 for stops, 130 after Ctrl-C."""

    def guarded() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", IncompleteRunWarning)
                warnings.showwarning = _in_one_line
                action()
        except InterruptedRun as stop:
            told = str(stop).removeprefix("Interrupted: ").replace("resume=True", "--resume")
            raise KeyboardInterrupt(told) from None

    return exit_code(
        guarded,
        refused=(RunError, TextError, SamplesError, *refused),
        failed=(DivergedError, CheckpointError, LogError, ProcessError, *failed),
    )


def _in_one_line(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
