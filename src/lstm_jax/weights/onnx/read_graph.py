"""Read an ONNX graph as a stack, by following its sequence from node to node.

Exporters put Transpose, Reshape, Squeeze and similar nodes between two recurrent nodes. Together they must
give the layout that the next node's input has in a stack. This is computed, not guessed from their names: the
placeholder of a sequence [T, B, N] is an array of different numbers, the nodes are applied to it, and the
result must be those numbers in that layout. Otherwise the message names the node.

A stack has one set of lengths: every node must have its sequence_lens from the same input of the graph.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from lstm_jax.layers.stack import Backward, Both, Stack, StackParams, stack
from lstm_jax.weights.arrays import require_one_dtype, to_jax
from lstm_jax.weights.cell_specification import joined
from lstm_jax.weights.onnx.layout_nodes import (
    CUT,
    LAYOUT,
    MOST_ENTRIES,
    REPEAT,
    is_zero,
    laid_out,
    of_bounded_size,
    of_constant,
)
from lstm_jax.weights.onnx.one_direction import OPERATORS
from lstm_jax.weights.onnx.recurrent_node import (
    Node,
    attributes_of,
    name_of,
    read_node,
    starting_state,
)
from lstm_jax.weights.onnx.symbols import (
    GIVEN,
    STATES,
    UNKNOWN,
    Labels,
    Lengths,
    Parts,
    Sizes,
    StepNumbers,
)
from lstm_jax.weights.onnx.write_graph import LONGEST

STATE = (*LAYOUT, *CUT, "Concat")
CONSTANTS = {
    "value_int": np.int64,
    "value_ints": np.int64,
    "value_float": np.float32,
    "value_floats": np.float32,
}


class Half(NamedTuple):
    """A recurrent node that is not yet part of a layer, with its labels [T, B, dirs·H]."""

    node: Node
    labels: np.ndarray
    start: list[dict[str, np.ndarray]]


def read_graph(onnx: Any, graph: Any) -> tuple[Stack, StackParams]:
    """A graph as a stack with its parameters; `lstm_jax.weights.from_onnx` documents it."""
    reader = Reader(onnx, graph)
    for node in graph.node:
        reader.read(node)
    reader.require_outputs(graph)
    return reader.stack()


class Reader:
    """The values of a graph that has been read so far, and the layers."""

    def __init__(self, onnx: Any, graph: Any) -> None:
        self.onnx = onnx
        self.labelled = 0
        self.current: np.ndarray | None = None
        self.open: list[Half] = []
        self.sequences: list[np.ndarray] = []
        self.lengths: tuple[str, str | None] | None = None
        self.pairs: list[Any] = []
        self.starts: list[list[dict[str, np.ndarray]]] = []
        self.residual: list[bool] = []
        self.w_y: np.ndarray | None = None
        self.b_y: np.ndarray | None = None
        self.values: dict[str, Any] = {
            constant.name: onnx.numpy_helper.to_array(constant) for constant in graph.initializer
        }
        self.defaults = set(self.values) & {value.name for value in graph.input}
        # If a graph leaves the size of its input free, the first weight has it.
        weights = [node.input[1] for node in graph.node if node.op_type in OPERATORS]
        first = self.values.get(weights[0]) if weights else None
        self.input_size = first.shape[-1] if isinstance(first, np.ndarray) else 1
        for value in graph.input:
            if value.name not in self.values:
                self.values[value.name] = self.of_input(value)

    def of_input(self, value: Any) -> Any:
        """Labels for a possible sequence; an axis of free size gets a size that no other axis has."""
        types = self.onnx.TensorProto
        if value.type.tensor_type.elem_type in (types.INT32, types.INT64, types.BOOL):
            return Lengths(value.name)
        dims = value.type.tensor_type.shape.dim
        if len(dims) not in (2, 3):
            return GIVEN
        free = [*range(2, 1 + len(dims)), self.input_size]
        sizes = [dim.dim_value or size for dim, size in zip(dims, free, strict=True)]
        # What a file declares costs it nothing: a long sequence is followed as a short one.
        if math.prod(sizes) > MOST_ENTRIES:
            sizes = free
        return Labels(self.labels(*sizes), given=True)

    def labels(self, *sizes: int) -> np.ndarray:
        """Numbers that have not been used before."""
        first, count = self.labelled, int(np.prod(sizes))
        self.labelled += count
        return np.arange(first, first + count).reshape(sizes)

    def read(self, node: Any) -> None:
        """Follow one node."""
        inputs = [self.values.get(name, UNKNOWN) if name else None for name in node.input]
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            self.recurrent(node)
            return
        made = self.made(node, inputs)
        if made is None:
            raise ValueError(
                "Graph mismatch: expected recurrent nodes one after the other, with only nodes between them "
                f"that move axes, got {name_of(node)}."
            )
        each = made.each if isinstance(made, Parts) else [made] * len(node.output)
        self.values |= {name: one for name, one in zip(node.output, each, strict=False) if name}

    def made(self, node: Any, inputs: list[Any]) -> Any:
        """The results of a node; None if they cannot be computed."""
        operator, said = node.op_type, attributes_of(self.onnx, node)
        if operator == "Constant":
            return self.constant(said)
        if operator == "ConstantOfShape":
            value = said.get("value")
            filled = np.zeros(1, np.float32) if value is None else self.constant(said)
            if inputs and isinstance(inputs[0], np.ndarray) and of_bounded_size(inputs[0]):
                return np.full(inputs[0], filled.item(), filled.dtype)
            return filled if is_zero(filled) else UNKNOWN
        if operator == "Shape" and isinstance(inputs[0], Labels):
            array = inputs[0].array
            axes = np.arange(array.ndim)[said.get("start", 0) : said.get("end")]
            return Sizes(array, axes)
        if operator == "Shape" or not inputs:
            return UNKNOWN
        first, others = inputs[0], inputs[1:]
        words = [value for value in inputs if isinstance(value, str)]
        sequences = [value for value in inputs if isinstance(value, Labels)]
        if STATES in words:
            return STATES if operator in STATE else None
        if operator in LAYOUT and isinstance(first, Labels):
            moved = laid_out(operator, said, first.array, others)
            if moved is not None:
                return Labels(moved, first.given)
        if operator in (*LAYOUT, *CUT, *REPEAT) and isinstance(first, np.ndarray):
            parts = of_constant(operator, said, first, others, len(node.output))
            if parts is not None:
                return Parts(parts)
            return np.zeros(1, first.dtype) if is_zero(first) else UNKNOWN
        if operator == "Concat" and len(sequences) == len(inputs):
            arrays = [value.array for value in sequences]
            given = all(value.given for value in sequences)
            return Labels(np.concatenate(arrays, said["axis"]), given)
        if operator == "Concat" and all(isinstance(value, np.ndarray) for value in inputs):
            return _concatenated(inputs, said["axis"])
        counted = self.counted(node, said, inputs)
        if counted is not None:
            return counted
        if all(value.given for value in sequences):
            passed = operator in (*STATE, "Expand") and (
                isinstance(first, Labels) or (isinstance(first, str) and first == GIVEN)
            )
            return GIVEN if passed else UNKNOWN
        if operator == "Dropout" and len(inputs) < 3:
            return first
        if operator == "Where" and len(sequences) == 1 and sequences[0] is inputs[1]:
            return sequences[0] if self.masked(*inputs) else None
        if operator == "Add" and len(inputs) == 2:
            return self.sum(*inputs)
        if operator == "MatMul" and isinstance(first, Labels) and isinstance(inputs[1], np.ndarray):
            return self.product(first, inputs[1])
        return None

    def constant(self, said: dict[str, Any]) -> Any:
        """The array of a node Constant."""
        if "value" in said:
            return self.onnx.numpy_helper.to_array(said["value"])
        for attribute, dtype in CONSTANTS.items():
            if attribute in said:
                return np.array(said[attribute], dtype)
        return UNKNOWN

    def counted(self, node: Any, said: dict[str, Any], inputs: list[Any]) -> Any:
        """The results of a node on sizes, lengths or step numbers; None if they are unknown."""
        operator, first, others = node.op_type, inputs[0], inputs[1:]
        types = self.onnx.TensorProto
        cast = operator == "Cast" and said["to"] in (types.INT32, types.INT64)
        if isinstance(first, Sizes):
            if cast or operator in REPEAT:
                return first
            if operator in (*LAYOUT, *CUT):
                parts = of_constant(operator, said, first.axes, others, len(node.output))
                return None if parts is None else Parts([Sizes(first.labels, p) for p in parts])
        if isinstance(first, Lengths):
            if cast or operator in ("Identity", "Expand"):
                return first
            if operator in ("Squeeze", "Unsqueeze", "Reshape"):
                return first._replace(flat=False)
            if operator == "ReduceSum":  # of a mask
                return Lengths(node.output[0], flat=False)
        if operator == "Min":
            each = [_lengths(*pair, self.defaults) for pair in zip(node.input, inputs, strict=True)]
            known = [lengths for lengths in each if lengths is not None]
            sources = {lengths.source for lengths in known} - {None}
            if len(known) < len(each) or len(sources) > 1:
                return None
            limits = tuple(limit for lengths in known for limit in lengths.limits)
            return Lengths(next(iter(sources), None), limits, all(k.flat for k in known))
        if operator == "Range" and _equal(first, 0) and _equal(inputs[2], 1):
            return StepNumbers(others[0], np.zeros(2)) if isinstance(others[0], Sizes) else None
        if isinstance(first, StepNumbers):
            if operator == "Unsqueeze":
                moved = laid_out(operator, said, first.array, others)
                return None if moved is None else first._replace(array=moved)
            lengths = others[0] if operator == "Less" else None
            if isinstance(lengths, Lengths) and lengths.flat and first.array.shape == (2, 1):
                return first._replace(array=np.zeros((2, 3)), lengths=lengths)
        return None

    def masked(self, condition: Any, projected: Labels, nothing: Any) -> bool:
        """Whether this is the mask that `to_onnx` writes after a projection: zeros past the end."""
        return (
            self.w_y is not None
            and _same(projected.array, self.current)
            and is_zero(nothing)
            and nothing.ndim <= 3
            and isinstance(condition, StepNumbers)
            and condition.array.shape == (2, 3, 1)
            and condition.lengths is not None
            and self.lengths is not None
            and condition.lengths.source == self.lengths[1]
            and all(map(self.all_steps, (condition.limit, *condition.lengths.limits)))
        )

    def all_steps(self, sizes: Sizes) -> bool:
        """Whether sizes are the number of steps: the size of a sequence's time axis."""
        labels, axes = sizes.labels, set(sizes.axes.flat)
        if len(axes) != 1:
            return False
        (axis,) = axes
        first_step = set(labels.take(0, axis).flat)
        return any(
            labels.size == xs.size and first_step == set(xs[0].flat) for xs in self.sequences
        )

    def recurrent(self, node: Any) -> None:
        """Read a recurrent node, whose input must be the outputs of the last layer."""
        read = read_node(self.onnx, node, self.values)
        given = self.values.get(read.inputs["X"], UNKNOWN)
        if not isinstance(given, Labels) or self.w_y is not None:
            raise ValueError(
                f"Graph mismatch: expected {read.name} on the sequence or on the layer below, got "
                f"{'a projection' if isinstance(given, Labels) else _called(given)} as its X."
            )
        xs = given.array.swapaxes(0, 1) if read.batch_first else given.array
        if self.current is None:
            if xs.ndim != 3 or not given.given or (np.diff(xs) != 1).any():
                raise ValueError(
                    f"Graph mismatch: expected {read.name} on an input [T, B, D] of the graph, got it "
                    "in another layout."
                )
            self.current = xs
        elif not (len(self.open) == 1 and _same(xs, self.current)):
            self.close(xs, read.name)
        if xs.shape[-1] != read.pairs[0][0].input_size:
            raise ValueError(
                f"Size mismatch: expected {read.name} on an input of size {read.pairs[0][0].input_size}, got "
                f"{xs.shape[-1]}."
            )
        self.require_states(read)
        self.sequences.append(xs)
        self.require_lengths(read)
        count, size = len(read.pairs), read.pairs[0][0].hidden_size
        ys = self.labels(*xs.shape[:2], count * size)
        self.open.append(Half(read, ys, starting_state(read, self.values)))
        whole = ys.reshape(*xs.shape[:2], count, size).swapaxes(1, 2)
        if read.batch_first:
            whole = whole.transpose(2, 0, 1, 3)
        made = zip(node.output, (Labels(whole), STATES, STATES), strict=False)
        self.values |= {name: value for name, value in made if name}

    def require_states(self, node: Node) -> None:
        """Refuse starting states that are computed."""
        for field in ("initial_h", "initial_c"):
            value = self.values.get(node.inputs.get(field, ""), GIVEN)
            outside = value.given if isinstance(value, Labels) else value is GIVEN
            if not outside and not isinstance(value, np.ndarray):
                raise ValueError(
                    f"Graph mismatch: expected {field} of {node.name} as an input of the graph or a "
                    f"constant, got {'a layer' if isinstance(value, Labels) else _called(value)}."
                )

    def require_lengths(self, node: Node) -> None:
        """Refuse lengths that are constants or computed, or that differ from the first node's."""
        name, source = node.inputs.get("sequence_lens"), None
        if name is not None:
            value = self.values.get(name, UNKNOWN)
            lengths = None if isinstance(value, np.ndarray) else _lengths(name, value, set())
            if lengths is None or not all(map(self.all_steps, lengths.limits)):
                raise ValueError(
                    f"Graph mismatch: expected sequence_lens of {node.name} as an input of the graph, got "
                    f"{_called(value)}."
                )
            source = lengths.source
        if self.lengths is None:
            self.lengths = node.name, source
        below, expected = self.lengths
        if source != expected:
            wanted = (
                f"{node.name} without sequence_lens"
                if expected is None
                else f"sequence_lens of {node.name} from {expected!r}"
            )
            raise ValueError(
                f"Graph mismatch: expected {wanted}, as {below} has it, got "
                f"{'none' if source is None else repr(source)}."
            )

    def close(self, labels: np.ndarray, name: str) -> None:
        """Make a layer of the open nodes, if these labels are its outputs and it does not exist yet."""
        if not self.open and self.current is not None and _same(labels, self.current):
            return
        nodes = [half.node for half in self.open]
        directions = [node.direction for node in nodes]
        halves = self.open if directions != ["reverse", "forward"] else self.open[::-1]
        if len(directions) > 1 and sorted(directions) != ["forward", "reverse"]:
            got = " and ".join(f"{node.name} ({node.direction})" for node in nodes)
            raise ValueError(
                "Graph mismatch: expected two nodes side by side to be one forward and one reverse, got "
                f"{got}."
            )
        whole = np.concatenate([half.labels for half in halves], -1) if halves else np.empty(0)
        if not _same(labels, whole):
            raise ValueError(
                f"Graph mismatch: expected {name} on the outputs [T, B, N] of the layer below, got them "
                "in another layout, or the outputs of another layer."
            )
        pairs = [pair for half in halves for pair in half.node.pairs]
        if directions == ["reverse"]:
            ((cell, params),) = pairs
            self.pairs.append((Backward(cell), params))
        else:
            self.pairs.append(joined(pairs))
        self.starts.append([state for half in halves for state in half.start])
        self.residual.append(False)
        self.current, self.open = whole, []

    def sum(self, first: Any, second: Any) -> Labels | None:
        """A residual connection, or the projection's bias."""
        if isinstance(first, np.ndarray):
            first, second = second, first
        if isinstance(second, np.ndarray):
            if self.w_y is None or self.b_y is not None or second.ndim > 3:
                return None
            if second.size != self.w_y.shape[1] or second.shape[-1:] != self.w_y.shape[1:]:
                return None
            self.b_y = second.reshape(-1)
            return first
        if not isinstance(second, Labels) or not self.open or not self.pairs:
            return None
        if _same(first.array, self.current):
            first, second = second, first
        if not _same(second.array, self.current):
            return None
        self.close(first.array, "Add")
        self.residual[-1] = True
        self.current = self.labels(*first.array.shape)
        return Labels(self.current)

    def product(self, sequence: Labels, matrix: np.ndarray) -> Labels | None:
        """The output projection, on either order of time and batch."""
        if self.w_y is not None or matrix.ndim != 2 or sequence.array.ndim != 3:
            return None
        turned = sequence.array.swapaxes(0, 1)
        batch_first = set(turned[:, 0, 0]) == set(self.top()[:, 0, 0])
        self.close(turned if batch_first else sequence.array, "MatMul")
        self.w_y = matrix
        self.current = self.labels(*self.top().shape[:2], matrix.shape[1])
        return Labels(self.current.swapaxes(0, 1) if batch_first else self.current)

    def top(self) -> np.ndarray:
        """The outputs of the last layer, [T, B, N]."""
        if len(self.open) == 1:
            return self.open[0].labels
        return np.empty((0, 1, 1)) if self.current is None else self.current

    def require_outputs(self, graph: Any) -> None:
        """Refuse a graph with other outputs than those of the last layer and final states."""
        if self.open:
            whole = [
                half.labels for half in sorted(self.open, key=lambda half: half.node.direction)
            ]
            self.close(np.concatenate(whole, -1), "the output")
        if not self.pairs:
            raise ValueError("Graph mismatch: expected an RNN, GRU or LSTM node, got none.")
        for output in graph.output:
            value = self.values.get(output.name, UNKNOWN)
            if isinstance(value, Labels) and set(value.array.flat) == set(self.top().flat):
                continue
            if not isinstance(value, str) or value is not STATES:
                got = (
                    "the outputs of a layer below" if isinstance(value, Labels) else "another value"
                )
                raise ValueError(
                    f"Graph mismatch: expected output {output.name!r} as the last layer's outputs or a final "
                    f"state, got {got}."
                )

    def stack(self) -> tuple[Stack, StackParams]:
        """The stack that has been read, and its parameters."""
        residual = self.residual[1:]
        if len(set(residual)) > 1:
            raise ValueError(
                "Graph mismatch: expected residual connections around every layer but the first, or "
                f"around none, got {residual} from the second layer on."
            )
        learned = any(leaf.any() for start in self.starts for s in start for leaf in s.values())
        net = stack(
            *(layer for layer, _ in self.pairs),
            residual=any(residual),
            learned_state=learned,
            output_size=None if self.w_y is None else self.w_y.shape[1],
        )
        params = StackParams(tuple(layer_params for _, layer_params in self.pairs))
        if learned:
            params = params._replace(state0=tuple(map(_state, net.initial_state(), self.starts)))
        if self.w_y is not None:
            w_y: Any = self.w_y
            b_y: Any = np.zeros(w_y.shape[1], w_y.dtype) if self.b_y is None else self.b_y
            params = params._replace(w_y=w_y, b_y=b_y)
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        require_one_dtype({jax.tree_util.keystr(path): leaf for path, leaf in leaves})
        return net, to_jax(params)


