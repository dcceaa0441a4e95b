"""Folders of runs with the numbers of small LSTMs, as inspections and watched training runs leave them.

In NumPy and float64, by dense products of step Jacobians: nothing is compiled, short lags need no scaling.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from gradient_flow.results_folder import environment, write_arrays, write_json

HOSTILE = "<script>alert(1)</script>"
GATES = "ifgo"
SUBSETS = ("", "i", "f", "g", "o", "ifgo")


class Run(NamedTuple):
    """One LSTM over one sequence: arrays [T, H] by name, as the contract's ``cell.…``; direct and recurrent
    parts of its step Jacobians, [T, 2H, 2H], the recurrent ones by gate; and its weights."""

    steps: dict
    direct: np.ndarray
    through: dict
    w_x: np.ndarray


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def run_lstm(xs, hidden, forget_bias, seed):
    rng = np.random.default_rng(seed)
    bound = hidden**-0.5
    w_x = rng.uniform(-bound, bound, (xs.shape[-1], 4 * hidden))
    w_h = rng.uniform(-bound, bound, (hidden, 4 * hidden))
    b = np.repeat([0.0, forget_bias, 0.0, 0.0], hidden)
    h = c = np.zeros(hidden)
    rows, direct, through = [], [], {gate: [] for gate in GATES}
    for x in xs:
        z = np.split(x @ w_x + h @ w_h + b, 4)
        i, f, g, o = sigmoid(z[0]), sigmoid(z[1]), np.tanh(z[2]), sigmoid(z[3])
        before, c = c, f * c + i * g
        tanh_c = np.tanh(c)
        h = o * tanh_c
        row = dict(zip(GATES, (i, f, g, o), strict=True))
        row |= {f"z_{gate}": one for gate, one in zip(GATES, z, strict=True)}
        rows.append(row | {"c": c, "c_before": before, "h": h, "tanh_c": tanh_c})
        bend = o * (1 - tanh_c**2)
        zero = np.zeros((hidden, hidden))
        direct.append(np.block([[zero, np.diag(bend * f)], [zero, np.diag(f)]]))
        slopes = (g * i * (1 - i), before * f * (1 - f), i * (1 - g**2))
        for n, (gate, slope) in enumerate(zip("ifg", slopes, strict=True)):
            d_c = slope[:, None] * w_h[:, n * hidden : (n + 1) * hidden].T
            through[gate].append(np.block([[bend[:, None] * d_c, zero], [d_c, zero]]))
        d_o = (tanh_c * o * (1 - o))[:, None] * w_h[:, 3 * hidden :].T
        through["o"].append(np.block([[d_o, zero], [zero, zero]]))
    steps = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    # The recursion of the derivation, of a loss that is the sum of h_T.
    d_h, d_c, back = np.ones(hidden), np.zeros(hidden), []
    for row in reversed(rows):
        i, f, g, o = (row[gate] for gate in GATES)
        d_c = d_c + d_h * o * (1 - row["tanh_c"] ** 2)
        d_z = {
            "d_z_i": d_c * g * i * (1 - i),
            "d_z_f": d_c * row["c_before"] * f * (1 - f),
            "d_z_g": d_c * i * (1 - g**2),
            "d_z_o": d_h * row["tanh_c"] * o * (1 - o),
        }
        back.append({"d_h": d_h, "d_c": d_c, **d_z})
        d_h, d_c = w_h @ np.concatenate(list(d_z.values())), d_c * f
    steps |= {name: np.stack([row[name] for row in reversed(back)]) for name in back[0]}
    arrays = {gate: np.stack(one) for gate, one in through.items()}
    return Run(steps, np.stack(direct), arrays, w_x)


def log_norm(matrix):
    largest = np.linalg.norm(matrix, 2) if matrix.size else 0.0
    return np.log(largest) if largest > 0 else -np.inf


def products(jacobians, lag):
    """∂s_T/∂s_{T−n} for n up to the lag."""
    found = [np.eye(jacobians.shape[-1])]
    for jacobian in jacobians[::-1][:lag]:
        found.append(found[-1] @ jacobian)
    return found


def inspected_arrays(xs, hidden, forget_bias, seed, lag):
    """The arrays of one network, by what they are; xs is [T, B, D]."""
    runs = [run_lstm(xs[:, n], hidden, forget_bias, seed) for n in range(xs.shape[1])]
    one, rows = runs[0], slice(0, hidden)
    lags = np.arange(lag + 1)
    places = {"h": rows, "c": slice(hidden, 2 * hidden)}
    whole = [products(run.direct + sum(run.through.values()), lag) for run in runs]
    found = {
        f"curve.{a}{b}": np.array(
            [[log_norm(p[places[a], places[b]]) for p in sample] for sample in whole]
        )
        for a in "hc"
        for b in "hc"
    }
    forget = [np.cumsum(np.log(run.steps["f"][::-1]), axis=0)[:lag].max(-1) for run in runs]
    found["curve.carousel"] = np.array([[0.0, *curve] for curve in forget])
    found["autodiff"] = np.float32(np.exp(found["curve.hh"]))
    jacobians = one.direct + sum(one.through.values())
    times, starts = np.arange(1, len(xs) + 1), np.arange(len(xs))
    grid = np.full((2, len(times), len(starts)), np.nan)
    for t in times:
        for n, p in enumerate(products(jacobians[:t], t)[1:], start=1):
            grid[:, t - 1, t - n] = log_norm(p[rows, rows]), log_norm(p[hidden:, hidden:])
    found |= {"map.hh": grid[0], "map.cc": grid[1], "map.times": times, "map.starts": starts}
    found |= {f"gate.{gate}": one.steps[gate] for gate in GATES}
    found["time_constant"] = -1 / np.log(one.steps["f"]).mean(axis=0)
    detours = [np.eye(2 * hidden), *np.zeros((3, 2 * hidden, 2 * hidden))]
    terms = [detours]
    for direct, recurrent in zip(
        one.direct[::-1][:lag], (jacobians - one.direct)[::-1], strict=False
    ):
        last = terms[-1]
        more = [last[m] @ direct + (last[m - 1] @ recurrent if m else 0) for m in range(3)]
        terms.append([*more, last[3] @ (direct + recurrent) + last[2] @ recurrent])
    for block, place in (("hh", rows), ("cc", places["c"])):
        logs = [[log_norm(m[place, place]) for m in at] for at in terms]
        found[f"detours.{block}"] = np.array(logs).T
    found["detours.lags"] = lags
    for kept in SUBSETS:
        part = one.direct + sum(one.through[gate] for gate in kept) if kept else one.direct
        curve = [log_norm(p[rows, rows]) for p in products(part, lag)]
        found[f"gate_paths.{'+'.join(kept) or 'none'}"] = np.array(curve)
    found["gate_paths.lags"] = lags
    with np.errstate(divide="ignore"):
        values = [np.linalg.svd(p, compute_uv=False) for p in whole[0]]
        found |= {"spectrum": np.log(np.array(values)), "spectrum.lags": lags}
        d_z = np.concatenate([one.steps[f"d_z_{gate}"] for gate in GATES], axis=-1)
        found["credit"] = np.log(np.linalg.norm(d_z @ one.w_x.T, axis=-1))
    found |= {f"cell.{name}": values for name, values in one.steps.items()}
    return found | {"cell.units": np.arange(hidden), "cell.steps": times}


def inspection(
    *, stages=("before", "after"), hidden=4, length=20, lag=16, text=f"</script>{HOSTILE}"
):
    """``results.json`` and the arrays of an inspection of two networks whose names are hostile."""
    xs = np.random.default_rng(0).normal(size=(length, 2, 3))
    networks = {"layer_0": f"{HOSTILE}, layer 0", "layer_1_backward": "layer 1, backward"}
    arrays, rows, verdicts = {}, {}, {}
    for n, stage in enumerate(stages):
        rows[stage] = {}
        for m, network in enumerate(networks):
            own = inspected_arrays(xs, hidden, 3.0 * n, m, lag)
            arrays |= {f"{stage}/{network}/{name}": array for name, array in own.items()}
            rows[stage][network] = {
                "log10_hh": float(np.median(own["curve.hh"][:, -1]) / np.log(10)),
                "horizon": np.inf if n else 7.0,
                "lambda_1": -0.4,
                "lambda_1_error": 0.02,
                "saturated_gates": 0.25,
                "autodiff_zero_from": None,
            }
        says = f"The gradient falls to a thousandth within 7 steps, {HOSTILE}."
        finding = {"name": "horizon", "says": says, "numbers": {"horizon": 7.0}, "illness": ""}
        verdicts[stage] = {
            "verdict": "steady" if n else "vanishing",
            "headline": f"{'steady' if n else 'vanishing'}, for a lag of {lag} steps.",
            "lag": lag,
            "horizon": np.inf if n else 7.0,
            "findings": [finding],
            "advice": [finding | {"says": "A forget bias of 3 helped."}],
            "without_help": [finding | {"says": "Orthogonal weights did not."}],
            "text": "",
        }
    layer = {"name": HOSTILE, "kind": "lstm", "input_size": 3, "hidden_size": hidden}
    layer |= {"directions": 1, "layers": 1, "refused": None}
    results = {
        "kind": "inspection",
        "command": ["gradient-flow", "inspect", HOSTILE],
        "source": "pretrained.pt",
        "layers": [layer | {"assumed": ["The gates stand in the order i, f, g, o."]}],
        "chosen": [HOSTILE],
        "inputs": {
            "says": "Noise of unit size stood for data.",
            "from": "noise",
            "shape": [length, 2, 3],
            "text": (text * length)[:length],
        },
        "lag": lag,
        "lags": list(range(lag + 1)),
        "stages": list(stages),
        "networks": networks,
        "kinds": dict.fromkeys(networks, "lstm"),
        "verdicts": verdicts,
        "table": rows,
        "seconds": {"reading": 0.1, "measuring": 2.5},
    }
    return results, arrays


def write_run(folder, results, arrays):
    """The files of a run."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", results)
    write_arrays(folder / "arrays.npz", arrays)
    write_json(folder / "environment.json", environment())
    return folder


