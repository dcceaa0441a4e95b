r"""Six common claims about recurrent gradients, measured and judged.

Each is put to a number of cases: one number each, and whether it holds there. `clipping` has the seventh.

Units: decades are log10 of a spectral norm or of a factor; lags and stretches are in steps.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.derivation_audit.claim import Line, Saying, one_case
from experiments.derivation_audit.networks import (
    Look,
    Looks,
    Sizes,
    begin,
    cells,
    corpus,
    plain,
    stretch,
)
from lstm_jax import Cell, LSTMParams, LSTMState, lstm, unroll

VANISHED = -3.0
"""A norm that has fallen by so many decades counts as vanished."""


def chosen(looks: Looks) -> dict[str, Look]:
    """The LSTMs in which most claims are tested, by their labels."""
    return {
        "forget bias 1, untrained": looks.untrained["lstm_1"],
        "forget bias 1, trained on text": looks.text["lstm_1"],
        "forget bias 1, trained on adding": looks.adding["lstm_1"],
        "chrono, untrained": looks.untrained["lstm_chrono"],
        "chrono, trained on adding": looks.adding["lstm_chrono"],
    }


def constant(looks: Looks, window: int = 100) -> Saying:
    """The LSTM's coefficient, and the vanilla network's product."""
    cases, lines = [], []
    for label, seen in chosen(looks).items():
        logs = np.log10(np.maximum(seen.gates["f"][:, 0], 1e-38))
        sums = np.concatenate([np.zeros_like(logs[:1]), np.cumsum(logs, axis=0)])
        products = sums[window:] - sums[:-window]
        spread = np.ptp(products, axis=0)
        unit = int(np.argsort(spread)[len(spread) // 2])
        cases.append(one_case(f"LSTM, {label}", float(spread[unit]), bool(spread[unit] < 0.01)))
        lines.append(Line(label, np.arange(len(products)), products[:, unit]))
    rnn = looks.untrained["rnn"].at("hh", window)
    cases.append(one_case(f"RNN, untrained: decades of ∂h_t/∂h_k at lag {window}", rnn, rnn < -1))
    return Saying(
        "constant",
        "The LSTM multiplies by a constant coefficient, the RNN by a product",
        f"how far the product of {window} forget gates of one unit varies along one text, in decades "
        "(the median unit); holds below 0.01",
        tuple(cases),
        "both multiply, step after step; the LSTM's factors are diagonal, lie between 0 and 1, and "
        "change with the input",
        tuple(lines),
        "first step of the product",
        f"decades of ∏ f over {window} steps",
    )


def switches(looks: Looks) -> Saying:
    """Gates that are 0 or 1."""
    edges = np.linspace(0, 1, 41)
    cases, lines = [], []
    for label, seen in chosen(looks).items():
        gates = np.concatenate([seen.gates[name].ravel() for name in ("i", "f", "o")])
        share = float(np.mean((gates < 0.05) | (gates > 0.95)))
        cases.append(one_case(label, share, share > 0.9))
        lines.append(
            Line(
                label,
                (edges[1:] + edges[:-1]) / 2,
                np.histogram(gates, edges)[0] / gates.size,
            )
        )
    return Saying(
        "switches",
        "Gates are 0 or 1, so the gradient passes or is blocked",
        "share of the activations of i, f and o within 0.05 of 0 or 1; holds above 0.9",
        tuple(cases),
        "gates weigh; one that is 0 or 1 has the derivative 0 and would not learn",
        tuple(lines),
        "activation of a gate",
        "share of activations",
    )


def exceeds(looks: Looks) -> Saying:
    """Derivatives above 1."""
    cases, lines = [], []
    for label, seen in chosen(looks).items():
        for block, called in (("carousel", "additive path ∏ f"), ("total_c", "dC_t/dC_k")):
            most = float(seen.curves[block][1:].max())
            cases.append(one_case(f"{called}, {label}", most, most > 0.01))
        lines.append(Line(label, seen.lags, seen.curves["total_c"]))
    return Saying(
        "exceeds",
        "The additive structure lets the derivative exceed 1",
        "largest decades at any lag from 1; holds above 0.01",
        tuple(cases),
        "the additive path is below 1 at every lag; only the paths through W_h lift dC_t/dC_k above 1, as in "
        "a vanilla network",
        tuple(lines),
        "lag",
        "decades of dC_t/dC_k",
    )


def three_hundred(looks: Looks, lag: int = 300) -> Saying:
    """What is left after 300 steps."""
    names = {"lstm_0": "forget bias 0", "lstm_1": "forget bias 1", "lstm_chrono": "chrono"}
    cases, lines = [], []
    for stage, seen in (
        ("untrained", looks.untrained),
        ("trained on text", looks.text),
        ("trained on adding", looks.adding),
    ):
        for name, called in names.items():
            if name in seen:
                value = seen[name].at("total_c", lag)
                cases.append(one_case(f"{called}, {stage}", value, value < VANISHED))
                lines.append(
                    Line(
                        f"{called}, {stage}",
                        seen[name].lags,
                        seen[name].curves["total_c"],
                    )
                )
    return Saying(
        "three_hundred",
        "Past some 300 steps the LSTM vanishes as well",
        f"decades of dC_t/dC_k at lag {lag}; holds below {VANISHED:g}",
        tuple(cases),
        "there is no such number: it is the forget gates that decide, by their bias at the start and "
        "by the task in the end",
        tuple(lines),
        "lag",
        "decades of dC_t/dC_k",
    )


@partial(jax.jit, static_argnums=0)
def _memories(steps: int, bias: jax.Array) -> jax.Array:
    cell = lstm(1, 1)
    # With b_g = 0 nothing is written, so all of C_t comes from C_0.
    b = jnp.stack([-jnp.abs(bias), bias, jnp.zeros_like(bias), jnp.zeros_like(bias)])
    params = LSTMParams(jnp.zeros((1, 4), b.dtype), jnp.zeros((1, 4), b.dtype), b)
    one = jnp.ones(1, b.dtype)

    def step(state: LSTMState, x: jax.Array) -> tuple[LSTMState, jax.Array]:
        state, _ = cell.step(params, state, x)
        return state, state.c[0]

    return lax.scan(step, LSTMState(0 * one, one), jnp.zeros((steps, 1), b.dtype))[1]


def kept_share(bias: float, steps: int) -> np.ndarray:
    """What is left of C_0 with f = σ(bias), i = σ(−|bias|) and no other weights, for t = 0 … steps."""
    with jax.enable_x64(True):
        return np.concatenate([[1.0], np.asarray(_memories(steps, jnp.asarray(bias)))])


def closing(looks: Looks, steps: int = 300) -> Saying:
    """What closed gates keep."""
    cases, lines = [], []
    for bias, called in (
        (1.0, "b_f = 1"),
        (3.0, "b_f = 3"),
        (5.0, "b_f = 5"),
        (7.0, "b_f = 7"),
        (10.0, "b_f = 10"),
        (-10.0, "b_f = −10 (forget gate closed)"),
    ):
        kept = kept_share(bias, steps)
        left = float(kept[-1])
        cases.append(one_case(f"{called}: f = {1 / (1 + np.exp(-bias)):.5f}", left, left > 0.5))
        lines.append(Line(called, np.arange(steps + 1), kept))
    for label, seen in chosen(looks).items():
        holding = (seen.gates["f"] > 0.95) & (seen.gates["i"] < 0.05)
        share = float(holding.mean())
        cases.append(
            one_case(f"share of steps with f > 0.95 and i < 0.05, {label}", share, share > 0.5)
        )
    return Saying(
        "closing",
        "Closing a gate keeps the memory (f = 1, i = 0)",
        f"share of C_0 that is left after {steps} steps with i = σ(−|b_f|), and the share of all units "
        "and steps of a network that hold so; holds above 0.5",
        tuple(cases),
        "closing the input gate while the forget gate is *open* keeps it, for about 1/(1−f) steps; "
        "closing the forget gate erases it",
        tuple(lines),
        "step",
        "share of $C_0$ left",
    )


def sizes_of_states(cell: Cell, params: Any, xs: Any) -> np.ndarray:
    """Decades of max|h_t|, [T], in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), (params, xs))
        _, hs = unroll(cell, *wide)
        # A network whose units are all off has the size 0.
        return np.log10(np.maximum(np.max(np.abs(np.asarray(hs)), axis=(1, 2)), 1e-9))


