"""Training with optax: a pure step, runs that can be killed and resumed, many devices.

Start with `fit`: a whole run; `train_loop` is its loop, `step` one gradient step as a pure function of a
`Problem`, `several_steps` many of them in one compiled call. `progress` is all that decides where a run
goes on and ends, `processes` how several of them agree. `batch_sources` is where batches come from.
`run_folder` is where a run writes, alone; `checkpoints` are for resuming it, `log` is its log, `watch`
records measurements of the parameters during the run, `devices` makes the mesh, `predict` applies a network
to a data set. `gradient_penalty` is a penalty on vanishing gradients (Pascanu et al. 2013).

May import: `jax_extensions`, `cells`, `time_loop`, `gradients`, `backends`, `datasets` and the files at the
root.
"""

from lstm_jax.backends.unit_blocks import split_units
from lstm_jax.training.checkpoint_contents import CheckpointError
from lstm_jax.training.checkpoints import Checkpoints, Restored
from lstm_jax.training.devices import data_mesh, device_mesh, start_processes
from lstm_jax.training.divergence import DivergedError, DivergedWarning
from lstm_jax.training.fit import Fitted, fit
from lstm_jax.training.interruption import InterruptedRun
from lstm_jax.training.loaded_run import Loaded, load
from lstm_jax.training.log import LogError, read_log
from lstm_jax.training.log_entries import IncompleteRunWarning
from lstm_jax.training.options import CHECKPOINTS, Computation, RunError, RunOptions
from lstm_jax.training.predict import predict
from lstm_jax.training.problem_checks import Mean, ProblemError
from lstm_jax.training.processes import ProcessError
from lstm_jax.training.sample_axes import SamplesError
from lstm_jax.training.schedules import step_decay
from lstm_jax.training.step import (
    Metrics,
    Problem,
    TrainState,
    init_state,
    parameter_names,
    train_step,
)
from lstm_jax.training.step_programs import ManyShapesWarning
from lstm_jax.training.watch import Watch

__all__ = [
    "CHECKPOINTS",
    "CheckpointError",
    "Checkpoints",
    "Computation",
    "DivergedError",
    "DivergedWarning",
    "Fitted",
    "IncompleteRunWarning",
    "InterruptedRun",
    "Loaded",
    "LogError",
    "ManyShapesWarning",
    "Mean",
    "Metrics",
    "Problem",
    "ProcessError",
    "ProblemError",
    "Restored",
    "RunError",
    "RunOptions",
    "SamplesError",
    "TrainState",
    "Watch",
    "data_mesh",
    "device_mesh",
    "fit",
    "init_state",
    "load",
    "parameter_names",
    "predict",
    "read_log",
    "split_units",
    "start_processes",
    "step_decay",
    "train_step",
]
