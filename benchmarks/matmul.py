"""What the machine gives at best: a float32 matrix product of 2048 by 2048, in XLA and in PyTorch."""

from collections.abc import Callable
from typing import Any

from benchmarks.contestant import Contestant, jitted
from benchmarks.machine import cores_allowed

NAMES = ("XLA", "PyTorch")


def flops(size: int) -> float:
    """Operations of one product."""
    return 2.0 * size**3


def contestant(name: str, arguments: dict[str, Any]) -> Contestant:
    """One product of two square matrices."""
    size = arguments["size"]
    if name == "XLA":
        import jax
        import jax.numpy as jnp

        keys = jax.random.split(jax.random.key(0))
        a, b = (jax.random.normal(key, (size, size), jnp.float32) for key in keys)
        return jitted(lambda a, b: a @ b, a, b)
    import torch

    torch.set_num_threads(cores_allowed())
    left, right = torch.randn(size, size), torch.randn(size, size)

    def call() -> None:
        with torch.no_grad():
            torch.mm(left, right)

    def build() -> Callable[[], None]:
        return call

    return Contestant(build)
