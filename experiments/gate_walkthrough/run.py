r"""The classroom LSTM with step gates, its smooth counterpart, and the effect of a wrong gate order.

    classroom   i, f, o = 1[z > 0];  g = z_g;        C_t = f C_{t−1} + i g;   h_t = o C_t
    library     i, f, o = σ(z);      g = tanh z_g;   C_t = f C_{t−1} + i g;   h_t = o tanh C_t

Both with z_t = x_t W_x: no recurrent weights, and the bias is the weight of an input that is always 1.

Axes: xs[9, 4] over (x_1, x_2, x_3, 1), w_x[4, 4H] with H = 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import lstm_jax
from experiments.gate_walkthrough.carried import READ, SIGNALS, WRITTEN, Carried, carried
from experiments.gate_walkthrough.cells import WEIGHTS, Trace, hard_step, stacked
from experiments.gate_walkthrough.plot import draw, draw_carried
from experiments.running import (
    NO_TORCH,
    Mismatch,
    exit_code,
    keep,
    max_difference,
    table,
    torch_if_installed,
)
from gradient_flow.results_folder import claim_folder
from lstm_jax import LSTMState
from lstm_jax.array_types import Array
from lstm_jax.command_line.tyro_options import parse

INPUTS = (
    (1, 0, 0, 1),
    (3, 1, 0, 1),
    (2, 0, 0, 1),
    (4, 1, 0, 1),
    (2, 0, 0, 1),
    (1, 0, 1, 1),
    (3, -1, 0, 1),
    (6, 1, 0, 1),
    (1, 0, 1, 1),
)
MEMORY_BEFORE = (0, 0, 3, 3, 7, 7, 7, 0, 6)
OUTPUT = (0, 0, 0, 0, 0, 7, 0, 0, 6)

ORDER = "ifgo"
ORDERS = {
    "ifgo": "lstm_jax, PyTorch, Keras, cuDNN",
    "ifog": "CS231n's exercises",
    "iofg": "ONNX (there written i, o, f, c)",
    "igfo": "Haiku; TensorFlow 1 (there written i, j, f, o)",
    "figo": "the listing of a course's notes",
}
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Config:
    """Walk through the classroom LSTM gate by gate, and stack its weights in wrong orders."""

    out: Path = Path("experiments/gate_walkthrough/results")
    """Folder for the results."""
    overwrite: bool = False
    """Replace the results of a finished run."""


class WalkThrough(NamedTuple):
    """All that is computed: two traces, the outputs by gate order, the differences that should be 0."""

    hard: Trace
    soft: Trace
    hard_orders: dict[str, np.ndarray]
    soft_orders: dict[str, np.ndarray]
    carried: dict[str, Carried]
    differences: dict[str, float]
    pytorch_compared: bool


def hard_trace(order: str) -> Trace:
    """The classroom's cell over the nine steps, by `lstm_jax.unroll` of a step of one's own."""
    zero = jnp.zeros(1, float)
    _, trace = lstm_jax.unroll(hard_step, stacked(order), inputs(), LSTMState(zero, zero))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], trace)


def soft_trace(order: str) -> Trace:
    """The library's cell over the nine steps, one ``cell.step`` at a time."""
    cell, params = lstm_jax.lstm(4, 1), stacked(order)
    state = cell.initial_state(dtype=float)
    steps = []
    for x in inputs():
        gates = cell.gates(params, state, x)
        before = state.c
        state, h = cell.step(params, state, x)
        steps.append(Trace(**gates, before=before, c=state.c, h=h))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *steps)


def soft_unrolled(order: str) -> tuple[np.ndarray, np.ndarray]:
    """The library's cell through `lstm_jax.unroll`: outputs [9] and final memory [1]."""
    state, hs = lstm_jax.unroll(lstm_jax.lstm(4, 1), stacked(order), inputs())
    return np.asarray(hs)[:, 0], np.asarray(state.c)


def inputs() -> Array:
    """The nine inputs, xs[9, 4]."""
    return jnp.asarray(np.array(INPUTS, dtype=float))


