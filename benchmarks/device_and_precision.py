"""The device on which the competitors compute, and their precision.

float32     numbers and products in float32
tf32        numbers in float32; factors of products rounded to TensorFloat-32 (10 bits of mantissa)
bfloat16    numbers in bfloat16, sums of products in float32
float16     likewise in float16
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args

Device = Literal["cpu", "gpu"]
Precision = Literal["float32", "tf32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
CONTROL = Path("/dev/nvidiactl")


def dtype_of(precision: Precision) -> str:
    """The name of the dtype of parameters, inputs and states."""
    return "float32" if precision == "tf32" else precision


def jax_settings(device: Device, precision: Precision) -> dict[str, str]:
    """The environment variables of JAX for a device and a precision."""
    settings = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    if device == "cpu":
        return {**settings, "JAX_PLATFORMS": "cpu"}
    products = "tensorfloat32" if precision == "tf32" else "float32"
    # The competitors share the device, and the memory of each is measured.
    more = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_DEFAULT_MATMUL_PRECISION": products}
    return {**settings, **more, "JAX_PLATFORMS": "cuda"}


def torch_place(device: Device, precision: Precision) -> dict[str, Any]:
    """PyTorch's ``device`` and ``dtype``, its products set to the precision."""
    import torch

    settings: Any = torch.backends
    for backend in (settings.cuda.matmul, settings.cudnn):
        backend.allow_tf32 = precision == "tf32"
    settings.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    settings.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return {
        "device": "cuda" if device == "gpu" else "cpu",
        "dtype": getattr(torch, dtype_of(precision)),
    }


def has_gpu() -> bool:
    """Whether there is an NVIDIA device."""
    return CONTROL.exists()


def gpu_name() -> str | None:
    """Name, memory and driver of the first device, from its driver; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None or not has_gpu():
        return None
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip().splitlines()[0]


def device_peak_mb() -> float | None:
    """Peak GPU memory of this process in megabytes (2²⁰ bytes); None without a GPU.

    In JAX this includes the trials of the compiler; in PyTorch it counts its tensors and workspaces.
    """
    if os.environ.get("JAX_PLATFORMS") != "cuda":
        return None
    if (torch := sys.modules.get("torch")) is not None:
        return float(torch.cuda.max_memory_allocated()) / 2**20
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else None
