"""The speed limit of the machine: one large square matrix product, in XLA and in PyTorch."""

from collections.abc import Callable
from typing import Any

from benchmarks.device_and_precision import dtype_of, torch_place
from benchmarks.machine import cores_allowed
from benchmarks.timed_program import Contestant, jitted

NAMES = ("XLA", "PyTorch")


def flops(size: int) -> float:
    """Operations of one product."""
    return 2.0 * size**3


def contestant(name: str, arguments: dict[str, Any]) -> Contestant:
    """One product of two square matrices."""
    size, setting = arguments["size"], (arguments["device"], arguments["precision"])
    if name == "XLA":
        import jax
        import jax.numpy as jnp

        keys = jax.random.split(jax.random.key(0))
        dtype = jnp.dtype(dtype_of(setting[1]))
        a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
        return jitted(lambda a, b: a @ b, a, b)
    import torch

    torch.set_num_threads(cores_allowed())
    place = torch_place(*setting)
    left, right = torch.randn(size, size, **place), torch.randn(size, size, **place)

    def call() -> None:
        with torch.no_grad():
            torch.mm(left, right)
        if setting[0] == "gpu":
            torch.cuda.synchronize()

    def build() -> Callable[[], None]:
        return call

    return Contestant(build)