def require_classroom(trace: Trace) -> None:
    """Refuse a trace that is not the classroom's to the last digit.

    Raises:
        Mismatch: the memory before some step, or some output, differs.
    """
    for name, expected, got in (
        ("memory before each step", MEMORY_BEFORE, trace.before),
        ("output", OUTPUT, trace.h),
    ):
        if tuple(got) != tuple(map(float, expected)):
            raise Mismatch(
                f"Classroom mismatch: expected the {name} to be {list(expected)}, "
                f"got {np.asarray(got).tolist()}."
            )


def torch_differences(torch: ModuleType, soft: Trace) -> dict[str, float]:
    """PyTorch's two LSTMs on the same weights, step by step and over the sequence, in float64.

    Args:
        torch: the module.
        soft: the trace to compare with.

    Returns:
        max|difference| of h and of C, for ``LSTMCell``, and of h and the last C for ``LSTM``.
    """
    xs = torch.tensor(np.array(INPUTS, dtype=float))
    w_x = torch.tensor(np.array([WEIGHTS[gate] for gate in ORDER], dtype=float))
    one = torch.nn.LSTMCell(4, 1, dtype=torch.float64)
    whole = torch.nn.LSTM(4, 1, dtype=torch.float64)
    with torch.no_grad():
        for module, suffix in ((one, ""), (whole, "_l0")):
            for name, parameter in module.named_parameters():
                parameter.copy_(w_x if name == f"weight_ih{suffix}" else torch.zeros(()))
        h = c = torch.zeros(1, 1, dtype=torch.float64)
        hs, cs = [], []
        for x in xs:
            h, c = one(x[None], (h, c))
            hs.append(float(h))
            cs.append(float(c))
        out, (_, last) = whole(xs[:, None])
    return {
        "h, cell.step against PyTorch's LSTMCell": max_difference(np.array(hs), soft.h),
        "C, cell.step against PyTorch's LSTMCell": max_difference(np.array(cs), soft.c),
        "h, unroll against PyTorch's LSTM": max_difference(
            out.numpy()[:, 0, 0], soft_unrolled(ORDER)[0]
        ),
        "last C, unroll against PyTorch's LSTM": max_difference(
            last.numpy()[:, 0, 0], soft_unrolled(ORDER)[1]
        ),
    }


def compute() -> WalkThrough:
    """Run both cells in float64, in the right order and in the wrong ones, and compare.

    Raises:
        Mismatch: the classroom's numbers, or an agreement within ``TOLERANCE``, are not met.
    """
    with jax.enable_x64(True):
        hard, soft = hard_trace(ORDER), soft_trace(ORDER)
        require_classroom(hard)
        hs, last = soft_unrolled(ORDER)
        differences = {
            "h, cell.step against unroll": max_difference(soft.h, hs),
            "last C, cell.step against unroll": max_difference(soft.c[-1:], last),
        }
        torch = torch_if_installed()
        if torch is not None:
            differences |= torch_differences(torch, soft)
        for name, difference in differences.items():
            # Written so that a NaN is refused too.
            if not difference <= TOLERANCE:
                raise Mismatch(f"{name}: expected within {TOLERANCE:.0e}, got {difference:.1e}.")
        return WalkThrough(
            hard=hard,
            soft=soft,
            hard_orders={order: hard_trace(order).h for order in ORDERS},
            soft_orders={order: soft_unrolled(order)[0] for order in ORDERS},
            carried=carried(),
            differences=differences,
            pytorch_compared=torch is not None,
        )


def show(value: float) -> str:
    """Six significant digits at most; a negative zero without its sign."""
    return f"{value + 0.0:.6g}"


def trace_table(title: str, trace: Trace) -> str:
    """One line for each step: inputs, candidate, gates, memory before and after, output."""
    header = ("t", "x_1", "x_2", "x_3", "g", "i", "f", "o", "C before", "C after", "h")
    rows = [
        [str(t + 1), *(str(x) for x in INPUTS[t][:3]), *(show(column[t]) for column in trace)]
        for t in range(len(INPUTS))
    ]
    return table(title, header, rows)


