r"""Weights to and from Flax, linen and nnx: a cell, or a whole stack, as nested dicts of arrays.

`flax_cell` has the layouts of the cells, `flax_trees` where they are in a model's parameters.

Axes: w_x[D, gates · H], w_h[H, gates · H], b[gates · H]. All arrays may be traced.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from lstm_jax.array_types import PyTree
from lstm_jax.cells import Cell
from lstm_jax.layers.stack import (
    Backward,
    Bidirectional,
    Both,
    Layer,
    Stack,
    StackParams,
    stack,
)
from lstm_jax.validation import ShapeError, require_one_of, show_shape
from lstm_jax.weights.cell_specification import directions, require_params
from lstm_jax.weights.flax_cell import FORMS, cell_from_flax, cell_to_flax, unboxed
from lstm_jax.weights.flax_modules import Told, is_nnx_module, opened
from lstm_jax.weights.flax_trees import Path, Place, kind_of, layers_of, ordered, places_of
from lstm_jax.weights.recurrent_layer import (
    Choices,
    RecurrentLayer,
    RecurrentLayers,
    require_no_choices,
)

DEFAULT_FORMS = {"lstm": "OptimizedLSTMCell", "gru": "GRUCell", "rnn": "SimpleCell"}


def from_flax(
    params: Any, *, activation: str = "tanh", layers: Sequence[Any] | None = None
) -> tuple[Cell | Stack, PyTree]:
    """A cell or a stack and its parameters from those of Flax.

    The parameters of a cell make a cell. Any other tree makes a stack of the recurrent layers in it; what
    else it has, as a ``Dense``, is left out.

    Args:
        params: of linen, ``variables`` or ``variables["params"]``; of nnx, ``nnx.state(model)``, or the
            module itself, which also says activations and directions.
        activation: of a SimpleCell; its parameters do not contain it.
        layers: the names of the stack's layers from the lowest, ``["encoder", "layers_1"]``, where the sizes
            fit in several orders or not all layers are of one stack. Two cells that are the directions of
            one layer are a pair, ``("GRUCell_0", "GRUCell_1")``.

    Returns:
        A cell from `lstm`, `gru` or `rnn`, or a `Stack`, and its parameters. Without a module every layer
        that is alone runs forward.

    Raises:
        ValueError: names of a Flax cell without a counterpart in `lstm_jax`; an unknown activation; a tree
            without layers, or with several orders of them, which are named.
        ShapeError: an array that does not fit the others.
        DtypeError: arrays that are not all of one floating dtype, or float64 without ``jax_enable_x64``.
        TypeError: anything but a dict of dicts of arrays.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen
        >>> from lstm_jax.weights import from_flax
        >>> rnn = linen.RNN(linen.OptimizedLSTMCell(4))
        >>> model = linen.Sequential([rnn, linen.RNN(linen.GRUCell(5)), linen.Dense(2)])
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 7, 3)))
        >>> net, params = from_flax(variables)
        >>> net.layers
        (lstm(input_size=3, hidden_size=4), gru(input_size=4, hidden_size=5))
    """
    require_one_of("activation", activation, ("tanh", "relu", "identity"))
    tree, told = opened(params) if is_nnx_module(params) else (params, {})
    tree = _without_collections(tree)
    places = places_of(tree) if isinstance(tree, Mapping) else []
    if not places or not places[0].paths[0]:  # no layers: a cell, or what its reader refuses
        return _read_cell(layers_of(tree) if told else tree, (), told, activation)
    return _read_places(tree, ordered(places, layers), told, activation)


def read_place(
    tree: Mapping[Any, Any], place: Place, told: Mapping[Path, Told], activation: str
) -> tuple[Layer, PyTree]:
    """One layer of a tree."""
    pairs = [_read_cell(layers_of(_at(tree, p)), p, told, activation) for p in place.paths]
    if len(pairs) == 2:
        (forward, forward_params), (back, back_params) = pairs
        return Bidirectional(forward, back), Both(forward_params, back_params)
    cell, params = pairs[0]
    backward = told.get(place.paths[0], Told()).backward
    return (Backward(cell) if backward else cell), params


def layers_of_nnx(module: Any) -> RecurrentLayers:
    """The recurrent layers of a module of nnx, with the activations and directions that it says."""
    tree, told = opened(module)
    found = []
    for place in places_of(tree):
        cells = [told.get(path, Told()) for path in place.paths]
        refused = next((one.refused for one in cells if one.refused), None)

        def read(choices: Choices, place: Place = place) -> tuple[Any, Any]:
            require_no_choices(place.name, choices, "whose module says it all")
            return read_place(tree, place, told, "tanh")

        kind = kind_of(layers_of(_at(tree, place.paths[0])))
        sizes = (place.inputs[0], place.outputs[0], len(place.paths), 1)
        # As of the arrays alone: a cell by its own name, two by their layer's.
        name = place.name if len(place.paths) == 2 else ".".join(map(str, place.paths[0]))
        found.append(RecurrentLayer(name, kind, *sizes, (), refused, read))
    return RecurrentLayers(found)


def _read_places(
    tree: Mapping[Any, Any], places: list[Place], told: Mapping[Path, Told], activation: str
) -> tuple[Stack, StackParams]:
    pairs = [read_place(tree, place, told, activation) for place in places]
    return stack(*(layer for layer, _ in pairs)), StackParams(tuple(p for _, p in pairs))


def _read_cell(
    layers: Any, path: Path, told: Mapping[Path, Told], activation: str
) -> tuple[Cell, PyTree]:
    one = told.get(path)
    if one is not None and one.refused:
        raise ValueError(one.refused)
    cell, params = cell_from_flax(layers, activation if one is None else one.activation)
    if one is not None and one.residual:
        w_h = params.w_h
        params = params._replace(w_h=w_h + jnp.eye(len(w_h), dtype=w_h.dtype))
    return cell, params


def to_flax(
    net: Layer | Stack,
    params: PyTree,
    form: str | None = None,
    *,
    api: str = "linen",
    like: Any = None,
    layers: Sequence[Any] | None = None,
) -> dict[Any, Any]:
    """The parameters of a Flax cell, or of Flax's layers, that compute the same.

    Args:
        net: a cell from `lstm`, `gru` or `rnn`, a layer or a `Stack`, without options that Flax does not
            have.
        params: of the net.
        form: of every cell, ``"LSTMCell"``, ``"OptimizedLSTMCell"``, ``"GRUCell"`` or ``"SimpleCell"``; if
            None, that of its kind, for an LSTM the optimized one.
        api: ``"linen"`` or ``"nnx"``.
        like: the parameters of the model that takes them, as for `from_flax`: the result is the same tree,
            with those of its recurrent layers replaced, and says form and api.
        layers: of ``like``, as for `from_flax`.

    Returns:
        Nested dicts, for ``module.apply({"params": ...})`` or ``nnx.update(module, ...)``. Without ``like``,
        of a cell: those of the cell; of a layer: of ``RNN`` or ``Bidirectional``; of a stack: of
        ``Sequential``. A `Backward` layer is an ``RNN`` with ``reverse=True, keep_order=True``.

    Raises:
        ValueError: a cell that the form cannot hold; a b_hn that is not zero, for nnx; residual connections,
            an output projection, zoneout, a learned starting state; a form beside ``like``; another number
            of layers or other cells there.
        ShapeError, DtypeError, TypeError: params that are not the net's, or sizes other than those of
            ``like``.
    """
    if form is not None:
        require_one_of("form", form, FORMS)
    require_one_of("api", api, ("linen", "nnx"))
    require_params(net, params)
    if isinstance(net, Stack):
        _require_plain(net)
    if like is not None:
        if form is not None:
            raise ValueError(
                f"Option mismatch: expected form=None beside like, which says it, got {form!r}."
            )
        return _put(net, params, like, layers)
    if layers is not None:
        raise ValueError("Option mismatch: expected layers= beside like=, got it alone.")
    if isinstance(net, Cell):
        return _write_cell(net, params, form, api)
    if not isinstance(net, Stack):
        return _write_layer(net, params, form, api)
    written = [
        _write_layer(*pair, form, api) for pair in zip(net.layers, params.layers, strict=True)
    ]
    if api == "nnx":
        return {"layers": dict(enumerate(written))}
    return {f"layers_{number}": layer for number, layer in enumerate(written)}


def _write_cell(cell: Cell, params: PyTree, form: str | None, api: str) -> dict[Any, Any]:
    return cell_to_flax(cell, params, form or DEFAULT_FORMS[cell.kind], api)


def _write_layer(layer: Layer, params: PyTree, form: str | None, api: str) -> dict[Any, Any]:
    written = [{"cell": _write_cell(*pair, form, api)} for pair in directions(layer, params)]
    if len(written) == 1:
        return written[0]
    return dict(zip(("forward_rnn", "backward_rnn"), written, strict=True))


def _require_plain(net: Stack) -> None:
    refused = {
        "residual connections": net.residual,
        "an output projection, which is a Dense of its own (w_y, b_y)": net.projected_size,
        "zoneout": net.zoneout,
        "a learned starting state, which Flax takes as initial_carry": net.learned_state,
    }
    for words, has in refused.items():
        if has:
            raise ValueError(
                f"Option mismatch: expected a stack that Flax's layers compute, got one with {words}."
            )


def _put(
    net: Layer | Stack, params: PyTree, like: Any, layers: Sequence[Any] | None
) -> dict[Any, Any]:
    """The tree of another model with its recurrent layers replaced."""
    tree, _ = opened(like) if is_nnx_module(like) else (like, {})
    inner = _without_collections(tree)
    places = places_of(inner) if isinstance(inner, Mapping) else []
    if not places:
        raise ValueError("Layer missing: expected like= with recurrent layers of Flax, got none.")
    chain = ordered(places, layers)
    nets, parts = ((net,), (params,)) if not isinstance(net, Stack) else (net.layers, params.layers)
    shapes = [len(directions(layer, layer)) for layer in nets]
    if [len(place.paths) for place in chain] != shapes:
        raise ValueError(
            f"Layer mismatch: expected layers of {shapes} directions in like=, got "
            f"{[len(place.paths) for place in chain]}."
        )
    written = _copied(inner)
    for layer, part, place in zip(nets, parts, chain, strict=True):
        for (cell, own), path in zip(directions(layer, part), place.paths, strict=True):
            _replace_cell(_at(written, path), cell, own, ".".join(map(str, path)))
    return written if inner is tree else {**_copied(tree), "params": written}


def _replace_cell(node: dict[Any, Any], cell: Cell, params: PyTree, name: str) -> None:
    found: Any = layers_of(node)
    dense = "dense_h" in found
    form = DEFAULT_FORMS[cell.kind] if dense or "if_" not in found else "LSTMCell"
    new = cell_to_flax(cell, params, form, "nnx" if dense or "if_" in found else "linen")
    if set(new) != set(found):
        raise ValueError(
            f"Cell mismatch: expected a cell for {name or 'like='}, with {sorted(found)}, got {cell}."
        )
    for layer, arrays in new.items():
        for part, array in arrays.items():
            old = node[layer].get(part)
            shape = getattr(unboxed(old), "shape", None)
            if shape != array.shape:
                raise ShapeError(
                    f"Shape mismatch: expected {name}.{layer}.{part} {show_shape(shape or ())} as in like=, "
                    f"got {show_shape(array.shape)}."
                )
            node[layer][part] = old.replace_boxed(array) if hasattr(old, "replace_boxed") else array


def _copied(node: Any) -> Any:
    """A tree of dicts, in which variables of nnx are arrays."""
    if isinstance(node, Mapping):
        return {name: _copied(inner) for name, inner in node.items()}
    return node.get_value() if hasattr(node, "get_value") else node


def _at(tree: Any, path: Path) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _without_collections(tree: Any) -> Any:
    """The parameters of linen's variables, which may have other collections beside them."""
    if isinstance(tree, Mapping) and isinstance(tree.get("params"), Mapping):
        return tree["params"]
    return tree