def relu(looks: Looks, sizes: Sizes, seed: int) -> Saying:
    """States of ReLU networks."""
    inputs = corpus().vocabulary.size
    xs = stretch(sizes, "text")
    key = jax.random.key(seed)
    labels = {
        "relu_small": "uniform ±1/√H",
        "relu": "orthogonal",
        "relu_identity": "identity",
        "relu_large": "2 × orthogonal",
    }
    cases, lines = [], []
    made = cells(inputs, sizes.hidden)
    trials = {
        f"{label}, untrained": begin(made[name], inputs, key).cell for name, label in labels.items()
    }
    trials["orthogonal, trained on text"] = looks.relu.cell
    cell = plain("relu", inputs, sizes.hidden)
    for label, params in trials.items():
        decades = sizes_of_states(cell, params, xs)
        most = float(decades.max())
        cases.append(one_case(label, most, most > 3))
        lines.append(Line(label, np.arange(1, len(decades) + 1), decades))
    return Saying(
        "relu",
        "ReLU instead of tanh goes out of bounds in an RNN",
        f"decades of the largest |h_t| over {sizes.looked_at} steps of text; holds above 3",
        tuple(cases),
        "it is the size of W_h that decides: with some units off at each step an orthogonal W_h stays in "
        "bounds, the identity adds up its inputs, and twice an orthogonal one explodes",
        tuple(lines),
        "step",
        "decades of max |h|",
    )
