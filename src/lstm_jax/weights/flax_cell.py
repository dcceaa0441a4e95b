r"""One recurrent cell of Flax, linen or nnx, as nested dicts of arrays.

    linen  LSTMCell, OptimizedLSTMCell   ii if ig io: kernel;  hi hf hg ho: kernel, bias
           GRUCell                       ir iz in: kernel, bias;  hr hz hn: kernel;  hn: bias   (z is our u)
           SimpleCell                    i: kernel, bias;  h: kernel
    nnx    LSTMCell                      as linen, with if_ for if
           OptimizedLSTMCell             dense_i: kernel[D, 4H];  dense_h: kernel[H, 4H], bias[4H]
           GRUCell                       dense_i: kernel[D, 3H], bias[3H];  dense_h: kernel[H, 3H]
           SimpleCell                    dense_i: kernel, bias;  dense_h: kernel

Gates i, f, g, o and r, z, n; kernels are [in, out], as ours. nnx's GRU has no b_hn:
ours is zero there.

Axes: w_x[D, gates · H], w_h[H, gates · H], b[gates · H]. All arrays may be traced.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.array_types import PyTree, shapes_of
from lstm_jax.cells import Cell, GRUParams, LSTMParams, RNNParams, gru, lstm, rnn
from lstm_jax.cells.cell import require_cell
from lstm_jax.validation import DtypeError, ShapeError, require_one_of, show_shape
from lstm_jax.weights.arrays import require_names, require_one_dtype, to_jax, to_numpy
from lstm_jax.weights.cell_specification import KINDS, require_options, require_params

LINEN_LAYERS = {
    "lstm": ("ii", "if", "ig", "io", "hi", "hf", "hg", "ho"),
    "gru": ("ir", "iz", "in", "hr", "hz", "hn"),
    "rnn": ("i", "h"),
}
GATES = {"lstm": "ifgo", "gru": "rzn"}
FORMS = ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell")


def unboxed(value: Any) -> Any:
    """The array in a variable of nnx, or in a box of linen's metadata; anything else as it is."""
    for method in ("unbox", "get_value"):
        if hasattr(value, method):
            return getattr(value, method)()
    return value


def cell_from_flax(params: Mapping[str, Any], activation: str = "tanh") -> tuple[Cell, PyTree]:
    """A cell and its parameters from those of a Flax cell, which may be traced.

    Raises:
        ValueError, ShapeError, DtypeError, TypeError: as `lstm_jax.weights.from_flax`.
    """
    nested = isinstance(params, Mapping) and all(isinstance(v, Mapping) for v in params.values())
    if not nested:
        raise TypeError(
            "Type mismatch: expected the parameters of a Flax cell as a dict of dicts, got "
            f"{'a dict of other values' if isinstance(params, Mapping) else type(params).__name__}."
        )
    for name, layer in (("the parameters", params), *params.items()):
        require_names(str(name), layer)
    layers = {name.removesuffix("_"): dict(layer) for name, layer in params.items()}
    if set(layers) == {"dense_i", "dense_h"}:
        return _from_dense(layers, activation)
    kinds = [kind for kind, names in LINEN_LAYERS.items() if set(layers) == set(names)]
    if not kinds:
        raise ValueError(
            "Name mismatch: expected the layers of a Flax LSTMCell, OptimizedLSTMCell, GRUCell or "
            f"SimpleCell, got {sorted(params)}."
        )
    kind = kinds[0]
    biased = {"lstm": {"hi", "hf", "hg", "ho"}, "gru": {"ir", "iz", "in", "hn"}, "rnn": {"i"}}
    _require_fields(layers, biased[kind])
    if kind == "rnn":
        return _made(
            kind, activation, _kernel(layers, "i"), _kernel(layers, "h"), _bias(layers, "i")
        )
    w_x, w_h = (
        _joined([_kernel(layers, side + gate) for gate in GATES[kind]]) for side in ("i", "h")
    )
    side = "h" if kind == "lstm" else "i"
    b = _joined([_bias(layers, side + gate) for gate in GATES[kind]])
    b_hn = _bias(layers, "hn") if kind == "gru" else None
    return _made(kind, activation, w_x, w_h, b, b_hn)


