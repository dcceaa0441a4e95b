r"""Watch a training run: Jacobian norms and gates of each layer, recorded every so many steps.

Each look takes the current parameters, runs the network over the same sequences, and records for layer l (0
for a single cell), as arrays by name:

    lags                            [lags]
    l.curve.hh                      [samples, lags]     log ‖∂h_T/∂h_{T−lag}‖, spectral; so for each block
    l.horizon.hh                    [samples]           the lag at which that norm is 10⁻³; ∞ beyond the lags
    l.decades_per_100.hh            [samples]           lost in 100 steps
    l.gate.f.mean                   []                  over time, samples and units; so for each gate
    l.gate.f.quantiles              [5]                 5, 25, 50, 75, 95 % of the same numbers
    l.gate.f.closed, l.gate.f.open  []                  shares below 0.1 and above 0.9
    l.gate.g.saturated              []                  of a gate that is a tanh: share of |g| above 0.9
    l.time_constants                [5]                 quantiles of 1/(1 − f) in steps, f each unit's mean

Without a batch there is no samples axis. Where the states overflow, the numbers of that layer are NaN: a look
does not end a training run.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradient_flow.measurements.by_layer import each_layer, require_no_zoneout
from gradient_flow.measurements.curve_summary import decades_per_100, horizon, lag_grid
from gradient_flow.measurements.gates import gate_activations
from gradient_flow.measurements.jacobian_norms import jacobian_norms
from gradient_flow.results_folder import ARRAYS, OutputError, read_arrays
from gradient_flow.step_jacobians.state_layout import JOINT, LSTM_PATHS, layout_of
from gradient_flow.step_jacobians.trajectory import is_lstm
from lstm_jax.array_types import Array, PyTree, shapes_of
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import Stack, require_one_direction
from lstm_jax.validation import (
    AnyPath,
    NonFiniteError,
    require_finite_arguments,
    require_names,
    require_path,
    require_positive_int,
)

if TYPE_CHECKING:
    from lstm_jax.training import Watch
else:
    # lstm_jax.training imports Orbax, which takes a second: only a training run needs it.
    Watch = Any

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CLOSED, OPEN = 0.1, 0.9
TANH_GATES = ("g", "n")

Of = Callable[[PyTree], tuple[PyTree, Array]]


class WatchRecords(NamedTuple):
    """The records of a watch.

    Attributes:
        steps: the training steps of the looks, [N], rising.
        arrays: the records by name, each [N, ...].
    """

    steps: np.ndarray
    arrays: dict[str, np.ndarray]


def flow_watch(
    network: Cell | Stack,
    of: Of,
    every: int,
    *,
    lags: Sequence[int] | None = None,
    blocks: Sequence[str] | None = None,
    name: str = "flow",
) -> Watch:
    """A watch for `lstm_jax.training.fit` that records Jacobian norms and gates.

    A look at T steps of B samples takes one backward walk in each layer, about B·T·H³ operations. A training
    step takes B·T·H², so a look is expensive where H is large. A few samples are enough; choose ``every`` by
    `Fitted.watch_seconds`. The first look compiles for all.

    Args:
        network: a cell, or a stack of them that runs forward, without zoneout; its layers are measured one by
            one, as by `layer_norms`.
        of: ``of(params) -> (network_params, xs)``: the network's parameters out of those that are trained,
        and
            the sequences to run, [T, D] or [T, B, D]. The sequences are a function of the parameters because
            embeddings are; use the same tokens each time.
        every: steps between two looks.
        lags: the lags to record, each from 0 to T; some 25 a decade if None.
        blocks: names of blocks as for `jacobian_norms`; each layer records those that it has. ``hh`` if None,
            and ``cc`` of an LSTM.
        name: the name of the records' folder, inside that of the run.

    Returns:
        The watch; the module's docstring lists what it records. `read_watch` reads it,
        `gradient_flow.pictures.watch_figures.draw_watch` and ``gradient-flow draw`` draw it.

    Raises:
        TypeError, ValueError: a network that cannot be watched; at the first look, before the first step,
            parameters, sequences or lags that do not fit the network or each other.
        NonFiniteError: at a look, a NaN or an infinity in the parameters or the sequences.

    Example:
        >>> import jax, lstm_jax, gradient_flow
        >>> cell = lstm_jax.lstm(3, 4)
        >>> xs = jax.random.normal(jax.random.key(1), (20, 3))
        >>> watch = gradient_flow.flow_watch(cell, lambda params: (params, xs), every=100)
        >>> seen = watch.look(cell.init(jax.random.key(0)))
        >>> seen["0.curve.hh"].shape == seen["lags"].shape, seen["0.gate.f.quantiles"].shape
        (True, (5,))
    """
    if not isinstance(network, (Cell, Stack)):
        raise TypeError(
            f"Network mismatch: expected a cell or a stack to watch, got {type(network).__name__}."
        )
    if isinstance(network, Stack):
        require_one_direction(network)
        require_no_zoneout(network)
    if not callable(of):
        raise TypeError(
            f"Type mismatch: expected of as a function of the parameters, got {type(of).__name__}."
        )
    require_positive_int("every", every)
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise ValueError(f"Name mismatch: expected name as that of a folder, got {name!r}.")
    chosen = _blocks(network, blocks)
    wanted = None if lags is None else _rising(lags)
    from lstm_jax.training import Watch

    def look(params: PyTree) -> dict[str, np.ndarray]:
        weights, xs = _network_and_sequences(of, params)
        require_finite_arguments(weights, None, xs, batched=jnp.ndim(xs) == 3)
        if isinstance(network, Cell):
            layers: Iterable[Any] = [(network, weights, None, xs)]
        else:
            layers = each_layer(network, weights, None, xs)
        at = lag_grid((max(len(xs), 1),)) if wanted is None else wanted
        seen: dict[str, np.ndarray] = {}
        for number, (cell, layer_params, state0, ys) in enumerate(layers):
            found = _norm_records(cell, layer_params, state0, ys, at, chosen[number])
            found |= _gate_records(cell, layer_params, state0, ys)
            seen |= {f"{number}.{key}": values for key, values in found.items()}
        return {"lags": np.asarray(at), **seen}

    return Watch(name, every, look)


def _network_and_sequences(of: Of, params: PyTree) -> tuple[PyTree, Array]:
    """The network's parameters and the sequences, on one device: otherwise every device repeats the work."""
    found = of(params)
    if not isinstance(found, tuple) or len(found) != 2 or not hasattr(found[1], "shape"):
        raise TypeError(
            "Type mismatch: expected of(params) as (network_params, xs) with xs an array, got "
            f"{tuple(type(part).__name__ for part in found) if isinstance(found, tuple) else found!r}."
        )
    return jax.tree.map(jnp.asarray, jax.device_get(found))


