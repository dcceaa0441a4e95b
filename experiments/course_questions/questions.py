r"""The questions: each trains networks of several seeds, and gives numbers of types that JSON has.

Decades are log₁₀ of ‖∂ℓ/∂x_1‖ / ‖∂ℓ/∂x_T‖, of recall: how much the gradient hears of the first input, which
matters, beside the last.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.course_questions.networks import Network, networks, of_cell
from experiments.lag_tasks import TASKS, answer_losses, asked, read_out
from experiments.side_by_side import Learned, Setting, able_lstm, begin, decades, train
from lstm_jax import Sequences, orthogonal, rnn, unroll
from lstm_jax.cells import Cell

Row = dict[str, Any]


class Sizes(NamedTuple):
    """The sizes of the full or the quick run."""

    hidden: int = 32
    recall: Setting = Setting("recall", 50)
    adding: Setting = Setting("adding_uniform", 100)
    far: int = 300
    long_run: int = 400


QUICK = Sizes(
    8,
    Setting("recall", 10, updates=100, seeds=2),
    Setting("adding_uniform", 10, updates=100, seeds=2),
    20,
    30,
)


def with_seeds(sizes: Sizes, seed: int, seeds: int | None) -> Sizes:
    """The sizes with other seeds: ``seeds`` of them, if given, from ``seed`` on."""

    def other(setting: Setting) -> Setting:
        return setting._replace(seed=seed, seeds=seeds or setting.seeds)

    return sizes._replace(recall=other(sizes.recall), adding=other(sizes.adding))


def learned_row(setting: Setting, found: Learned) -> Row:
    """What is kept of a training."""
    return {
        "solved": found.solved,
        "diverged": found.diverged,
        "updates": found.updates,
        "last_score": _numbers(scores[-50:].mean() for scores in found.scores),
        "seeds": setting.seeds,
    }


def _numbers(values: Any) -> list[float | None]:
    """Four digits; None for what is no number, and −∞ as the text "-inf"."""

    def one(value: float) -> Any:
        if np.isnan(value):
            return None
        return float(f"{value:.4g}") if np.isfinite(value) else str(value)

    return [one(float(value)) for value in values]


def parts(sizes: Sizes) -> list[Row]:
    """Each network with one part changed: what it learns, and how far its gradient comes."""
    rows = []
    inputs = {setting.task: TASKS[setting.task].inputs for setting in (sizes.recall, sizes.adding)}
    for name in networks(1, sizes.hidden):
        row: Row = {"network": name}
        for setting in (sizes.recall, sizes.adding):
            network = networks(inputs[setting.task], sizes.hidden)[name]
            first = begin(network.init, sizes.hidden, setting)
            found = train(network.run, first, setting)
            row[setting.task] = learned_row(setting, found)
            if setting is sizes.recall:
                seen = partial(decades, network.run, task_name="recall")
                row["before"] = _numbers(seen(first, length=setting.length))
                row["after"] = _numbers(seen(found.last, length=setting.length))
                row["far_before"] = _numbers(seen(first, length=sizes.far))
                row["largest_h"] = _numbers(_largest(network, found, sizes))
        rows.append(row)
        print(f"parts: {name}", flush=True)
    return rows


def _largest(network: Network, found: Learned, sizes: Sizes) -> np.ndarray:
    """The largest |h| of the trained networks over a sequence that is longer than those of the training."""
    xs = TASKS["recall"].draw(jax.random.key(98), 4, sizes.long_run).xs
    return np.asarray(
        jax.vmap(lambda params: jnp.abs(network.run(params, xs)).max())(found.last.cell)
    )


def _trained(cell: Cell, setting: Setting, run: Callable[..., Any]) -> Row:
    first = begin(cell.init, cell.output_size, setting)
    found = train(run, first, setting)
    return {"first": first, "found": found, "row": learned_row(setting, found)}


def weight_decay(sizes: Sizes) -> list[Row]:
    """Decay against explosion: networks that begin at twice an orthogonal matrix."""
    rows = []
    inputs = TASKS["recall"].inputs
    for kind in ("tanh", "relu"):
        cell = rnn(inputs, sizes.hidden, activation=kind, w_h_init=orthogonal(2.0))
        run = of_cell(kind, cell).run
        for clip in (None, 1.0):
            for decay in (0.0, 0.1, 1.0):
                setting = sizes.recall._replace(decay=decay, clip=clip)
                made = _trained(cell, setting, run)
                radius = [
                    float(np.abs(np.linalg.eigvals(w_h)).max())
                    if np.isfinite(w_h).all()
                    else np.nan
                    for w_h in np.asarray(made["found"].last.cell.w_h)
                ]
                seen = partial(decades, run, task_name="recall", length=setting.length)
                rows.append(
                    {
                        "network": f"{kind}, 2 × orthogonal",
                        "clip": clip,
                        "decay": decay,
                        "before": _numbers(seen(made["first"])),
                        "after": _numbers(seen(made["found"].last)),
                        "radius_after": _numbers(radius),
                        "recall": made["row"],
                    }
                )
        print(f"weight_decay: {kind}", flush=True)
    return rows


def cut_every(cell: Cell, window: int) -> Callable[[Any, Any], Any]:
    """The network over time, its gradient cut every so many steps."""

    def run(params: Any, xs: Any) -> Any:
        sequences = Sequences(truncate=window) if window < len(xs) else Sequences()
        return unroll(cell, params, xs, sequences=sequences)[1]

    return run


def truncation(sizes: Sizes) -> list[Row]:
    """An LSTM whose gradient is cut every so many steps, or which sees the end of the sequence alone."""
    rows = []
    for setting in (sizes.recall, sizes.adding):
        cell = able_lstm(setting, sizes.hidden)
        # Cuts are counted from the first step: a window that does not divide T would leave less for the last.
        for parts_of_length in (10, 5, 2, 1):
            window = setting.length // parts_of_length

            cut = cut_every(cell, window)
            row = {"task": setting.task, "length": setting.length, "window": window}
            rows.append(
                row | {"how": "truncated", setting.task: _trained(cell, setting, cut)["row"]}
            )
        half = setting.length // 2

        def end_alone(params: Any, xs: Any, cell: Cell = cell, half: int = half) -> Any:
            # As many steps as the lengths say, of which the first half stays at zero.
            hs = unroll(cell, params, xs[half:])[1]
            return jnp.concatenate([jnp.zeros((half, *hs.shape[1:]), hs.dtype), hs])

        row = {"task": setting.task, "length": setting.length, "window": setting.length - half}
        rows.append(
            row | {"how": "the end alone", setting.task: _trained(cell, setting, end_alone)["row"]}
        )
        print(f"truncation: {setting.task}", flush=True)
    return rows


def saturation(sizes: Sizes) -> list[Row]:
    """What forget gates that stand at 1 do to the gradient: along the memory, and into themselves."""
    rows = []
    for setting in (sizes.recall, sizes.adding):
        task = TASKS[setting.task]
        cell = able_lstm(setting, sizes.hidden)
        made = _trained(cell, setting, of_cell(setting.task, cell).run)
        examples = task.draw(jax.random.key(97), 8, setting.length)

        def look(model: Any, cell: Cell = cell, task: Any = task, examples: Any = examples) -> Any:
            def step(state: Any, x: Any) -> tuple[Any, Any]:
                f = cell.gates(model.cell, state, x)["f"]
                return cell.step(model.cell, state, x)[0], f

            state0 = cell.initial_state(examples.xs.shape[1])
            _, f = jax.lax.scan(step, state0, examples.xs)

            # What reaches the forget gates' biases of each unit.
            def loss(b: Any) -> Any:
                hs = unroll(cell, model.cell._replace(b=b), examples.xs)[1]
                answers = read_out(model, asked(task, hs, examples))
                return answer_losses(task, answers, examples.targets).mean()

            into_gate = jnp.abs(jax.grad(loss)(model.cell.b))
            return f, into_gate[cell.hidden_size : 2 * cell.hidden_size]

        for stage, models in (("untrained", made["first"]), ("trained", made["found"].last)):
            f, into_gate = map(np.asarray, jax.jit(jax.vmap(look))(models))
            mean = f.mean(axis=(1, 2))  # [seeds, H]
            along = (
                np.log10(np.maximum(f, 1e-30)).sum(axis=1).mean(axis=1)
            )  # ∏ f, decades, [seeds, H]
            slope = (f * (1 - f)).mean(axis=(1, 2))
            for group, chosen in (("f > 0.95", mean > 0.95), ("others", mean <= 0.95)):
                rows.append(
                    {
                        "task": setting.task,
                        "stage": stage,
                        "units": group,
                        "share": _numbers(chosen.mean(axis=1)),
                        "along": _medians(along, chosen),
                        "slope": _medians(slope, chosen),
                        "into_gate": _medians(np.log10(np.maximum(into_gate, 1e-30)), chosen),
                    }
                )
        print(f"saturation: {setting.task}", flush=True)
    return rows


def _medians(values: np.ndarray, chosen: np.ndarray) -> list[Any]:
    """The median of each seed's chosen units; None for a seed that has none."""
    return _numbers(
        np.median(row[which]) if which.any() else np.nan
        for row, which in zip(values, chosen, strict=True)
    )


QUESTIONS: dict[str, Callable[[Sizes], list[Row]]] = {
    "parts": parts,
    "weight_decay": weight_decay,
    "truncation": truncation,
    "saturation": saturation,
}
