r"""A vanilla network's gradients by hand: a published example digit by digit, and PyTorch side by side.

    forward    h_t = tanh(x_t W_x + h_{t−1} W_h + b)
    backward   δz_t = δh_t ⊙ (1 − h_t²);   δh_{t−1} = ∂ℓ/∂h_{t−1} + δz_t W_hᵀ
               ∂L/∂W_x = Σ x_tᵀ δz_t;   ∂L/∂W_h = Σ h_{t−1}ᵀ δz_t;   ∂L/∂b = Σ δz_t;   ∂L/∂x_t = δz_t W_xᵀ

Axes: xs[T, B, D], hs[T, B, H]; w_x[D, H], w_h[H, H], b[H]. Everything is computed in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax
from experiments.rnn_by_hand.published import (
    BACKWARD,
    CELL_BACKWARD,
    FORWARD,
    Printed,
    Problem,
    cell_problem,
    digits_like,
    forward_problem,
    sequence_problem,
)
from experiments.running import (
    NO_TORCH,
    Mismatch,
    exit_code,
    keep,
    max_difference,
    require_seed,
    table,
    torch_if_installed,
)
from gradient_flow.results_folder import claim_folder
from lstm_jax import Cell, Gradients, RNNParams, RNNState
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.gradients.bptt import rule_of

TOLERANCE = 1e-12
TIME, BATCH, INPUT, HIDDEN = 3, 3, 4, 5

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Config:
    """Hold a vanilla network's hand-derived gradients against published digits and against PyTorch."""

    out: Path = Path("experiments/rnn_by_hand/results")
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of a finished run."""
    seed: int = 0
    """Of the random network that is put beside PyTorch's."""


class Pair(NamedTuple):
    """One printed number: as published, by hand, by autodiff; ``same`` if every digit is reproduced."""

    name: str
    published: str
    by_hand: float
    autodiff: float
    same: bool


class WorkedExample(NamedTuple):
    """All that is computed: the published pairs, and the same quantities by each way."""

    forward: list[Pair]
    cell: list[Pair]
    cell_listed_bias: list[Pair]
    sequence: list[Pair]
    sides: dict[str, Arrays]


def by_autodiff(cell: Cell, problem: Problem) -> Gradients:
    """`jax.grad` of the plain scan, with the loss Σ hs ⊙ d_hs whose ∂L/∂hs is d_hs."""

    def loss(inputs: Gradients) -> jax.Array:
        _, hs = lstm_jax.unroll(cell, *inputs, gradient="autodiff")
        return jnp.sum(hs * problem.d_hs)

    return jax.grad(loss)(Gradients(problem.params, problem.xs, problem.state0))


def one_step_by_hand(cell: Cell, problem: Problem) -> Gradients:
    """The backward pass of a sequence of one step, from the cell's own rule and nothing else."""
    params, x, state0 = problem.params, problem.xs[0], problem.state0
    rule = rule_of(cell)
    _, residuals = rule.forward_step(params, state0, x)
    d_state0, d_z = rule.backward_step(
        params, rule.local_derivatives(residuals), RNNState(problem.d_hs[0])
    )
    d_params, d_x = rule.parameter_gradient(params, x, residuals, d_z)
    return Gradients(d_params, d_x[None], d_state0)


def in_columns(gradients: Gradients) -> Arrays:
    """Gradients in the published example's layout and under its names, batch in columns."""
    d_xs = np.asarray(gradients.xs).T
    d_h0 = np.asarray(gradients.state0.h).T
    return {
        "dx": d_xs,
        "dxt": d_xs[..., 0],
        "da0": d_h0,
        "da_prev": d_h0,
        "dWax": np.asarray(gradients.params.w_x).T,
        "dWaa": np.asarray(gradients.params.w_h).T,
        "dba": np.asarray(gradients.params.b)[:, None],
    }


def pairs(printed: Sequence[Printed], hand: Arrays, auto: Arrays) -> list[Pair]:
    """Put each published number beside ours."""
    found = []
    for name, index, text in printed:
        value = float(hand[name][index])
        found.append(
            Pair(
                name=name + "".join(f"[{n}]" for n in index),
                published=text,
                by_hand=value,
                autodiff=float(auto[name][index]),
                same=digits_like(text, value) == text,
            )
        )
    return found


def published_pairs() -> tuple[list[Pair], list[Pair], list[Pair]]:
    """One cell with the bias left over, one cell with the bias listed, and the whole sequence."""
    cell = lstm_jax.rnn(3, 5)
    steps = []
    for bias in ("left over", "listed"):
        problem = cell_problem(bias)
        steps.append(
            pairs(
                CELL_BACKWARD,
                in_columns(one_step_by_hand(cell, problem)),
                in_columns(by_autodiff(cell, problem)),
            )
        )
    problem = sequence_problem()
    by_hand = lstm_jax.bptt(cell, problem.params, problem.xs, problem.state0, d_hs=problem.d_hs)
    sequence = pairs(BACKWARD, in_columns(by_hand), in_columns(by_autodiff(cell, problem)))
    return steps[0], steps[1], sequence


