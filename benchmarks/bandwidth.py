"""The other speed limits of the machine: reading and writing memory, and a core's own cache.

    a ← a + b      two arrays read and one written, 12 bytes for every float32

From main memory by XLA and by PyTorch, on all threads; from the cache by NumPy on one, whose numbers are in
the core's own cache after the first call.
"""

from collections.abc import Callable
from typing import Any

from benchmarks.machine import cores_allowed
from benchmarks.process import Entrant
from benchmarks.timed_program import Contestant

MEMORY, CACHE = "main memory", "a core's cache"
XLA, PYTORCH, NUMPY = "XLA", "PyTorch", "NumPy, one thread"


def cases(*, quick: bool) -> list[dict[str, Any]]:
    """The cases, for the jobs of a run: 256 MiB in two arrays, and 256 KiB."""
    return [
        {
            "part": "bandwidth",
            "title": f"a ← a + b, {level}",
            "ours": names[0],
            "case": {"level": level, "bytes": 12.0 * count},
            "entrants": [Entrant(name, __name__, {"count": count}) for name in names],
        }
        for level, names, count in (
            (MEMORY, (XLA, PYTORCH), 2**10 if quick else 2**25),
            (CACHE, (NUMPY,), 2**10 if quick else 2**15),
        )
    ]


def contestant(name: str, arguments: dict[str, Any]) -> Contestant:
    """One addition in place."""
    count = arguments["count"]
    makers = {XLA: _xla, PYTORCH: _pytorch, NUMPY: _numpy}
    return Contestant(makers[name](count))


def _xla(count: int) -> Callable[[], Callable[[], None]]:
    import jax
    import jax.numpy as jnp

    def build() -> Callable[[], None]:
        # Donated, so that the sum is written where a was.
        a, b = jnp.ones(count), jnp.ones(count)
        add = jax.jit(lambda a, b: a + b, donate_argnums=0).lower(a, b).compile()

        def call() -> None:
            nonlocal a
            a = jax.block_until_ready(add(a, b))

        return call

    return build


def _pytorch(count: int) -> Callable[[], Callable[[], None]]:
    import torch

    torch.set_num_threads(cores_allowed())
    a, b = torch.ones(count), torch.ones(count)

    def call() -> None:
        a.add_(b)

    return lambda: call


def _numpy(count: int) -> Callable[[], Callable[[], None]]:
    import numpy as np

    a, b = np.ones(count, np.float32), np.ones(count, np.float32)

    def call() -> None:
        np.add(a, b, out=a)

    return lambda: call
