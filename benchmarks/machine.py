"""The machine of a timing, the threads that a worker may use, and the memory that it has used."""

import contextlib
import ctypes
import datetime
import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.device_and_precision import gpu_name

PACKAGES = ("lstm-jax", "jax", "jaxlib", "flax", "equinox", "dm-haiku", "torch", "numpy")
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def cores_allowed() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_settings(threads: int) -> dict[str, str]:
    """The environment variables of every worker, besides those of `benchmarks.device_and_precision`.

    OpenMP's wait policy stays at its default: passive waiting makes PyTorch two to five times slower.
    OpenBLAS, which computes JAX's singular values, has one thread: on small matrices, several threads spin
    while they wait for each other, and many times longer if anything else runs on the machine.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
    }


def restrict_to(threads: int) -> None:
    """Restrict this process to that many cores, which sets the size of XLA's thread pool."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def environment(threads: int) -> dict[str, Any]:
    """Machine, system, versions of every competitor, and thread settings."""
    packages = {}
    for package in PACKAGES:
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            packages[package] = "not installed"
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "gpu": gpu_name(),
        "cores": os.cpu_count(),
        "cores_allowed": cores_allowed(),
        "load_at_start": os.getloadavg()[0],
        "memory_gib": round(_total_memory() / 2**30, 1),
        "threads": threads,
        "thread_settings": thread_settings(threads),
        "packages": packages,
    }


def reset_peak() -> bool:
    """Return freed memory to the system and reset the peak; False where the system cannot."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def resident_mb() -> float | None:
    """Megabytes (2²⁰ bytes) resident now; None where the system does not say."""
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """Most megabytes resident at any time since `reset_peak`, or since the start where it failed."""
    peak = _status_mb("VmHWM")
    if peak is not None:
        return peak
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def _status_mb(name: str) -> float | None:
    text = _field(STATUS, name)
    return None if text is None else int(text.split()[0]) / 2**10


def _field(path: Path, name: str) -> str | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _total_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0
