"""Recurrent networks as pure functions, with gradients derived by hand."""

from lstm_jax import interfaces, weights
from lstm_jax.backends.in_use import show_backends
from lstm_jax.backends.loop import Loop
from lstm_jax.cells import (
    Cell,
    GRUParams,
    GRUResetBeforeParams,
    GRUState,
    LSTMParams,
    LSTMState,
    LSTMVariantParams,
    RNNParams,
    RNNState,
    gru,
    lstm,
    rnn,
)
from lstm_jax.gradients.bptt import Gradients, bptt
from lstm_jax.gradients.gradient_check import GradientReport, LeafErrors, check_gradients
from lstm_jax.gradients.rtrl import (
    Influence,
    influence_gradient,
    influence_start,
    influence_step,
    rtrl,
)
from lstm_jax.initializers import chrono, orthogonal, scaled_identity, uniform, zeros
from lstm_jax.layers.stack import (
    Backward,
    Bidirectional,
    Both,
    Stack,
    StackParams,
    backward,
    bidirectional,
    stack,
)
from lstm_jax.layers.unroll_stack import unroll_stack
from lstm_jax.models_on_disk import Model, describe, from_description, load, save
from lstm_jax.time_loop.step_masks import Noise, Sequences
from lstm_jax.unrolling.unroll import unroll
from lstm_jax.validation import DtypeError, NonFiniteError, ShapeError

__version__ = "0.1.0"

__all__ = [
    "Backward",
    "Bidirectional",
    "Both",
    "Cell",
    "DtypeError",
    "GRUParams",
    "GRUResetBeforeParams",
    "GRUState",
    "GradientReport",
    "Gradients",
    "Influence",
    "LSTMParams",
    "LSTMState",
    "LSTMVariantParams",
    "LeafErrors",
    "Loop",
    "Model",
    "Noise",
    "NonFiniteError",
    "RNNParams",
    "RNNState",
    "Sequences",
    "ShapeError",
    "Stack",
    "StackParams",
    "backward",
    "bidirectional",
    "bptt",
    "check_gradients",
    "chrono",
    "describe",
    "from_description",
    "gru",
    "influence_gradient",
    "influence_start",
    "influence_step",
    "interfaces",
    "load",
    "lstm",
    "orthogonal",
    "rnn",
    "rtrl",
    "save",
    "scaled_identity",
    "show_backends",
    "stack",
    "uniform",
    "unroll",
    "unroll_stack",
    "weights",
    "zeros",
]
