"""Which backends this installation has on this machine, in words."""

import os

from lstm_jax.backends.cpu_kernel import library


def show_backends() -> str:
    """What runs recurrent layers on a CPU and on other devices, one line each, and why not what is missing.

    Returns:
        The lines.

    Example:
        >>> import lstm_jax
        >>> print(lstm_jax.show_backends())  # doctest: +ELLIPSIS
        On a CPU: ...
        On a GPU or a TPU: the loop in XLA; NVIDIA's kernel where backend="cudnn" asks for it.
    """
    status = library.status()
    if status.available:
        threads = _most_threads()
        on_cpu = (
            f"the loop in XLA; the compiled kernel ({status.instruction_set}, up to {threads} "
            f'thread{"s" if threads > 1 else ""}) where backend="cpu_kernel" asks for it.'
        )
    else:
        on_cpu = f"the loop in XLA, without the compiled kernel. {status.reason}"
    return (
        f"On a CPU: {on_cpu}\n"
        "On a GPU or a TPU: the loop in XLA; NVIDIA's kernel where "
        'backend="cudnn" asks for it.'
    )


def _most_threads() -> int:
    """Cores that the process may use; fewer where ``LSTM_JAX_THREADS`` says so."""
    # Not on macOS and Windows.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    asked = os.environ.get("LSTM_JAX_THREADS", "")
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores
