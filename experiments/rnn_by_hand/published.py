r"""A published worked example of an RNN, forward and back: its random draws and the digits it prints.

It is the notebook "Building a Recurrent Neural Network, step by step" (version 3), which many courses
use. Its equation has the batch in columns,

    a_t = tanh(W_ax x_t + W_aa a_{t−1} + b_a)        x[n_x, m, T], a[n_a, m], b_a[n_a, 1]
    ŷ_t = softmax(W_ya a_t + b_y)                    ŷ[n_y, m]

with n_x = 3, n_y = 2, n_a = 5, m = 10, T = 4. Here the batch is in rows, so every matrix is transposed:
xs[T, m, n_x], w_x = W_axᵀ, w_h = W_aaᵀ, b = b_a's only column.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from lstm_jax import RNNParams, RNNState
from lstm_jax.array_types import Array


class Problem(NamedTuple):
    """One worked example in row layout.

    Attributes:
        params: ``w_x[3, 5]``, ``w_h[5, 5]``, ``b[5]``.
        xs: [T, 10, 3].
        state0: ``h[10, 5]``.
        d_hs: ∂L/∂hs, [T, 10, 5].
    """

    params: RNNParams
    xs: Array
    state0: RNNState
    d_hs: Array


class Printed(NamedTuple):
    """What the example prints: where in its own layout, and the text of the number."""

    name: str
    entry: tuple[int, ...]
    text: str


FORWARD = (
    *(
        Printed("a", (4, 1, t), text)
        for t, text in enumerate(("-0.99999375", "0.77911235", "-0.99861469", "-0.99833267"))
    ),
    *(
        Printed("y_pred", (1, 3, t), text)
        for t, text in enumerate(("0.79560373", "0.86224861", "0.11118257", "0.81515947"))
    ),
    # caches[1] is x, so that caches[1][1][3] is x[1][3].
    *(
        Printed("caches[1]", (1, 3, t), text)
        for t, text in enumerate(("-1.1425182", "-0.34934272", "-0.20889423", "0.58662319"))
    ),
)
CELL_BACKWARD = (
    Printed("dxt", (1, 2), "-0.460564103059"),
    Printed("da_prev", (2, 3), "0.0842968653807"),
    Printed("dWax", (3, 1), "0.393081873922"),
    Printed("dWaa", (1, 2), "-0.28483955787"),
    Printed("dba", (4, 0), "0.80517166"),
)
BACKWARD = (
    Printed("dx", (1, 2, 0), "-2.07101689"),
    Printed("dx", (1, 2, 1), "-0.59255627"),
    Printed("dx", (1, 2, 2), "0.02466855"),
    Printed("dx", (1, 2, 3), "0.01483317"),
    Printed("da0", (2, 3), "-0.314942375127"),
    Printed("dWax", (3, 1), "11.2641044965"),
    Printed("dWaa", (1, 2), "2.30333312658"),
    Printed("dba", (4, 0), "-0.74747722"),
)


def draws(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Standard normal numbers after seed 1, array by array in the order given."""
    # The example seeds NumPy's old generator; the new ones give other numbers.
    rng = np.random.RandomState(1)  # noqa: NPY002
    return {name: rng.randn(*shape) for name, shape in shapes.items()}


def in_rows(
    x: np.ndarray, a0: np.ndarray, wax: np.ndarray, waa: np.ndarray, ba: np.ndarray, da: np.ndarray
) -> Problem:
    """Turn the example's columns into rows.

    Args:
        x: [3, 10, T].
        a0: [5, 10].
        wax: [5, 3].
        waa: [5, 5].
        ba: [5, 1].
        da: [5, 10, T].
    """
    return Problem(
        params=RNNParams(jnp.asarray(wax.T), jnp.asarray(waa.T), jnp.asarray(ba[:, 0])),
        xs=jnp.asarray(x.T),
        state0=RNNState(jnp.asarray(a0.T)),
        d_hs=jnp.asarray(da.T),
    )


def _draw_all(*steps: int) -> dict[str, np.ndarray]:
    """The example's draws for so many steps, in its order."""
    drawn = draws(
        {
            "x": (3, 10, *steps),
            "a0": (5, 10),
            "wax": (5, 3),
            "waa": (5, 5),
            "wya": (2, 5),
            "ba": (5, 1),
            "by": (2, 1),
            "da": (5, 10, *steps),
        }
    )
    # The output layer is drawn but has no part in the backward pass.
    del drawn["wya"], drawn["by"]
    return drawn


def sequence_problem() -> Problem:
    """The example's backward pass over four time steps."""
    return in_rows(**_draw_all(4))


def cell_problem(bias: str) -> Problem:
    """The example's backward pass through one cell, as a sequence of one step.

    Args:
        bias: ``"listed"`` for the bias that its listing draws, under the name b; ``"left over"`` for ba,
        which
            that listing does not draw, from an earlier forward pass.
    """
    drawn = _draw_all()
    drawn["x"], drawn["da"] = drawn["x"][..., None], drawn["da"][..., None]
    if bias == "left over":
        drawn["ba"] = _forward_draws()["ba"]
    return in_rows(**drawn)


def _forward_draws() -> dict[str, np.ndarray]:
    """The draws of the forward pass, where W_aa comes before W_ax."""
    return draws(
        {
            "x": (3, 10, 4),
            "a0": (5, 10),
            "waa": (5, 5),
            "wax": (5, 3),
            "wya": (2, 5),
            "ba": (5, 1),
            "by": (2, 1),
        }
    )


def forward_problem() -> tuple[Problem, Array, Array]:
    """The example's forward pass over four steps, and its output layer, w_y[5, 2] and b_y[2]."""
    drawn = _forward_draws()
    w_y, b_y = jnp.asarray(drawn.pop("wya").T), jnp.asarray(drawn.pop("by")[:, 0])
    return in_rows(**drawn, da=np.zeros((5, 10, 4))), w_y, b_y


def digits_like(text: str, value: float) -> str:
    """Write a number as the example prints it: entries of arrays to 8 decimals, others to 12 digits.

    NumPy leaves out the zeros at the end of an array's entry.
    """
    decimals = len(text.partition(".")[2])
    return f"{value:.8f}".rstrip("0") if decimals <= 8 else f"{value:.12g}"
