r"""The LSTM of the derivations, gate by gate, and the values of its forward pass that all of them need.

    z_a = x_t W_xa + h_{t−1} W_ha + b_a                    a one of i, f, g, o
    C_t = f ⊙ C_{t−1} + i ⊙ g + e_C                  e_C = 0: its gradient is the total cotangent δC_t
    h_t = o ⊙ tanh C_t + e_h                         e_h = 0: its gradient is the total cotangent δh_t
    logits_t = h_t V + b_y

    ∂C_t/∂z_i = g i(1−i)     ∂C_t/∂z_f = C_{t−1} f(1−f)     ∂C_t/∂z_g = i (1−g²)
    ∂h_t/∂z_o = tanh C_t o(1−o)                             ∂h_t/∂C_t = o (1 − tanh² C_t)

Each gate has leaves of its own, so that an audit names the gate. What is written by hand is NumPy.

Axes: x[T, B, D], h and C [T, B, H], classes y[T, B] (−1: no loss there); a gate's w_x[D, H], w_h[H, H],
b[H]; v[H, K].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import LSTMState
from lstm_jax.array_types import Array

GATES = ("i", "f", "g", "o")
INTO_MEMORY = ("i", "f", "g")


class Gate(NamedTuple):
    """One gate's parameters."""

    w_x: Any
    w_h: Any
    b: Any


class Weights(NamedTuple):
    """All parameters; ``h`` and ``c`` [H] are the zeros e_h and e_C; no output layer where v is None."""

    i: Any
    f: Any
    g: Any
    o: Any
    h: Any
    c: Any
    v: Any = None
    b_y: Any = None


class Residuals(NamedTuple):
    """Values of the forward pass that backward passes read, each [T, B, H], ``x`` [T, B, D].

    Attributes:
        x, h_prev, c_prev: the inputs of each step.
        i, f, g, o: the activated gates.
        c, h: the results of each step.
        c_z: ∂C_t/∂z_a for the gates a that write the memory.
        h_o: ∂h_t/∂z_o.
        h_c: ∂h_t/∂C_t.
    """

    x: np.ndarray
    h_prev: np.ndarray
    c_prev: np.ndarray
    i: np.ndarray
    f: np.ndarray
    g: np.ndarray
    o: np.ndarray
    c: np.ndarray
    h: np.ndarray
    c_z: dict[str, np.ndarray]
    h_o: np.ndarray
    h_c: np.ndarray


def step(params: Weights, state: LSTMState, x: dict[str, Array]) -> tuple[LSTMState, Array]:
    """The program whose gradient is in question: one step, for autodiff to differentiate."""
    z = {
        name: x["x"] @ gate.w_x + state.h @ gate.w_h + gate.b[None]
        for name, gate in zip(GATES, params[:4], strict=True)
    }
    i, f, o = (jax.nn.sigmoid(z[name]) for name in ("i", "f", "o"))
    c = f * state.c + i * jnp.tanh(z["g"]) + params.c[None]
    h = o * jnp.tanh(c) + params.h[None]
    return LSTMState(h, c), h


def softmax_loss(params: Weights, state: LSTMState, x: dict[str, Array]) -> Array:
    """Cross-entropy of the class ``x["y"]`` at one step, summed over the batch; none where it is −1."""
    logits = state.h @ params.v + params.b_y[None]
    wanted = jnp.maximum(x["y"], 0)[:, None]
    right = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted, axis=1)[:, 0]
    return -jnp.sum(jnp.where(x["y"] < 0, 0.0, right))


def forward(params: Weights, state0: LSTMState, xs: dict[str, Any]) -> Residuals:
    """Run the cell in NumPy and keep what every derivation needs."""
    gates = dict(zip(GATES, params[:4], strict=True))
    h, c = np.asarray(state0.h), np.asarray(state0.c)
    rows = []
    for x in np.asarray(xs["x"]):
        z = {
            name: x @ np.asarray(gate.w_x) + h @ np.asarray(gate.w_h) + np.asarray(gate.b)
            for name, gate in gates.items()
        }
        i, f, o = (1 / (1 + np.exp(-z[name])) for name in ("i", "f", "o"))
        g = np.tanh(z["g"])
        before = (x, h, c)
        c = f * c + i * g
        h = o * np.tanh(c)
        rows.append((*before, i, f, g, o, c, h))
    x, h_prev, c_prev, i, f, g, o, c, h = (np.stack(column) for column in zip(*rows, strict=True))
    return Residuals(
        *(x, h_prev, c_prev, i, f, g, o, c, h),
        c_z={"i": g * i * (1 - i), "f": c_prev * f * (1 - f), "g": i * (1 - g**2)},
        h_o=np.tanh(c) * o * (1 - o),
        h_c=o * (1 - np.tanh(c) ** 2),
    )