def _rising(lags: Sequence[int]) -> list[int]:
    """The lags as a list; refuse lags that do not rise."""
    numbers = np.asarray(lags)
    whole = numbers.ndim == 1 and numbers.size and np.issubdtype(numbers.dtype, np.integer)
    if not whole or numbers[0] < 0 or np.any(np.diff(numbers) <= 0):
        raise ValueError(
            f"Range mismatch: expected lags as rising whole numbers from 0 on, got {lags!r}."
        )
    return [int(lag) for lag in numbers]


def _blocks(network: Cell | Stack, blocks: Sequence[str] | None) -> list[tuple[str, ...]]:
    """The blocks to record of each layer."""
    cells: Any = [network] if isinstance(network, Cell) else network.layers
    known = []
    for cell in cells:
        places = tuple(layout_of(cell.initial_state()).places())
        known.append((*places, *(LSTM_PATHS if is_lstm(cell) else ()), JOINT))
    if blocks is None:
        return [tuple(block for block in ("hh", "cc") if block in names) for names in known]
    every = tuple(dict.fromkeys(block for names in known for block in names))
    blocks = require_names("blocks", blocks, every)
    if not blocks:
        raise ValueError("Range mismatch: expected at least one of blocks, got none.")
    return [tuple(block for block in blocks if block in names) for names in known]


