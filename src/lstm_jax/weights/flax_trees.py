r"""The recurrent layers in a tree of Flax's parameters: where their cells are, and in which order they run.

    linen  RNN                 {cell: …}
           Bidirectional       {forward_rnn: {cell: …}, backward_rnn: {cell: …}}
           Sequential          {layers_0: …, layers_1: …}
           compact method      {OptimizedLSTMCell_0: …, OptimizedLSTMCell_1: …, Dense_0: …}
    nnx    the same, with Sequential as {layers: {0: …, 1: …}}

A tree says neither the order of its layers nor, in a compact method, which cells are the two directions of
one layer. The sizes do where one reading alone fits; else the caller says it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lstm_jax.validation import ShapeError
from lstm_jax.weights.cell_specification import KINDS
from lstm_jax.weights.flax_cell import FORMS, LINEN_LAYERS, unboxed

LAYERS = [*map(set, LINEN_LAYERS.values()), {"dense_i", "dense_h"}]
OF_A_CLASS = re.compile(f"(?:{'|'.join(FORMS)})_\\d+")
"""The name that linen gives to a cell that is made in a compact method."""
MOST_TRIED = 10_000
SHOWN = 4

Path = tuple[Any, ...]


class Place(NamedTuple):
    """A layer in the tree.

    Attributes:
        name: of its module, with dots; empty for the whole tree.
        paths: of its cells, one, or the forward and then the backward one.
        inputs: D of each.
        outputs: H of each.
    """

    name: str
    paths: tuple[Path, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def layers_of(node: Any) -> dict[str, Any] | None:
    """The linear layers of a cell, whatever is beside them; None for anything but a cell."""
    if not isinstance(node, Mapping):
        return None
    layers = {
        str(name): layer
        for name, layer in node.items()
        if isinstance(layer, Mapping) and "kernel" in layer
    }
    return layers if {name.removesuffix("_") for name in layers} in LAYERS else None


def kind_of(layers: Any) -> str:
    """``"lstm"``, ``"gru"`` or ``"rnn"``, of the linear layers of a cell."""
    names = {name.removesuffix("_") for name in layers}
    for kind, known in LINEN_LAYERS.items():
        if names == set(known):
            return kind
    hidden, columns = layers["dense_h"]["kernel"].shape
    return KINDS.get(columns // max(1, hidden), "lstm")


def places_of(tree: Mapping[Any, Any]) -> list[Place]:
    """The layers of a tree, by their names, numbers as numbers."""
    cells = dict(_cells(tree, ()))
    places = []
    for path in sorted(cells, key=_natural):
        above = path[:-1] if path[-1:] == ("cell",) else path
        other = (*above[:-1], "backward_rnn", *path[len(above) :])
        if above[-1:] == ("backward_rnn",):
            if (*above[:-1], "forward_rnn", *path[len(above) :]) in cells:
                continue
        paths: tuple[Path, ...] = (path,)
        if above[-1:] == ("forward_rnn",) and other in cells:
            paths, above = (path, other), above[:-1]
        sizes = [_sizes(cells[one]) for one in paths]
        inputs, outputs = tuple(d for d, _ in sizes), tuple(h for _, h in sizes)
        places.append(Place(_dotted(above), paths, inputs, outputs))
    return places


def _cells(node: Any, path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    layers = layers_of(node)
    if layers is not None:
        yield path, layers
    elif isinstance(node, Mapping):
        for name, inner in node.items():
            yield from _cells(inner, (*path, name))


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _natural(path: Path) -> list[tuple[int, Any]]:
    parts = re.split(r"(\d+)", _dotted(path))
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def _sizes(layers: Mapping[str, Any]) -> tuple[int, int]:
    """D and H of a cell; 0 for an array that is no matrix, which its reader refuses."""
    sizes = []
    for side in "ih":
        name = next(n for n in layers if n.removeprefix("dense_")[0] == side)
        shape: Any = getattr(unboxed(layers[name]["kernel"]), "shape", ())
        sizes.append(int(shape[-2]) if len(shape) >= 2 else 0)
    return sizes[0], sizes[1]


def ordered(places: Sequence[Place], layers: Any) -> list[Place]:
    """The layers in the order in which they run.

    Args:
        places: from `places_of`.
        layers: names in that order, and pairs of names for two directions; None where the sizes tell.

    Raises:
        ValueError: several orders that fit, or none; a name of no layer.
        ShapeError: named layers whose sizes do not fit each other.
        TypeError: anything but a list of names and pairs.
    """
    if layers is not None:
        return _chosen(places, layers)
    found: list[list[Place]] = []
    tried = 0
    waiting: list[tuple[list[Place], list[Place]]] = [([], list(places))]
    while waiting and len(found) <= SHOWN and tried < MOST_TRIED:
        tried += 1
        chain, rest = waiting.pop()
        if not rest:
            found.append(chain)
            continue
        for place, left in reversed(list(_next(rest))):
            if not chain or set(place.inputs) == {sum(chain[-1].outputs)}:
                waiting.append(([*chain, place], left))
    if len(found) == 1 and not waiting:
        return found[0]
    if not found:
        sizes = ", ".join(f"{place.name or 'the root'} {_shown_sizes(place)}" for place in places)
        raise ValueError(
            f"Order needed: expected layers= with the names of one stack, because {sizes} do not fit on top "
            "of each other, got none."
        )
    options = " or ".join(f"layers={[_name(place) for place in chain]}" for chain in found[:SHOWN])
    raise ValueError(
        f"Order needed: expected layers=, because the sizes fit in several orders, got none. Give {options}"
        f"{', or another' if len(found) > SHOWN or waiting else ''}."
    )


def _next(rest: list[Place]) -> Iterator[tuple[Place, list[Place]]]:
    """What may run next: of numbered names the lowest, alone or with the next one as its other direction."""
    begun: set[str] = set()
    for place in rest:
        prefix = re.sub(r"\d+$", "", place.name)
        if prefix != place.name and prefix in begun:
            continue
        begun.add(prefix)
        left = [one for one in rest if one is not place]
        yield place, left
        if OF_A_CLASS.fullmatch(place.name.rpartition(".")[2]) and len(place.paths) == 1:
            pairs = [one for one in left if re.sub(r"\d+$", "", one.name) == prefix]
            if pairs and pairs[0].inputs == place.inputs:
                yield _both(place, pairs[0]), [one for one in left if one is not pairs[0]]


def _both(forward: Place, backward: Place) -> Place:
    return Place(
        f"{forward.name}+{backward.name}",
        forward.paths + backward.paths,
        forward.inputs + backward.inputs,
        forward.outputs + backward.outputs,
    )


def _name(place: Place) -> Any:
    return tuple(place.name.split("+")) if "+" in place.name else place.name


def _shown_sizes(place: Place) -> str:
    return " and ".join(f"{d} → {h}" for d, h in zip(place.inputs, place.outputs, strict=True))


def _chosen(places: Sequence[Place], layers: Any) -> list[Place]:
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise TypeError(f"Type mismatch: expected layers as a list of names, got {layers!r}.")
    chain = []
    for name in layers:
        if isinstance(name, (tuple, list)) and len(name) == 2:
            pair = [_named(places, one) for one in name]
            if any(len(one.paths) > 1 for one in pair) or pair[0].inputs != pair[1].inputs:
                raise ShapeError(
                    f"Size mismatch: expected {name} as two directions over the same inputs, got "
                    f"{', '.join(map(_shown_sizes, pair))}."
                )
            chain.append(_both(*pair))
        else:
            chain.append(_named(places, name))
    for below, above in zip(chain, chain[1:], strict=False):
        if set(above.inputs) != {sum(below.outputs)}:
            raise ShapeError(
                f"Size mismatch: expected {above.name} of input size {sum(below.outputs)}, the output size "
                f"of {below.name}, got {above.inputs[0]}."
            )
    return chain


def _named(places: Sequence[Place], name: Any) -> Place:
    fitting = [place for place in places if name in (place.name, *map(_dotted, place.paths))]
    if len(fitting) != 1:
        names = ", ".join(repr(place.name) for place in places)
        raise ValueError(
            f"Name mismatch: expected layers= of {names or 'recurrent layers'}, got {name!r}."
        )
    return fitting[0]
