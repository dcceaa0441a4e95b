"""A fixed set of sequences as batches: epochs, shuffling, padding, missing values, standardisation.

All on the host and in NumPy, for sequences in memory or in memory-mapped files; `lstm_jax.training.fit` puts
the batches on the devices. For more than that take grain, which can use the parts of this room: `windows` is
a source of grain, and `padded` a ``batch_fn``.

Start with `sequence_batches`: `batches` of sequences of different lengths. `length_buckets` says to which
lengths they are padded, `standardization` measures and applies mean and deviation, `windows` cuts a long
array.

May import: the files at the root of `lstm_jax`.
"""

from lstm_jax.datasets.padding import SequenceBatch, padded
from lstm_jax.datasets.sequence_batches import Batches, batches
from lstm_jax.datasets.standardization import (
    ConstantColumnsWarning,
    Standardization,
    standardization_of,
)
from lstm_jax.datasets.windows import Windows, windows

__all__ = [
    "Batches",
    "ConstantColumnsWarning",
    "SequenceBatch",
    "Standardization",
    "Windows",
    "batches",
    "padded",
    "standardization_of",
    "windows",
]