def _state(like: Any, start: list[dict[str, np.ndarray]]) -> Any:
    if isinstance(like, Both):
        return Both(*(type(s)(**arrays) for s, arrays in zip(like, start, strict=True)))
    return type(like)(**start[0])


def _same(one: np.ndarray, other: np.ndarray | None) -> bool:
    return other is not None and one.shape == other.shape and bool((one == other).all())


def _called(value: Any) -> str:
    """The name of a value in messages."""
    if isinstance(value, np.ndarray):
        return "a constant"
    return value if isinstance(value, str) else UNKNOWN


def _lengths(name: str, value: Any, defaults: set[str]) -> Lengths | None:
    """A value as lengths, else None; constants count only if they are longer than every sequence."""
    if isinstance(value, Sizes):
        return Lengths(None, (value,))
    if isinstance(value, np.ndarray) and value.dtype.kind == "i" and (value >= LONGEST).all():
        return Lengths(name if name in defaults else None)
    return value if isinstance(value, Lengths) else None


def _equal(value: Any, number: int) -> bool:
    return isinstance(value, np.ndarray) and value.size == 1 and value.item() == number


def _concatenated(arrays: list[np.ndarray], axis: int) -> Any:
    try:
        return np.concatenate(arrays, axis)
    except ValueError:  # zeros of an unknown shape
        return np.zeros(1, arrays[0].dtype) if all(map(is_zero, arrays)) else UNKNOWN
