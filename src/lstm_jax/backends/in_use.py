"""Which backends this installation has on this machine, in words."""

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
        threads = library.most_threads()
        on_cpu = (
            f"the compiled kernel ({status.instruction_set}, up to {threads} "
            f"thread{'s' if threads > 1 else ''}); what it does not run, the loop in XLA."
        )
    else:
        on_cpu = f"the loop in XLA, without the compiled kernel. {status.reason}"
    return (
        f"On a CPU: {on_cpu}\n"
        "On a GPU or a TPU: the loop in XLA; NVIDIA's kernel where "
        'backend="cudnn" asks for it.'
    )