def forward_pairs() -> list[Pair]:
    """The states, the answers and the inputs that the forward pass keeps: our loop, and the plain scan."""
    problem, w_y, b_y = forward_problem()
    sides = []
    for gradient in ("bptt", "autodiff"):
        _, hs = lstm_jax.unroll(
            lstm_jax.rnn(3, 5), problem.params, problem.xs, problem.state0, gradient=gradient
        )
        answers = jax.nn.softmax(hs @ w_y + b_y[None, None])
        columns = {"a": hs, "y_pred": answers, "caches[1]": problem.xs}
        sides.append({name: np.asarray(array).T for name, array in columns.items()})
    return pairs(FORWARD, *sides)


def random_arrays(seed: int) -> Arrays:
    """The network put beside PyTorch's, in PyTorch's names and layout, and the weights of its loss.

    Args:
        seed: of the draw.

    Returns:
        ``w_ih[5, 4]``, ``w_hh[5, 5]``, ``b_ih[5]``, ``b_hh[5]``, ``x[3, 3, 4]`` and ``d_h[3, 3, 5]``.
    """
    rng = np.random.default_rng(seed)
    return {
        "w_ih": 0.5 * rng.standard_normal((HIDDEN, INPUT)),
        "w_hh": 0.5 * rng.standard_normal((HIDDEN, HIDDEN)),
        "b_ih": 0.5 * rng.standard_normal(HIDDEN),
        "b_hh": 0.5 * rng.standard_normal(HIDDEN),
        "x": rng.standard_normal((TIME, BATCH, INPUT)),
        "d_h": rng.standard_normal((TIME, BATCH, HIDDEN)),
    }


def our_sides(arrays: Arrays) -> dict[str, Arrays]:
    """Hidden states and gradients by hand and by autodiff, in PyTorch's names and layout."""
    cell = lstm_jax.rnn(INPUT, HIDDEN)
    params = RNNParams(
        w_x=jnp.asarray(arrays["w_ih"].T),
        w_h=jnp.asarray(arrays["w_hh"].T),
        b=jnp.asarray(arrays["b_ih"] + arrays["b_hh"]),
    )
    problem = Problem(
        params,
        jnp.asarray(arrays["x"]),
        cell.initial_state(BATCH, float),
        jnp.asarray(arrays["d_h"]),
    )
    by_hand = lstm_jax.bptt(cell, params, problem.xs, problem.state0, d_hs=problem.d_hs)
    sides = {}
    for name, way, gradients in (
        ("by hand", "bptt", by_hand),
        ("autodiff", "autodiff", by_autodiff(cell, problem)),
    ):
        _, hs = lstm_jax.unroll(cell, params, problem.xs, problem.state0, gradient=way)
        d_b = np.asarray(gradients.params.b)
        sides[name] = {
            "h": np.asarray(hs),
            "dx": np.asarray(gradients.xs),
            "dW_ih": np.asarray(gradients.params.w_x).T,
            "dW_hh": np.asarray(gradients.params.w_h).T,
            # b = b_ih + b_hh, so each of the two has the gradient of b.
            "db_ih": d_b,
            "db_hh": d_b,
        }
    return sides


def torch_side(torch: ModuleType, arrays: Arrays) -> Arrays:
    """The same by PyTorch's ``nn.RNN(4, 5)`` and its autograd."""
    network = torch.nn.RNN(INPUT, HIDDEN, dtype=torch.float64)
    names = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "b_ih": "bias_ih_l0"}
    names["b_hh"] = "bias_hh_l0"
    with torch.no_grad():
        for ours, theirs in names.items():
            getattr(network, theirs).copy_(torch.tensor(arrays[ours]))
    x = torch.tensor(arrays["x"], requires_grad=True)
    hs, _ = network(x)
    (hs * torch.tensor(arrays["d_h"])).sum().backward()
    gradients = {
        f"d{ours.replace('w', 'W')}": getattr(network, theirs).grad.numpy()
        for ours, theirs in names.items()
    }
    return {"h": hs.detach().numpy(), "dx": x.grad.numpy(), **gradients}


def compute(seed: int) -> WorkedExample:
    """Everything in float64.

    Raises:
        Mismatch: a published digit, or an agreement within ``TOLERANCE``, is not met.
    """
    with jax.enable_x64(True):
        forward = forward_pairs()
        cell, cell_listed_bias, sequence = published_pairs()
        arrays = random_arrays(seed)
        sides = our_sides(arrays)
    torch = torch_if_installed()
    if torch is not None:
        sides["PyTorch"] = torch_side(torch, arrays)
    run = WorkedExample(forward, cell, cell_listed_bias, sequence, sides)
    require_agreement(run)
    return run


