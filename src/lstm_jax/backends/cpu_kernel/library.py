"""The compiled library: where it is, what it offers, and its functions as targets of XLA's custom calls."""

import ctypes
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax

ENDING = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY = Path(__file__).with_name(f"_cpu_kernel.native{ENDING}")
REASON = Path(__file__).with_name("why_not.txt")
"""Why there is no library, as the build wrote it."""
INTERFACE = 2
"""Of the calls, as `native/calls.cc` has it: a library compiled before it changed is not used."""
TARGETS = ("lstm_jax_forward", "lstm_jax_backward")


class Status(NamedTuple):
    """Whether the kernel can be used.

    Attributes:
        available: whether it can.
        instruction_set: ``"avx512"``, ``"avx2"``, ``"neon"`` or ``"plain"``; None without the kernel.
        reason: why not, in one sentence; empty with the kernel.
    """

    available: bool
    instruction_set: str | None
    reason: str


@lru_cache(maxsize=1)
def status() -> Status:
    """Load the library once, and say what it offers."""
    if not LIBRARY.exists():
        known = REASON.read_text("utf-8").strip() if REASON.exists() else ""
        return Status(False, None, known or f"No library: expected one in {LIBRARY}, got none.")
    try:
        library = ctypes.CDLL(str(LIBRARY))
        # The first version said none.
        interface = getattr(library, "lstm_jax_interface", lambda: 1)()
        if interface != INTERFACE:
            return Status(
                False,
                None,
                f"Unusable library: expected interface {INTERFACE} of {LIBRARY}, got {interface}. "
                "Do python -m lstm_jax.backends.cpu_kernel.build.",
            )
        for target in TARGETS:
            jax.ffi.register_ffi_target(
                target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu"
            )
        library.lstm_jax_instruction_set.restype = ctypes.c_char_p
        return Status(True, library.lstm_jax_instruction_set().decode(), "")
    except (
        Exception
    ) as error:  # Of another machine, another JAX, or damaged: the loop does without it.
        said = " ".join(str(error).split())[:300].rstrip(".")
        return Status(
            False, None, f"Unusable library: expected {LIBRARY} of this machine, got: {said}."
        )


def most_threads() -> int:
    """Cores that the process may use; fewer where ``LSTM_JAX_THREADS`` says so."""
    # Not on macOS and Windows.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    asked = os.environ.get("LSTM_JAX_THREADS", "")
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores
