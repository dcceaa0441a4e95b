"""How a command ends: its exit code, and one line where it does not end well.

0    done                       2    refused: options or files that it cannot use
1    a number that differs,     130  interrupted by Ctrl-C, as the shell counts it
     or stopped                 141  nobody reads its output any more, as in ``| head``
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

DONE, FAILED, REFUSED, INTERRUPTED, UNREAD = 0, 1, 2, 130, 141

Errors = tuple[type[BaseException], ...]


def exit_code(
    action: Callable[[], int | None],
    *,
    refused: Errors,
    failed: Errors = (),
) -> int:
    """Run a command to its end.

    Args:
        action: the command; gives its own exit code, or None for 0.
        refused: errors that say what the command cannot use, in one sentence.
        failed: errors that say why it stopped, in one sentence.

    Returns:
        The exit code. Nothing else is raised than errors of the program itself.

    Example:
        >>> from lstm_jax.command_line.exit_codes import exit_code
        >>> exit_code(lambda: None, refused=(ValueError,))
        0
    """
    print_all_characters()
    try:
        code = action() or DONE
        # Whether anybody still reads is known only now.
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        leave_pipes()
        return UNREAD
    except KeyboardInterrupt as stop:
        return _said(f"interrupted{f': {stop}' if str(stop) else ''}", INTERRUPTED)
    except refused as error:
        return _said(f"error: {error}", REFUSED)
    except failed as error:
        return _said(f"error: {error}", FAILED)
    except MemoryError:
        return _said(
            "error: Out of memory: expected smaller sizes, got some that do not fit.", FAILED
        )
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _said(
            f"error: Stopped: expected to read and write files, got: {error.strerror or error}{where}.",
            FAILED,
        )


def leave(code: int) -> NoReturn:
    """End the process with an exit code.

    XLA crashes as Python takes itself down if it was interrupted while it traced or compiled. So an
    interrupted process does what is to be done at its end, and then ends at once.
    """
    if code == INTERRUPTED:
        # Public only as what the interpreter does at its end.
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def print_all_characters() -> None:
    """Let a terminal without some characters show a question mark in their place."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def _said(line: str, code: int) -> int:
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        leave_pipes()
    return code


def leave_pipes() -> None:
    """Send what is still buffered nowhere: Python would try to write it once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
