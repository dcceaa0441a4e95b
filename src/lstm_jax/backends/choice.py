"""The backend of a network: the loop in XLA, or a kernel.

``backend="auto"`` is the compiled kernel on a CPU, where it is installed, runs the cell and has enough rows
(`lstm_jax.backends.cpu_kernel.conditions`); else the loop. On an H200 the gradient of an LSTM took the loop
0.2 to 0.7 of the time of NVIDIA's kernel as JAX calls it (`benchmarks/README.md`).
"""

from typing import Any

from lstm_jax.backends.cudnn.conditions import require_cudnn
from lstm_jax.backends.cudnn.kernel_call import Layers
from lstm_jax.backends.loop import Loop
from lstm_jax.time_loop.step_masks import StepMasks
from lstm_jax.validation import require_one_of

GRADIENTS = ("auto", "bptt", "autodiff")
BACKENDS = ("auto", "loop", "cpu_kernel", "cudnn")


def check_choice(gradient: Any, backend: Any) -> None:
    """Refuse an unknown gradient or backend, or a pair that does not fit.

    Raises:
        ValueError: naming the expected and the actual value.
    """
    require_one_of("gradient", gradient, GRADIENTS)
    if not isinstance(backend, Loop):
        require_one_of("backend", backend, (*BACKENDS, "lstm_jax.Loop(...)"))
    if backend in ("cudnn", "cpu_kernel") and gradient == "autodiff":
        raise ValueError(
            f'Option mismatch: expected gradient="auto" or "bptt" with backend="{backend}", got "autodiff". '
            "With the kernel, the gradient is the kernel's backward pass."
        )


def choose(backend: str | Loop, layers: Layers, dtype: Any, masks: StepMasks) -> Loop | None:
    """The loop that runs some layers, or None for NVIDIA's kernel.

    Args:
        backend: ``"auto"``, ``"loop"``, ``"cpu_kernel"``, ``"cudnn"`` or a `Loop`.
        layers: their cells.
        dtype: of the inputs.
        masks: of every step.

    Raises:
        ValueError: ``"cudnn"`` for layers or masks that its kernel cannot run, with the reason.
    """
    if backend == "cudnn":
        require_cudnn(layers, dtype, masks)
        return None
    return backend if isinstance(backend, Loop) else Loop()
