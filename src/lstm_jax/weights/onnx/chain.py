"""The recurrent nodes of an ONNX graph as the layers of a stack, by the numbers that arrive at each.

xs, x̄s            the sequence [T, B, N], and the same reversed within its lengths
arrives as xs     beside the nodes on it: the forward or backward half of a bidirectional layer
arrives as ys     on them: [T, B, dirs·H], with a residual connection ys + xs
arrives as x̄s     the node runs backward
"""

from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.validation import show_shape
from lstm_jax.weights.arrays import require_shape
from lstm_jax.weights.onnx.evaluate import MOST_ENTRIES, Values
from lstm_jax.weights.onnx.left_out import named, nodes_behind, only_moves
from lstm_jax.weights.onnx.marks import Marks, marked
from lstm_jax.weights.onnx.recurrent_node import Node, attributes_of
from lstm_jax.weights.onnx.recurrent_nodes import STARTS, NodeLayer, is_recurrent

ORDERS = tuple(permutations(range(4)))
Known = dict[str, np.ndarray]


class Half(NamedTuple):
    """A node on the present sequence.

    Attributes:
        place: of the node in the graph.
        direction: ``"forward"``, ``"reverse"`` or ``"bidirectional"``, in the time of the stack.
        ys: its outputs [T, B, dirs, H].
    """

    place: int
    direction: str
    ys: np.ndarray


class Product(NamedTuple):
    """A product [T, B, N] W[N, O] of what may be the outputs of the last layer.

    Attributes:
        w: the matrix.
        top: the outputs.
        ys: what stands for the product; zero at the first step of the first sample.
    """

    w: np.ndarray
    top: np.ndarray
    ys: np.ndarray


