"""Memory: what there is and what a command will need, so that it refuses before the machine does."""

import os
from pathlib import Path

import jax

GIB = 2**30
MEMINFO = Path("/proc/meminfo")
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class TooLargeError(ValueError):
    """Sizes that need more memory than there is."""


def lstm_bytes(input_size: int, hidden_size: int, rows: int, *, copies: int = 5) -> int:
    """An estimate of what the training of an LSTM fills, in float32.

    Args:
        input_size: D.
        hidden_size: H.
        rows: steps times samples of a batch.
        copies: of the parameters: with gradient, update and Adam's two moments 5.
    """
    params = 4 * hidden_size * (input_size + hidden_size)
    return 4 * (copies * params + rows * (2 * input_size + 12 * hidden_size))


def available_bytes() -> int | None:
    """The memory that a command may fill: of the device, or of the machine; None if nobody says."""
    limits = []
    device = jax.devices()[0]
    if device.platform != "cpu":
        stats = device.memory_stats() or {}
        return stats.get("bytes_limit")
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in CGROUPS:
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits, default=None)


def require_memory(options: str, needed: int) -> None:
    """Refuse sizes that need more memory than there is.

    Args:
        options: that make up the size, for the message.
        needed: in bytes, an estimate.

    Raises:
        TooLargeError: with both numbers.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise TooLargeError(
            f"Size mismatch: expected {options} that need at most {available / GIB:,.1f} GiB of memory, got "
            f"some that need {needed / GIB:,.1f} GiB. Use smaller ones."
        )