def order_table(title: str, outputs: dict[str, np.ndarray]) -> str:
    """One line for each gate order: the nine outputs, how many are wrong, and how many once rounded."""
    rows, right = [], outputs[ORDER]
    for order, hs in outputs.items():
        wrong = int(np.sum(np.abs(hs - right) > TOLERANCE))
        rounded = int(np.sum(np.round(hs) != np.round(right)))
        numbers = (f"{h + 0.0:.4g}" for h in hs)
        rows.append([", ".join(order), *numbers, str(wrong), str(rounded)])
    header = ("stacked as", *(f"h_{t + 1}" for t in range(9)), "wrong", "wrong once rounded")
    return table(title, header, rows)


def carried_table(found: dict[str, Carried]) -> str:
    """Each output's derivative by the first signal, and the largest by any other."""
    rows = []
    for t in range(len(SIGNALS)):
        row = [str(t + 1), "open" if t + 1 == WRITTEN else "shut"]
        row.append("open" if t + 1 in READ else "shut")
        for name in ("hard", "soft"):
            by = found[name].outputs[t]
            row += [f"{by[0] + 0.0:.3g}", f"{np.abs(by[1:]).max():.3g}"]
        rows.append(row)
    header = (
        "t",
        "input gate",
        "output gate",
        "by x_1",
        "by any other",
        "soft: by x_1",
        "by any other",
    )
    return table("Carried: the derivative of output t by the signal of a step", header, rows)


def report(run: WalkThrough) -> str:
    """Everything as text tables."""
    agreement = table(
        f"What should be equal (float64, refused above {TOLERANCE:.0e})",
        ("pair", "max |difference|"),
        [[name, f"{difference:.1e}"] for name, difference in run.differences.items()],
    )
    if not run.pytorch_compared:
        agreement += f"\n{NO_TORCH}"
    users = "\n".join(f"  {', '.join(order)}: {users}" for order, users in ORDERS.items())
    return "\n\n".join(
        (
            trace_table("Classroom: step gates, no squashing, h = o C", run.hard),
            trace_table(
                "lstm_jax.lstm on the same weights: soft gates, g = tanh z_g, h = o tanh C",
                run.soft,
            ),
            agreement,
            order_table("Step gates reading i, f, g, o: outputs by gate order", run.hard_orders),
            order_table("lstm_jax.lstm reading i, f, g, o: outputs by gate order", run.soft_orders),
            carried_table(run.carried),
            f"Every order runs without an error. Who stacks how:\n{users}",
        )
    )


def execute(config: Config) -> None:
    """Compute, keep, print and draw."""
    claim_folder(config.out, "gate_walkthrough", overwrite=config.overwrite)
    run = compute()
    arrays = {"inputs": np.array(INPUTS, dtype=float)}
    arrays |= {f"hard_{name}": value for name, value in run.hard._asdict().items()}
    arrays |= {f"soft_{name}": value for name, value in run.soft._asdict().items()}
    for order in ORDERS:
        arrays[f"hard_h_as_{order}"] = run.hard_orders[order]
        arrays[f"soft_h_as_{order}"] = run.soft_orders[order]
    arrays |= {f"{kind}_outputs_by_signal": run.carried[kind].outputs for kind in run.carried}
    text = report(run)
    results = {
        "experiment": "gate_walkthrough",
        "classroom": {
            "memory_before": run.hard.before.tolist(),
            "output": run.hard.h.tolist(),
            "reproduced_exactly": tuple(run.hard.h) == OUTPUT
            and tuple(run.hard.before) == MEMORY_BEFORE,
        },
        "soft_output": run.soft.h.tolist(),
        "output_by_gate_order": {
            order: {
                "used_by": users,
                "hard": run.hard_orders[order].tolist(),
                "soft": run.soft_orders[order].tolist(),
            }
            for order, users in ORDERS.items()
        },
        "output_by_signal": {kind: found.outputs.tolist() for kind, found in run.carried.items()},
        "max_differences": run.differences,
        "pytorch_compared": run.pytorch_compared,
    }
    keep(config.out, arrays, results, text)
    print(text)
    draw(arrays, config.out)
    draw_carried(arrays, config.out)
    print(f"\nWritten to {config.out}")


def main(args: Sequence[str] | None = None) -> int:
    """Command line: 0 done, 1 a number that differs, 2 a request refused."""
    config: Config = parse(Config, "python -m experiments.gate_walkthrough", args)
    return exit_code(lambda: execute(config))
