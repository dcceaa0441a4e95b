"""Training tasks with a long lag between cause and effect.

Start with `long_lag`: adding, temporal order and copying, drawn on the device from a key, and the loss of a
network without a memory on them.

May import: the files at the root of `lstm_jax`.
"""

from lstm_jax.tasks.long_lag import (
    Examples,
    adding,
    adding_floor,
    copy_floor,
    copy_memory,
    temporal_order,
)

__all__ = [
    "Examples",
    "adding",
    "adding_floor",
    "copy_floor",
    "copy_memory",
    "temporal_order",
]
