"""How a loop over time runs: what changes its speed, and its numbers by rounding alone, for each platform.

    carry, outputs = scan(settings, step, carry, inputs)          `jax.lax.scan`, as the platform likes it

A step of a recurrent network is little work. On a CPU a loop costs next to nothing beside it, one step per
iteration compiles fastest, and what is added up over time goes chunk by chunk through the cache. On a GPU
every operation of an iteration is a kernel to be launched, however little it has to do: the products with
the inputs of several steps are one kernel, and so are the stores of what several steps leave behind, if an
iteration has several steps; and a chunk has as many rows as it takes to fill the device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from lstm_jax.array_types import PyTree
from lstm_jax.jax_extensions.matmul_precision import default_precision
from lstm_jax.validation import require_positive_int


class Platform(NamedTuple):
    """What is best on one kind of device.

    Attributes:
        steps: of an iteration of the loop.
        rows: (steps times batch) of a chunk: enough for a matrix product at full rate, few enough for the
            cache, or for the memory that a chunk's factors take.
        apart: whether the compiler has to be kept from computing results of one step of an iteration anew in
            the next ones.
    """

    steps: int
    rows: int
    apart: bool


CPU = Platform(steps=1, rows=512, apart=False)
GPU = Platform(steps=8, rows=8192, apart=True)
PLATFORMS = {"cpu": CPU, "gpu": GPU, "cuda": GPU, "rocm": GPU}
"""By the name of a device's platform; any other is treated as a CPU is."""


class ScanSettings(NamedTuple):
    """The settings of one loop; hashable.

    Attributes:
        reverse: from the last step to the first.
        unroll: steps of an iteration; the platform's own, or a divisor of T near it, if None.
        platform: what is best on the device.
        precision: of matrix products, as `jax.default_matmul_precision` said where the loop was asked for.
    """

    reverse: bool = False
    unroll: int | None = None
    platform: Platform = CPU
    precision: str | None = None

    @property
    def opposite(self) -> "ScanSettings":
        """The same in the other direction of time."""
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
    """The loop for the platform at hand.

    Raises:
        ValueError: ``unroll`` is neither a positive integer nor ``"auto"``.
    """
    platform = PLATFORMS.get(platform_name(), CPU)
    return ScanSettings(reverse, checked_unroll(unroll), platform, default_precision())


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
        apart: whether a step's results are to be there before the next step of the iteration, where the
            platform asks for it. XLA for a GPU would compute C_t in every later step again, from the
            pre-activations of all the steps before.
    """
    length = jax.tree.leaves(inputs)[0].shape[0]
    unroll = settings.unroll or divisor_near(length, settings.platform.steps)

    def held_apart(carry: PyTree, inputs: PyTree) -> tuple[PyTree, PyTree]:
        return lax.optimization_barrier(step(carry, inputs))

    body = held_apart if apart and unroll > 1 and settings.platform.apart else step
    return lax.scan(body, carry, inputs, reverse=settings.reverse, unroll=unroll)
