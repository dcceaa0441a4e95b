"""`jax.lax.scan` with settings for each platform, which change the speed, and the numbers only by rounding.

    carry, outputs = scan(settings, step, carry, inputs)

A step of a recurrent network is little work. On a CPU the loop itself costs almost nothing, one step per
iteration compiles fastest, and sums over time go chunk by chunk through the cache. On a GPU every operation
of an iteration launches a kernel, however small. With several steps per iteration, one kernel computes the
products with their inputs, and one stores their results; and a chunk has enough rows to fill the device.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
from jax import lax

from lstm_jax.array_types import PyTree
from lstm_jax.jax_extensions.matmul_precision import default_precision
from lstm_jax.validation import is_symbolic, require_positive_int


class Platform(NamedTuple):
    """The best settings for one kind of device.

    Attributes:
        steps: of an iteration of the loop.
        rows: (steps times batch) of a chunk: enough for a matrix product at full rate, few enough for the
            cache, or for the memory of a chunk's factors.
        apart: whether the compiler must be stopped from recomputing the results of one step of an iteration
            in the next steps.
    """

    steps: int
    rows: int
    apart: bool


CPU = Platform(steps=1, rows=512, apart=False)
GPU = Platform(steps=8, rows=8192, apart=True)
PLATFORMS = {"cpu": CPU, "gpu": GPU, "cuda": GPU, "rocm": GPU}
"""By the name of a device's platform; any other counts as a CPU."""


class ScanSettings(NamedTuple):
    """The settings of one loop; hashable.

    Attributes:
        reverse: from the last step to the first.
        unroll: steps of an iteration; if None, the platform's number or a divisor of T near it.
        platform: the best settings for the device.
        precision: of matrix products: the value of `jax.default_matmul_precision` when the loop was called.
    """

    reverse: bool = False
    unroll: int | None = None
    platform: Platform = CPU
    precision: str | None = None

    @property
    def opposite(self) -> "ScanSettings":
        """The same settings in the other direction of time."""
        return self._replace(reverse=not self.reverse)


def platform_name() -> str:
    """The platform of `device_here`."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else getattr(device, "platform", str(device))


def device_here() -> jax.Device:
    """The device on which JAX computes unless told otherwise."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return device if isinstance(device, jax.Device) else jax.local_devices(backend=device)[0]


def scan_settings(reverse: bool, unroll: int | str) -> ScanSettings:
    """The settings for the current platform.

    Raises:
        ValueError: ``unroll`` is neither a positive integer nor ``"auto"``.
    """
    platform = PLATFORMS.get(platform_name(), CPU)
    return _first_equal(
        ScanSettings(reverse, checked_unroll(unroll), platform, default_precision())
    )


@lru_cache
def _first_equal(settings: ScanSettings) -> ScanSettings:
    """The first settings of these values: JAX keeps those of each gradient, so equal ones are one object."""
    return settings


def checked_unroll(unroll: int | str) -> int | None:
    """The steps of an iteration, None for ``"auto"``.

    Raises:
        ValueError: ``unroll`` is neither a positive integer nor ``"auto"``.
    """
    if isinstance(unroll, str) and unroll == "auto":
        return None
    try:
        require_positive_int("unroll", unroll)
    except ValueError:
        raise ValueError(
            f'Option mismatch: expected unroll as a positive integer or "auto", got {unroll!r}.'
        ) from None
    return int(unroll)


def divisor_near(length: int, aim: int) -> int:
    """A divisor of ``length`` between half and one and a half times ``aim``, else ``aim`` itself."""
    for steps in range(min(length, aim * 3 // 2), aim // 2, -1):
        if length % steps == 0:
            return steps
    return min(length, aim)


def scan(
    settings: ScanSettings,
    step: Callable[[PyTree, Any], tuple[PyTree, PyTree]],
    carry: PyTree,
    inputs: PyTree,
    *,
    apart: bool = False,
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` with the settings of a loop.

    Args:
        settings: direction, and steps per iteration.
        step: ``step(carry, inputs of a step) -> (carry, outputs)``.
        carry: as in `jax.lax.scan`.
        inputs: pytree of arrays, time leading.
        apart: whether a step's results must be computed before the next step of the iteration, where the
            platform needs it. XLA for a GPU would recompute C_t in every later step, from the
            pre-activations of all the steps before.
    """
    length = jax.tree.leaves(inputs)[0].shape[0]
    # A loop whose length is known only when an export is called takes one step per iteration.
    unroll = 1
    if not is_symbolic(length):
        unroll = settings.unroll or divisor_near(length, settings.platform.steps)

    def step_apart(carry: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        return lax.optimization_barrier(step(carry, inputs))

    body = step_apart if apart and unroll > 1 and settings.platform.apart else step
    return lax.scan(body, carry, inputs, reverse=settings.reverse, unroll=unroll)