@dataclass
class Chain:
    """The layers that have been seen so far, and the sequence ``xs`` on which the open nodes run."""

    onnx: Any
    graph: Any
    found: dict[int, NodeLayer]
    constants: Values
    marks: Marks
    rng: np.random.Generator
    xs: np.ndarray = field(default_factory=lambda: np.zeros(0))
    open: list[Half] = field(default_factory=list)
    groups: list[tuple[tuple[int, bool], ...]] = field(default_factory=list)
    residual: list[bool] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    finals: list[np.ndarray] = field(default_factory=list)
    starts: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)
    source: tuple[str, str] | None = None
    own: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    product: Product | None = None

    def replaced(self, node: Any, known: Known) -> Known | None:
        """What stands for the results of a node; None where it is to be run."""
        if not is_recurrent(node):
            return self._multiplied(node, known) if node.op_type in ("Gemm", "MatMul") else None
        for place, one in self.found.items():
            if self.graph.node[place].output == node.output and one.node is not None:
                return self._recurrent(place, one.node, known)
        return {}

    def _recurrent(self, place: int, node: Node, known: Known) -> Known:
        """Place a recurrent node on the sequence or on the layer below; return marks as its outputs."""
        D, H, count = self.found[place].sizes
        given = known.get(node.inputs.get("X", ""))
        fits = given is not None and given.ndim == 3 and given.size and given.shape[2] == D
        if given is None or not fits:
            if self.open:
                raise self._other_input(
                    node, "" if given is None else f" {show_shape(given.shape)}"
                )
            # What stands before the first node need not be understood.
            sizes = self.marks.sizes[::-1] if node.batch_first else self.marks.sizes
            given = marked(self.rng, (*sizes, D), node.pairs[0][1].w_x.dtype)
        xs = given.swapaxes(0, 1) if node.batch_first else given
        steps, samples = xs.shape[:2]
        if steps * samples * count * H > MOST_ENTRIES:
            raise ValueError(
                f"Size mismatch: expected a sequence of at most {MOST_ENTRIES} outputs of {node.name}, got "
                f"{show_shape((steps, samples, count * H))}."
            )
        self._require_lengths(node, known, steps, samples)
        self._require_states(place, node, known, samples)
        turned = self._placed(node, xs, known)
        directions = ["forward", "reverse"][:: -1 if turned else 1]
        direction = dict(zip(("forward", "reverse"), directions, strict=True)).get(node.direction)
        if turned and direction is None:
            raise self._other_input(node, ", which runs in both directions")
        ys = marked(self.rng, (steps, samples, count, H), xs.dtype)
        ys[np.arange(steps)[:, None] >= self.own] = 0
        self.open.append(Half(place, direction or "bidirectional", ys))
        if len(self.open) > 1 and sorted(h.direction for h in self.open) != ["forward", "reverse"]:
            got = " and ".join(f"{self._label(h)} ({h.direction})" for h in self.open)
            raise ValueError(
                "Graph mismatch: expected two nodes side by side to be one forward and one reverse, got "
                f"{got}."
            )
        ends = [0 if direction == "reverse" or n else self.own - 1 for n in range(count)]
        h = np.stack([ys[end, np.arange(samples), n] for n, end in enumerate(ends)])
        c = marked(self.rng, h.shape, xs.dtype)
        self.finals += [h, c]
        results = [(_reversed(ys, self.own) if turned else ys).swapaxes(1, 2), h, c]
        if node.batch_first:
            results = [results[0].transpose(2, 0, 1, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)]
        names = self.graph.node[place].output
        return {name: array for name, array in zip(names, results, strict=False) if name}

    def _label(self, half: Half) -> str:
        node = self.found[half.place].node
        return "" if node is None else node.name

    def _placed(self, node: Node, xs: np.ndarray, known: Known) -> bool:
        """Find the sequence that a node runs on, closing the layer below it; return if it is reversed."""
        candidates = [(None, "", self.xs), *((also, "", top) for also, top in self.tops())]
        first = not self.open
        if first:
            # An input of the graph, or the earliest sequence that the graph makes of its inputs.
            x = node.inputs.get("X", "")
            made = [name for n in nodes_behind(self.graph, x) for name in n.output]
            given = self.marks.fed | {n: known[n] for n in made if n in known} | {x: xs}
            given = {name: array for name, array in given.items() if array.ndim == 3}
            candidates = [(None, n, t) for n, s in given.items() for t in (s, s.swapaxes(0, 1))]
        for residual, name, candidate in candidates:
            for turned in (False, True):
                if np.array_equal(xs, _reversed(candidate, self.own) if turned else candidate):
                    if residual is not None:
                        self.close(residual)
                    before = nodes_behind(self.graph, name) if first else []
                    self.left_out += [f"{named(before)} before {node.name}"] if before else []
                    self.xs = candidate
                    return turned
        raise self._other_input(node, "")

    def tops(self) -> list[tuple[bool, np.ndarray]]:
        """What the open layer may give, without and with a residual connection."""
        if not self.open:
            return []
        halves = sorted(self.open, key=lambda half: half.direction)
        top = np.concatenate([h.ys.reshape(*h.ys.shape[:2], -1) for h in halves], -1)
        residual = self.groups and top.shape == self.xs.shape
        return [(False, top), *([(True, top + self.xs)] if residual else [])]

    def close(self, residual: bool) -> None:
        """Make a layer of the open nodes."""
        halves = sorted(self.open, key=lambda half: half.direction)
        self.groups.append(tuple((h.place, h.direction == "reverse") for h in halves))
        self.residual.append(residual)
        self.open = []

    def _other_input(self, node: Node, how: str) -> ValueError:
        """The error of a node whose input is no sequence of a stack."""
        x = node.inputs.get("X", "")
        nodes = nodes_behind(self.graph, x)
        made = f"what {named(nodes)} makes" if nodes else repr(x)
        below = " and ".join(map(self._label, self.open)) or "a sequence"
        return ValueError(
            f"Graph mismatch: expected {node.name} on the outputs of {below}, as they are or reversed in "
            f"time, got it on {made}{how}."
        )

    def _require_lengths(self, node: Node, known: Known, steps: int, samples: int) -> None:
        """Refuse lengths that are constants or computed, or that differ from the first node's."""
        name, source, own = node.inputs.get("sequence_lens"), "", np.full(samples, steps)
        if name is not None:
            value = known.get(name, np.zeros(0))
            for one, lengths in self.marks.lengths.items():
                fits = lengths.shape == own.shape and lengths.max() <= steps
                if fits and np.array_equal(lengths, value):
                    source, own = one, lengths
            if not np.array_equal(own, value):
                got = "a constant" if name in self.constants.known else "a computed value"
                raise ValueError(
                    f"Graph mismatch: expected sequence_lens of {node.name} as an input of the graph, got "
                    f"{got}."
                )
        below, expected = self.source = self.source or (node.name, source)
        if source != expected:
            wanted, got = (repr(words) if words else "none" for words in (expected, source))
            raise ValueError(
                f"Graph mismatch: expected sequence_lens of {node.name} from {wanted}, as {below} has it, "
                f"got {got}."
            )
        self.own = own

    def _require_states(self, place: int, node: Node, known: Known, samples: int) -> None:
        """Refuse starting states that are computed; keep one that the graph repeats for every sample."""
        for which in STARTS:
            name = node.inputs.get(which, "")
            if not name or name in self.constants.known or name in self.constants.zero:
                continue
            state = known.get(name, np.ones(0))
            moved = only_moves(nodes_behind(self.graph, name))
            given = moved and any(np.isin(state, value).all() for value in self.marks.fed.values())
            if state.size and (given or not state.any()):
                continue
            rows = state.swapaxes(0, 1) if node.batch_first and state.ndim == 3 else state
            if rows.ndim != 3 or rows.shape[1] != samples or (rows != rows[:, :1]).any():
                got = "a final state" if self.is_final(state) else "a computed value"
                raise ValueError(
                    f"Graph mismatch: expected {which} of {node.name} as an input of the graph or a "
                    f"constant, got {got}."
                )
            shape = (len(node.pairs), samples, node.pairs[0][0].hidden_size)
            require_shape(f"{which} of {node.name}", rows, shape, "directions, samples, H")
            self.starts.setdefault(place, {})[which.removeprefix("initial_")] = rows[:, :1]

    def is_final(self, value: np.ndarray) -> bool:
        """Whether a value is made of rows of final states."""
        each = [final.reshape(-1, final.shape[-1]) for final in self.finals]
        rows = {row.tobytes() for final in each for row in final}
        return value.size > 0 and any(
            value.size % size == 0 and rows.issuperset(r.tobytes() for r in value.reshape(-1, size))
            for size in {final.shape[-1] for final in each}
        )

    def _multiplied(self, node: Any, known: Known) -> Known | None:
        """Marks for the product of the outputs with a matrix, which may be the output projection."""
        if self.product is not None or len(node.input) < 2:
            return None
        x, w, *bias = (known.get(name, np.zeros(0)) for name in node.input)
        said = attributes_of(self.onnx, node)
        usual = said.get("alpha", 1) == said.get("beta", 1) == 1 and not said.get("transA", 0)
        if w.ndim != 2 or not usual:
            return None
        w = w.T if said.get("transB", 0) else w
        if x.shape[-1] != len(w) or x.size // len(w) * w.shape[1] > MOST_ENTRIES:
            return None
        for top in (top for _, top in self.tops() if top.shape[-1] == len(w)):
            for order in ((0, 1, 2), (1, 0, 2)):
                if np.array_equal(x.ravel(), top.transpose(order).ravel()):
                    ys = marked(self.rng, (*top.shape[:2], w.shape[1]), top.dtype)
                    ys[np.arange(len(ys))[:, None] >= self.own] = 0
                    ys[0, 0] = 0
                    self.product = Product(w, top, ys)
                    made = ys.transpose(order).reshape(*x.shape[:-1], w.shape[1])
                    return {node.output[0]: made + bias[0] if bias else made}
        return None

    def projection_bias(self, value: np.ndarray) -> np.ndarray | None:
        """The bias of the output projection, if a value is one: marks and a row, also zero past the ends."""
        if self.product is None:
            return None
        ys = self.product.ys
        if value.size != ys.size or value.ndim > 3 or value.shape[-1] != ys.shape[-1]:
            return None
        bias = value.reshape(-1, ys.shape[-1])[0].astype(self.product.w.dtype)
        valid = (np.arange(len(ys))[:, None] < self.own)[:, :, None]
        sums = ys + bias
        return bias if any(shows(value, y, 1) for y in (sums, np.where(valid, sums, 0))) else None


def _reversed(xs: np.ndarray, own: np.ndarray) -> np.ndarray:
    """A sequence [T, B, …] reversed within its lengths."""
    steps = np.arange(len(xs))[:, None]
    if xs.shape[1] != len(own) or own.max() > len(xs):
        return np.zeros(0)
    return xs[np.where(steps < own, own - 1 - steps, steps), np.arange(len(own))]


def shows(value: np.ndarray, ys: np.ndarray, directions: int) -> bool:
    """Whether a value is the outputs [T, B, dirs·H] with their axes in any order."""
    axes, flat = ys.reshape(*ys.shape[:2], directions, -1), value.ravel()
    return value.size == ys.size and any(
        np.array_equal(axes.transpose(order).ravel(), flat) for order in ORDERS
    )