def watched(folder, looks=4, length=20):
    """The records of a watched training run: at each look the forget bias is larger by 1."""
    xs = np.random.default_rng(0).normal(size=(length, 3))
    for n in range(looks):
        own = inspected_arrays(xs[:, None], 4, float(n), 0, length)
        low = np.flatnonzero(own["curve.hh"][0] < np.log(1e-3))
        record = {
            "lags": np.arange(length + 1),
            "0.curve.hh": own["curve.hh"],
            "0.horizon.hh": np.array([low[0] if len(low) else np.inf], float),
            "0.decades_per_100.hh": np.array([1.0]),
            "0.gate.f.mean": own["gate.f"].mean(),
            "0.gate.f.open": (own["gate.f"] > 0.9).mean(),
            "0.gate.f.closed": (own["gate.f"] < 0.1).mean(),
            "0.gate.f.quantiles": np.quantile(own["gate.f"], (0.05, 0.25, 0.5, 0.75, 0.95)),
        }
        (Path(folder) / "flow").mkdir(parents=True, exist_ok=True)
        write_arrays(Path(folder) / "flow" / f"{100 * n}.npz", record)
    return Path(folder)


def comparison():
    """``results.json`` and the arrays of a comparison of two networks, before and after training."""
    networks = {"rnn": "RNN, uniform", "lstm_1": "LSTM, forget bias 1"}
    xs = np.random.default_rng(0).normal(size=(12, 3, 2))
    arrays, table = {}, {}
    for n, stage in enumerate(("untrained", "trained")):
        table[stage] = {}
        for m, name in enumerate(networks):
            own = inspected_arrays(xs, 3, 1.0 + 2 * m, n, 12)
            kept = (
                "curve.hh",
                "curve.cc",
                "autodiff",
                "map.hh",
                "map.times",
                "map.starts",
                "gate.f",
            )
            for what in kept:
                array = own[what][:, None] if what.startswith("curve") else own[what]
                arrays[f"{stage}/{name}/{what}"] = array
            log10 = float(np.median(own["curve.hh"][:, -1]) / np.log(10))
            row = {"log10_hh": log10, "log10_cc": None, "horizon": np.inf}
            table[stage][name] = [{"length": 12, **row, "autodiff_zero_from": None}]
    config = {"lengths": [12], "input": "noise", "text": None, "hidden_size": 3, "seed": 0}
    results = {
        "config": {**config, "out": "runs/compare-001", "overwrite": False, "train_steps": 2},
        "text": None,
        "stages": ["untrained", "trained"],
        "networks": networks,
        "inside": "lstm_1",
        "lags": list(range(13)),
        "gate_text": "twelve chars",
        "table": table,
    }
    return results, arrays