def _norm_records(
    cell: Cell,
    params: PyTree,
    state0: PyTree | None,
    xs: Array,
    lags: list[int],
    blocks: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """The curves of the blocks, their horizons and decay rates."""
    if not blocks:
        return {}
    try:
        flow = jacobian_norms(
            cell, params, state0, xs, lags=lags, blocks=blocks, norms=("spectral",)
        )
        curves = {block: np.asarray(values) for block, values in flow.spectral.items()}
    except NonFiniteError:
        shape = (*xs.shape[1:-1], len(lags))
        curves = {block: np.full(shape, np.nan, xs.dtype) for block in blocks}
    found, at = {}, np.asarray(lags)
    for block in blocks:
        curve = curves[block]
        unknown = np.isnan(curve).all(-1)
        found[f"curve.{block}"] = curve
        found[f"horizon.{block}"] = np.where(unknown, np.nan, horizon(at, curve))
        found[f"decades_per_100.{block}"] = decades_per_100(at, curve)
    return found


def _gate_records(
    cell: Cell, params: PyTree, state0: PyTree | None, xs: Array
) -> dict[str, np.ndarray]:
    """Statistics of each gate over time, samples and units."""
    try:
        gates = gate_activations(cell, params, state0, xs)
    except NonFiniteError:
        x = xs.reshape(-1, xs.shape[-1])[0]
        like = shapes_of(cell.gates, params, cell.initial_state(None, xs.dtype), x)
        gates = jax.tree.map(lambda gate: np.full((1, *gate.shape), np.nan), like)
    found = {}
    for gate, activations in gates.items():
        values = np.asarray(activations, np.float64)
        found[f"gate.{gate}.mean"] = np.asarray(values.mean())
        found[f"gate.{gate}.quantiles"] = np.quantile(values, QUANTILES)
        unknown = np.isnan(values).any()
        ends = (
            {"saturated": np.abs(values) > OPEN}
            if gate in TANH_GATES
            else {"closed": values < CLOSED, "open": values > OPEN}
        )
        for end, which in ends.items():
            found[f"gate.{gate}.{end}"] = np.where(unknown, np.nan, which.mean())
        if gate == cell.memory_gate == "f":
            of_units = values.reshape(-1, values.shape[-1]).mean(0)
            with np.errstate(divide="ignore"):
                found["time_constants"] = 1 / (1 - np.quantile(of_units, QUANTILES))
    return found


def read_watch(folder: AnyPath) -> WatchRecords:
    """Read the records of a watch: `fit` writes ``<step>.npz`` for each look, in a folder named after it.

    Args:
        folder: of the records, ``run/flow``.

    Raises:
        OutputError: a folder that is missing or has no records, a record that cannot be read, or one with
            other arrays than the first.
    """
    folder = _path(folder)
    if not folder.is_dir():
        raise OutputError(f"Missing folder: expected a watch's records in {folder}, got no folder.")
    paths = record_paths(folder)
    if not paths:
        raise OutputError(f"No records: expected <step>.npz of a watch in {folder}, got none.")
    looks: list[dict[str, np.ndarray]] = []
    for path in paths:
        try:
            looks.append(read_arrays(path))
        except OutputError as error:
            others = f" Move it away to read the other {len(paths) - 1}." if len(paths) > 1 else ""
            raise OutputError(f"{error}{others}") from None
        first, last = looks[0], looks[-1]
        if _shapes(last) != _shapes(first):
            raise OutputError(
                f"Mixed records: expected arrays in {path} of the names and shapes of those in "
                f"{paths[0].name}, got others."
            )
    return WatchRecords(
        steps=np.asarray([int(path.stem) for path in paths]),
        arrays={name: np.stack([look[name] for look in looks]) for name in looks[0]},
    )


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _path(folder: AnyPath) -> Path:
    try:
        return require_path("folder", folder)
    except (TypeError, ValueError) as error:
        raise OutputError(str(error)) from None


def record_paths(folder: AnyPath) -> list[Path]:
    """The finished records in a folder, by step."""
    folder = _path(folder)
    paths = [path for path in folder.glob("*.npz") if path.stem.isdecimal()]
    return sorted(paths, key=lambda path: int(path.stem))


def records_folder(folder: AnyPath) -> Path | None:
    """Where the records of a watched training run are: in its ``flow``, or in the folder itself."""
    folder = _path(folder)
    if (folder / ARRAYS).exists():
        return None
    return next((at for at in (folder / "flow", folder) if record_paths(at)), None)