def require_agreement(run: WorkedExample) -> None:
    """Refuse a run that misses a published digit or differs between the ways to one gradient.

    Raises:
        Mismatch: naming the first such number.
    """
    for pair in (*run.forward, *run.cell, *run.sequence):
        if not pair.same:
            raise Mismatch(
                f"{pair.name}: expected the published {pair.published}, got {pair.by_hand:.12g}."
            )
    for pair in (*run.forward, *run.cell, *run.cell_listed_bias, *run.sequence):
        # Written so that a NaN is refused too; here and below.
        if not abs(pair.by_hand - pair.autodiff) <= TOLERANCE * max(1.0, abs(pair.autodiff)):
            raise Mismatch(
                f"{pair.name}: expected by hand and autodiff within {TOLERANCE:.0e}, "
                f"got {pair.by_hand!r} and {pair.autodiff!r}."
            )
    for (name, side), difference in differences(run.sides).items():
        if not difference <= TOLERANCE:
            raise Mismatch(
                f"{name}: expected by hand and {side} within {TOLERANCE:.0e}, got {difference:.1e}."
            )


def differences(sides: dict[str, Arrays]) -> dict[tuple[str, str], float]:
    """max|by hand − other| for each quantity and each other way: ``{(quantity, way): difference}``."""
    hand = sides["by hand"]
    return {
        (name, side): max_difference(hand[name], arrays[name])
        for side, arrays in sides.items()
        if side != "by hand"
        for name in hand
    }


def pair_table(title: str, found: Sequence[Pair]) -> str:
    """Published, by hand, autodiff, and the two differences."""
    rows = [
        [
            pair.name,
            pair.published,
            f"{pair.by_hand:.14f}",
            f"{pair.autodiff:.14f}",
            f"{abs(pair.by_hand - float(pair.published)):.1e}",
            f"{abs(pair.by_hand - pair.autodiff):.1e}",
            "all" if pair.same else "no",
        ]
        for pair in found
    ]
    header = (
        "entry",
        "published",
        "by hand",
        "autodiff",
        "hand-published",
        "hand-autodiff",
        "digits",
    )
    return table(title, header, rows)


def side_table(sides: dict[str, Arrays]) -> str:
    """Every number of every quantity, one way under the other, the largest difference at the end."""
    lines = [f"nn.RNN({INPUT}, {HIDDEN}), {TIME} steps, batch {BATCH}: every number by each way"]
    width = max(map(len, sides))
    for name, array in sides["by hand"].items():
        for index in np.ndindex(array.shape[:-1]):
            label = name + "".join(f"[{n}]" for n in index)
            for n, (side, arrays) in enumerate(sides.items()):
                row = arrays[name][index]
                numbers = "  ".join(f"{value + 0.0:15.12f}" for value in row)
                end = f"  difference {max_difference(array[index], row):.1e}" if n else ""
                lines.append(f"{label if not n else '':10}  {side:{width}}  {numbers}{end}")
    return "\n".join(lines)


def report(run: WorkedExample) -> str:
    """Everything as text tables."""
    agreement = table(
        f"Largest difference of each quantity (float64, refused above {TOLERANCE:.0e})",
        ("quantity", "by hand against", "max |difference|"),
        [[name, side, f"{value:.1e}"] for (name, side), value in differences(run.sides).items()],
    )
    if "PyTorch" not in run.sides:
        agreement += f"\n{NO_TORCH}"
    return "\n\n".join(
        (
            pair_table("Published: forward through four time steps", run.forward),
            pair_table("Published: backward through one cell (bias left over)", run.cell),
            pair_table(
                "The same with the bias that its listing draws: not what was published",
                run.cell_listed_bias,
            ),
            pair_table("Published: backward through four time steps", run.sequence),
            side_table(run.sides),
            agreement,
        )
    )


def execute(config: Config) -> None:
    """Compute, keep and print."""
    require_seed(config.seed)
    claim_folder(config.out, "rnn_by_hand", overwrite=config.overwrite)
    run = compute(config.seed)
    text = report(run)

    def records(found: Sequence[Pair]) -> list[dict[str, Any]]:
        return [pair._asdict() for pair in found]

    results = {
        "experiment": "rnn_by_hand",
        "settings": {"seed": config.seed},
        "published_forward": records(run.forward),
        "published_cell_backward": records(run.cell),
        "published_cell_backward_with_the_listed_bias": records(run.cell_listed_bias),
        "published_backward": records(run.sequence),
        "max_differences": [
            {"quantity": name, "by_hand_against": side, "difference": value}
            for (name, side), value in differences(run.sides).items()
        ],
        "pytorch_compared": "PyTorch" in run.sides,
    }
    arrays = {
        f"{side.replace(' ', '_')}_{name}": array
        for side, quantities in run.sides.items()
        for name, array in quantities.items()
    }
    keep(config.out, arrays, results, text)
    print(text)
    print(f"\nWritten to {config.out}")


def main(args: Sequence[str] | None = None) -> int:
    """Command line: 0 done, 1 a number that differs, 2 a request refused."""
    config: Config = parse(Config, "python -m experiments.rnn_by_hand", args)
    return exit_code(lambda: execute(config))