def cell_to_flax(cell: Cell, params: PyTree, form: str, api: str) -> dict[str, Any]:
    """The parameters of a Flax cell that computes the same.

    Raises:
        ValueError, ShapeError, DtypeError, TypeError: as `lstm_jax.weights.to_flax`.
    """
    require_one_of("form", form, FORMS)
    require_one_of("api", api, ("linen", "nnx"))
    kind = {"GRUCell": "gru", "SimpleCell": "rnn"}.get(form, "lstm")
    expected: Any = {"lstm": LSTMParams, "gru": GRUParams, "rnn": RNNParams}[kind]
    require_cell(cell)
    require_params(cell, params)
    require_options("Flax", cell)
    if not isinstance(params, expected):
        raise ValueError(f"Cell mismatch: expected a cell that Flax's {form} can hold, got {cell}.")
    known = kind == "gru" and not isinstance(params.b_hn, jax.core.Tracer)
    if api == "nnx" and known and np.any(np.asarray(params.b_hn)):
        raise ValueError(
            "Bias mismatch: expected b_hn of zeros, because Flax's nnx GRUCell has none, got other numbers."
        )
    if api == "nnx" and form != "LSTMCell":
        bias = "dense_h" if kind == "lstm" else "dense_i"
        dense = {"dense_i": {"kernel": params.w_x}, "dense_h": {"kernel": params.w_h}}
        dense[bias]["bias"] = params.b
        return dense
    if kind == "rnn":
        return {"i": {"kernel": params.w_x, "bias": params.b}, "h": {"kernel": params.w_h}}
    gates = GATES[kind]
    split = [
        dict(zip(gates, jnp.split(a, len(gates), axis=-1), strict=True))
        for a in (params.w_x, params.w_h, params.b)
    ]
    layers: dict[str, Any] = {f"i{gate}": {"kernel": split[0][gate]} for gate in gates}
    layers |= {f"h{gate}": {"kernel": split[1][gate]} for gate in gates}
    side = "h" if kind == "lstm" else "i"
    for gate in gates:
        layers[side + gate]["bias"] = split[2][gate]
    if kind == "gru":
        layers["hn"]["bias"] = params.b_hn
    if api == "nnx":
        layers["if_"] = layers.pop("if")
    return layers


def _from_dense(layers: Mapping[str, Any], activation: str) -> tuple[Cell, PyTree]:
    w_x, w_h = _kernel(layers, "dense_i"), _kernel(layers, "dense_h")
    kind = KINDS.get(w_h.shape[1] // max(1, w_h.shape[0]))
    if kind is None or w_h.shape[1] % max(1, w_h.shape[0]):
        raise ShapeError(
            "Shape mismatch: expected dense_h.kernel [H, 4H], [H, 3H] or [H, H], got "
            f"{show_shape(w_h.shape)}."
        )
    side = "dense_h" if kind == "lstm" else "dense_i"
    _require_fields(layers, {side})
    b = _bias(layers, side)
    b_hn = jnp.zeros(len(w_h), b.dtype) if kind == "gru" else None
    return _made(kind, activation, w_x, w_h, b, b_hn)


def _made(
    kind: str, activation: str, w_x: Any, w_h: Any, b: Any, b_hn: Any = None
) -> tuple[Cell, PyTree]:
    sizes = (w_x.shape[0], w_h.shape[0])
    make: Any = {"lstm": lstm, "gru": gru, "rnn": rnn}[kind]
    cell = make(*sizes, activation=activation) if kind == "rnn" else make(*sizes)
    params: PyTree = LSTMParams(w_x, w_h, b) if kind == "lstm" else RNNParams(w_x, w_h, b)
    if kind == "gru":
        params = GRUParams(w_x, w_h, b, b_hn)
    shapes = shapes_of(cell.init, jax.random.key(0))
    require_one_dtype(params._asdict())
    if not jnp.issubdtype(w_x.dtype, jnp.floating):
        raise DtypeError(f"Dtype mismatch: expected floating kernels, got {w_x.dtype}.")
    for name, array, shape in zip(params._fields, params, shapes, strict=True):
        if array.shape != shape.shape:
            raise ShapeError(
                f"Shape mismatch: expected {name} {show_shape(shape.shape)} of a Flax {kind}, got "
                f"{show_shape(array.shape)}."
            )
    return cell, params


def _require_fields(layers: Mapping[str, Any], biased: set[str]) -> None:
    """Refuse a layer with other fields than its kernel and, if it must have one, its bias."""
    for name, layer in layers.items():
        expected = {"kernel", "bias"} if name in biased else {"kernel"}
        if set(layer) != expected:
            raise ValueError(
                f"Name mismatch: expected {name} with {' and '.join(sorted(expected))}, got "
                f"{sorted(layer)}."
            )


def _joined(arrays: Sequence[Any]) -> Any:
    require_one_dtype({f"gate {n + 1}": array for n, array in enumerate(arrays)})
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ShapeError(
            f"Shape mismatch: expected the gates' arrays of one shape, got {sorted(shapes)}."
        )
    return jnp.concatenate(arrays, axis=-1)


def _kernel(layers: Mapping[str, Any], name: str) -> Any:
    return _array(layers, name, "kernel", 2)


def _bias(layers: Mapping[str, Any], name: str) -> Any:
    return _array(layers, name, "bias", 1)


def _array(layers: Mapping[str, Any], name: str, field: str, rank: int) -> Any:
    value = layers[name].get(field)
    if value is None:
        raise ValueError(
            f"Name mismatch: expected {name} with a {field}, got {sorted(layers[name])}."
        )
    value = unboxed(value)
    array = value if isinstance(value, jax.Array) else to_jax(to_numpy(f"{name}.{field}", value))
    if array.ndim != rank:
        advice = ""
        if array.ndim == rank + 1:  # of nnx.vmap or linen.vmap
            advice = (
                " Of an ensemble's stacked arrays take one member, jax.tree.map(lambda a: a[0], …)."
            )
        raise ShapeError(
            f"Shape mismatch: expected {name}.{field} of rank {rank}, got {show_shape(array.shape)}.{advice}"
        )
    return array
