r"""What a training run forgives: LSTMs trained with each wrong gradient of the audit.

The forward pass is always that of `lstm_jax.lstm`. `jax.lax.stop_gradient` and slopes of one's own take from
its derivative what a derivation left out, or put in what it put in wrongly:

    no way through o          z_o from a constant h_{t−1}                                derivation 1
    not along the memory      what C_t carries on from gates that saw a constant h_{t−1}   derivation 2
    tanh' of tanh             the slope 1 − tanh² g in place of 1 − g²                   derivation 3
    sigmoid on softmax        (ŷ − y) ŷ (1 − ŷ) at the logits                            derivation 3
    carries nothing           constant h_{t−1} and C_{t−1}                               derivation 4b
    carries C alone, h alone  one of them constant

W_h's own gradient has h_{t−1} as it is in all of them, as the derivations have. Derivation 4a is of another
network's bias and has no training of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lag_tasks import TASKS, same
from experiments.running import table
from experiments.side_by_side import Learned, Setting, able_lstm, begin, train
from lstm_jax import LSTMParams, LSTMState, unroll
from lstm_jax.array_types import Array, PyTree

FAULTS = (
    "none",
    "no way through o",
    "not along the memory",
    "tanh' of tanh",
    "sigmoid on softmax",
    "both of derivation 3",
    "carries C alone",
    "carries h alone",
    "carries nothing",
)


@jax.custom_jvp
def tanh_of_tanh(z: Array) -> Array:
    """Tanh z, with the slope 1 − tanh²(tanh z)."""
    return jnp.tanh(z)


@tanh_of_tanh.defjvp
def _tanh_of_tanh_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    g = jnp.tanh(primals[0])
    return g, (1 - jnp.tanh(g) ** 2) * tangents[0]


@jax.custom_vjp
def with_sigmoid_slope(logits: Array) -> Array:
    """The logits, with ŷ (1 − ŷ) for their derivative."""
    return logits


def _forward(logits: Array) -> tuple[Array, Array]:
    return logits, jax.nn.softmax(logits)


def _backward(shown: Array, d_logits: Array) -> tuple[Array]:
    return (d_logits * shown * (1 - shown),)


with_sigmoid_slope.defvjp(_forward, _backward)


def wrong_step(
    params: LSTMParams, state: LSTMState, x: Array, *, fault: str
) -> tuple[LSTMState, Array]:
    """One step of the LSTM whose derivative has a fault.

    Args:
        params: of `lstm_jax.lstm`.
        state: h and C, [B, H].
        x: [B, D].
        fault: of `FAULTS`.
    """
    return wrong_step_from(params.w_h, state, x @ params.w_x + params.b[None], fault=fault)


def wrong_step_from(
    w_h: Array, state: LSTMState, z_x: Array, *, fault: str
) -> tuple[LSTMState, Array]:
    """The same from z_x = x W_x + b, [B, 4H], which words have in a row of W_x."""
    constant = jax.lax.stop_gradient
    h_prev, c_prev = state
    if fault in ("carries nothing", "carries C alone"):
        h_prev = constant(h_prev)
    if fault in ("carries nothing", "carries h alone"):
        c_prev = constant(c_prev)
    tanh_g = tanh_of_tanh if fault in ("tanh' of tanh", "both of derivation 3") else jnp.tanh

    def gates(h: Array) -> list[Array]:
        return jnp.split(z_x + h @ w_h, 4, axis=-1)

    def memory(h: Array) -> Array:
        z_i, z_f, z_g, _ = gates(h)
        return jax.nn.sigmoid(z_f) * c_prev + jax.nn.sigmoid(z_i) * tanh_g(z_g)

    c = memory(h_prev)
    z_o = gates(constant(h_prev) if fault == "no way through o" else h_prev)[3]
    h = jax.nn.sigmoid(z_o) * jnp.tanh(c)
    # The same number; what is carried on knows of no h_{t−1}.
    carried = memory(constant(h_prev)) if fault == "not along the memory" else c
    return LSTMState(h, carried), h


def wrong_run(params: PyTree, xs: Array, *, fault: str) -> Array:
    """The states hs[T, B, H] of a network whose derivative has a fault."""
    zeros = jnp.zeros((xs.shape[1], params.w_h.shape[0]), xs.dtype)
    return unroll(partial(wrong_step, fault=fault), params, xs, LSTMState(zeros, zeros))[1]


def through(fault: str) -> Callable[[Array], Array]:
    """What the logits go through before the loss."""
    return with_sigmoid_slope if fault in ("sigmoid on softmax", "both of derivation 3") else same


SETTINGS = (Setting("recall", 50), Setting("adding_uniform", 100))
QUICK_SETTINGS = (
    Setting("recall", 8, updates=100, seeds=1),
    Setting("adding_uniform", 8, updates=100, seeds=1),
)


def wrong_trainings(
    settings: tuple[Setting, ...],
    size: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Train with every fault; a row for each, of types that JSON has.

    Args:
        settings: the tasks.
        size: H.
        progress: is told what comes next.
    """
    rows = []
    for setting in settings:
        task = TASKS[setting.task]
        models = begin(able_lstm(setting, size).init, size, setting)
        for fault in FAULTS:
            if task.is_number and through(fault) is not same:
                continue  # it has no softmax
            progress(f"training on {setting.task} with the fault: {fault}")
            run, right = partial(wrong_run, fault=fault), partial(wrong_run, fault="none")
            found = train(run, models, setting, through(fault), None if fault == "none" else right)
            rows.append({"task": setting.task, "fault": fault, **recorded(found)})
    return rows


def recorded(found: Learned) -> dict[str, Any]:
    """How the seeds did, and how the gradient that was descended stood to the right one."""
    row: dict[str, Any] = {
        "solved": found.solved,
        "diverged": found.diverged,
        "updates": found.updates,
        "last_score": [float(f"{scores[-50:].mean():.4g}") for scores in found.scores],
    }
    if found.cosines is not None:
        row["downhill"] = [float(f"{(own > 0).mean():.4g}") for own in found.cosines]
        row["cosine"] = [float(f"{np.median(own):.4g}") for own in found.cosines]
    return row


def wrong_table(rows: list[dict[str, Any]]) -> str:
    """A line for each task and fault."""
    lines = []
    for row in rows:
        at = [n for n in row["solved"] if n is not None]
        when = f"{int(np.median(at)):,} ({min(at):,} … {max(at):,})" if at else "-"
        cosine, downhill = "1", "100%"
        if "cosine" in row:
            cosine = f"{np.median(row['cosine']):.2f} ({min(row['cosine']):.2f} … {max(row['cosine']):.2f})"
            downhill = f"{min(row['downhill']):.0%} … {max(row['downhill']):.0%}"
        score = f"{np.median(row['last_score']):.3g}"
        solved = f"{len(at)}/{len(row['solved'])}"
        lines.append([f"{row['task']}, {row['fault']}", solved, when, score, cosine, downhill])
    header = ("task, fault", "solved", "updates", "last score", "cosine", "updates downhill")
    return table("Trained with wrong gradients", header, lines)