def probabilities(params: Weights, residuals: Residuals) -> np.ndarray:
    """ŷ_t = softmax(h_t V + b_y), [T, B, K]."""
    logits = residuals.h @ np.asarray(params.v) + np.asarray(params.b_y)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def logit_cotangents(params: Weights, residuals: Residuals, xs: dict[str, Any]) -> np.ndarray:
    """ŷ_t − y_t, [T, B, K]; 0 where there is no loss."""
    shown, y = probabilities(params, residuals), np.asarray(xs["y"])
    return np.where(y[..., None] < 0, 0.0, shown - np.eye(shown.shape[-1])[np.maximum(y, 0)])


def through(params: Weights, d_z: dict[str, np.ndarray]) -> np.ndarray:
    """Σ δz_a W_haᵀ over the gates given: what one step sends back to h_{t−1}, [B, H]."""
    return sum(
        (d @ np.asarray(getattr(params, name).w_h).T for name, d in d_z.items()),
        np.zeros((1, 1)),
    )


def contributions(
    residuals: Residuals,
    d_z: dict[str, np.ndarray],
    d_h: np.ndarray,
    d_c: np.ndarray,
    d_logits: np.ndarray | None = None,
) -> Weights:
    """Each step's own part of every leaf, from the cotangents that a derivation found.

    Args:
        residuals: the forward pass.
        d_z: δz_a for the four gates, each [T, B, H].
        d_h: δh_t.
        d_c: δC_t.
        d_logits: [T, B, K], where there is an output layer.

    Returns:
        Leaves [T, *shape]: x_tᵀ δz_t, h_{t−1}ᵀ δz_t and so on.
    """

    def outer(rows: np.ndarray, d: np.ndarray) -> np.ndarray:
        return np.einsum("tbm,tbn->tmn", rows, d)

    gates = {
        name: Gate(outer(residuals.x, d), outer(residuals.h_prev, d), d.sum(1))
        for name, d in d_z.items()
    }
    found = Weights(**gates, h=d_h.sum(1), c=d_c.sum(1))
    if d_logits is None:
        return found
    return found._replace(v=outer(residuals.h, d_logits), b_y=d_logits.sum(1))


def problem(
    seed: int,
    length: int,
    size: int,
    *,
    inputs: int = 4,
    classes: int = 0,
    batch: int = 3,
    spread: float = 1.0,
    every: bool = False,
) -> tuple[Weights, LSTMState, dict[str, Array]]:
    """A random LSTM with uniform weights, ±1/√H as `lstm_jax.lstm` has them, and a random sequence.

    Args:
        seed: of the draw.
        length: T.
        size: H.
        inputs: D.
        classes: K; without an output layer if 0.
        batch: B.
        spread: the weights' width, in 1/√H.
        every: whether there is a class at every step, or at the last one alone.

    Returns:
        ``(params, state0, xs)``; xs holds ``x``, the classes ``y`` and the weights ``r`` of a linear loss.
    """
    rng = np.random.default_rng(seed)
    scale = spread / np.sqrt(size)

    def draw(*shape: int) -> Array:
        return jnp.asarray(rng.uniform(-scale, scale, shape))

    # Forget bias 1, as in `lstm_jax.lstm`.
    gates = {
        name: Gate(draw(inputs, size), draw(size, size), draw(size) + (1.0 if name == "f" else 0.0))
        for name in GATES
    }
    params = Weights(**gates, h=jnp.zeros(size, float), c=jnp.zeros(size, float))
    if classes:
        params = params._replace(v=draw(size, classes), b_y=draw(classes))
    state = LSTMState(*(jnp.asarray(0.5 * rng.standard_normal((batch, size))) for _ in "hc"))
    at_all = np.arange(length)[:, None] >= (0 if every else length - 1)
    xs = {
        "x": jnp.asarray(rng.standard_normal((length, batch, inputs))),
        "y": jnp.asarray(np.where(at_all, rng.integers(0, max(classes, 1), (length, batch)), -1)),
        "r": jnp.asarray(rng.standard_normal((length, batch, size))),
    }
    return params, state, xs
