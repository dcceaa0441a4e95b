"""Evaluate the nodes of an ONNX graph that only move, cut, count or combine numbers, by `onnx.reference`.

With no value known but the stored ones, this folds constants: older exporters bring gates into ONNX's order
by Slice, Concat and Unsqueeze of initialisers, and quantised models have their weights behind
DequantizeLinear. With values for the inputs and for what recurrent nodes give, it shows where each number
goes (`wiring`). What a file can ask for is bounded: the numbers that are made are at most `MADE` times those
in the file, and `MOST_ENTRIES` more.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

MADE = 8
"""Numbers that may be made for each number in the file."""

MOST_ENTRIES = 2**22
"""Numbers that may be made in any file."""

LONGEST = np.iinfo(np.int32).max
"""A length that stands for all steps, where it is the default of an input."""

BROADCAST = frozenset(
    "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Not Or Pow Sub Where".split()
)
OPERATORS = BROADCAST | frozenset(
    "Cast CastLike Concat Constant ConstantOfShape DequantizeLinear Dropout Expand Flatten Gather Gemm "
    "Identity MatMul Neg Range ReduceL2 ReduceMax ReduceSum Reshape ReverseSequence Shape Slice Split Sqrt "
    "Squeeze Tile Transpose Unsqueeze".split()
)
"""Operators that are run; the size of their results follows from their arguments."""

VIEWS = frozenset("Flatten Reshape Shape Slice Split Squeeze Transpose Unsqueeze".split())
"""Operators whose results are views of what is there."""

KEEP_ZERO = frozenset(
    "Cast Concat Expand Identity Reshape Slice Squeeze Tile Transpose Unsqueeze".split()
)
"""Operators that make zeros of zeros, whatever the shape is."""

KEEP_LENGTHS = frozenset("Cast Expand Identity Min ReduceSum Reshape Squeeze Unsqueeze".split())
"""Operators behind which lengths are still lengths."""


class Values(NamedTuple):
    """What is known of the names of a graph.

    Attributes:
        known: name -> array.
        zero: names that are zero whatever the shape that the inputs of the model give them.
        lengths: inputs of the model, and what is as good as one where lengths of sequences are expected.
    """

    known: dict[str, np.ndarray]
    zero: frozenset[str] = frozenset()
    lengths: frozenset[str] = frozenset()


def evaluate(
    onnx: Any,
    graph: Any,
    opset: int,
    wanted: Iterable[str],
    *,
    outer: Values,
    fed: Mapping[str, np.ndarray] | None = None,
    replaced: Callable[[Any, dict[str, np.ndarray]], dict[str, np.ndarray] | None] | None = None,
) -> Values:
    """What is known of the names in a graph.

    Args:
        onnx: the package.
        graph: a ``GraphProto``.
        opset: version of ONNX's own operators.
        wanted: names; only the nodes that take part in them are run.
        outer: what is known outside of the graph. Names of the graph's own hide it.
        fed: values by name, whatever the graph says of them.
        replaced: given a node and what is known, the results of that node instead of its own; None to run it.

    Example, with the package ``onnx``::

        evaluate(onnx, model.graph, 17, ["W"], outer=Values({})).known.get("W")
    """
    own = {name for node in graph.node for name in node.output}
    own |= {value.name for value in (*graph.input, *graph.initializer)}
    known = {name: value for name, value in outer.known.items() if name not in own}
    zero, lengths = set(outer.zero - own), set(outer.lengths)
    nodes, needed = [], set(wanted)
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
    # An input with a default, as older files list every weight, counts as its default.
    for constant in graph.initializer:
        if constant.name in needed:
            try:
                known[constant.name] = onnx.numpy_helper.to_array(constant)
            except (
                ValueError,
                TypeError,
                KeyError,
                OSError,
            ):  # damaged, or in a file that is not there
                known.pop(constant.name, None)
    known |= fed or {}
    stored = sum(math.prod(constant.dims) for constant in graph.initializer)
    left = MOST_ENTRIES + MADE * min(stored, graph.ByteSize())
    for node in reversed(nodes):
        if node.output and all(name in known for name in node.output if name):
            continue
        made = replaced(node, known) if replaced else None
        runs = node.op_type in OPERATORS and node.domain in ("", "ai.onnx")
        if made is None and runs and all(name in known for name in node.input if name):
            size = _size(node, [known[name] for name in node.input if name])
            if size is not None and size <= left:
                left -= size
                made = _run(onnx, node, known, opset)
        known |= made or {}
        if node.op_type == "ConstantOfShape":
            filled = [onnx.numpy_helper.to_array(a.t) for a in node.attribute]
            is_zero = not any(value.any() for value in filled)
        else:
            kept = node.input if node.op_type == "Concat" else node.input[:1]
            is_zero = node.op_type in KEEP_ZERO and all(
                name in zero or (name in known and not known[name].any()) for name in kept
            )
        zero.update(node.output if is_zero else ())
        if node.op_type in KEEP_LENGTHS and lengths.intersection(node.input):
            lengths.update(node.output)
    return Values(known, frozenset(zero), frozenset(lengths))


def free_inputs(onnx: Any, graph: Any) -> set[str]:
    """Inputs that have no default, or the default of lengths that stands for all steps."""
    free = {value.name for value in graph.input}
    for constant in graph.initializer:
        if constant.name in free:
            is_long = constant.data_type == onnx.TensorProto.INT32 and (
                onnx.numpy_helper.to_array(constant) >= LONGEST
            )
            if not np.all(is_long):
                free.remove(constant.name)
    return free


def _run(
    onnx: Any, node: Any, known: dict[str, np.ndarray], opset: int
) -> dict[str, np.ndarray] | None:
    from onnx.reference import ReferenceEvaluator

    helper, names = onnx.helper, [n for n in dict.fromkeys(node.input) if n]
    results = [n for n in node.output if n]
    blank = helper.make_empty_tensor_value_info
    graph = helper.make_graph([node], "one", list(map(blank, names)), list(map(blank, results)))
    # The reference knows this operator from version 19 on; before, it had the same meaning.
    opset = max(opset, 19) if node.op_type == "DequantizeLinear" else opset
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    given = {name: known[name] for name in names}
    if node.op_type in ("Squeeze", "Unsqueeze"):  # The axes of some exporters are one number.
        given |= {name: np.ravel(given[name]) for name in node.input[1:] if name}
    try:
        made = ReferenceEvaluator(model).run(None, given)
    except Exception:  # An operator's own refusal, of a dozen types: then the name stays unknown.
        return None
    return dict(zip(results, map(np.asarray, made), strict=True))


def _size(node: Any, arrays: list[np.ndarray]) -> int | None:
    """How many numbers a node makes at most; None if its arguments do not fit it."""
    operator = node.op_type
    if operator in VIEWS:
        return 0
    try:
        if operator == "ConstantOfShape":
            return _product(arrays[0])
        if operator == "Expand":
            return _product(np.broadcast_shapes(arrays[0].shape, tuple(int(n) for n in arrays[1])))
        if operator == "Tile":
            return arrays[0].size * _product(arrays[1])
        if operator == "Range":
            start, end, step = (array.item() for array in arrays)
            return int(abs(end - start) / abs(step)) + 1
        if operator == "Gather":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            return arrays[0].size // max(arrays[0].shape[axis], 1) * arrays[1].size
        if operator in ("Gemm", "MatMul"):
            return arrays[0].size * max(arrays[1].shape)
        if operator in BROADCAST:
            return _product(np.broadcast_shapes(*(array.shape for array in arrays)))
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError):
        return None
    return sum(array.size for array in arrays) + 1


def _product(shape: Iterable[Any]) -> int:
    return math.prod(max(int(n), 0) for n in shape)
