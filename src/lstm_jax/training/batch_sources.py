"""Where the batches of a run come from: arrays on the devices, files mapped into memory, or a stream.

    data                               the step takes                       what goes into a checkpoint
    arrays                             all of them, on the devices          nothing: step and key pick
    arrays, some of them np.memmap     batch(data, step, key) of the host   nothing: step and key pick
    a stream (`streams`)               its next batch                       its position, of each process

Batches of files and streams are read ahead on a thread. On a mesh a stream gives each process its own part of
the samples; a file is the same for all processes.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lstm_jax.training.batch_source import BatchSource, Resident
from lstm_jax.training.mapped_source import MappedSource
from lstm_jax.training.options import RunError
from lstm_jax.training.problem_checks import require_leaves
from lstm_jax.training.step import Problem, TrainState
from lstm_jax.training.stream_source import StreamSource
from lstm_jax.training.streams import is_stream


def batch_source(
    problem: Problem, data: Any, state: TrainState, mesh: Mesh | None, sweep: bool
) -> BatchSource:
    """The source of what a user gave.

    Args:
        problem: whose ``batch`` is called.
        data: arrays, or a stream.
        state: the first `TrainState`; its key is the run's.
        mesh: over which the samples are spread, or None.
        sweep: whether the seeds are spread instead, and all of them see the same batches.

    Raises:
        RunError, ProblemError, SamplesError: data that give no batch.
    """
    if is_stream(data):
        return StreamSource(problem, data, mesh, sweep)
    require_leaves("Data", "data", data)
    if any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(data)):
        if sweep:
            raise RunError(
                "Data mismatch: expected one seed for memory-mapped arrays, whose rows the key picks, got "
                "several. Give a stream, as lstm_jax.datasets has, or arrays."
            )
        return MappedSource(problem, data, state, mesh)
    return Resident(problem, data, mesh)
