"""Compute the constants of an ONNX graph that other constants determine, also those of graphs around it.

Older exporters bring gates into ONNX's order by Slice, Concat and Unsqueeze of initialisers; quantised models
have their weights behind DequantizeLinear. Each such node is run by `onnx.reference`. What a file can ask for
is bounded: the numbers that are made are at most `MADE` times those in the file, and `MOST_ENTRIES` more.
"""

from typing import Any

import numpy as np

from lstm_jax.weights.onnx.layout_nodes import MOST_ENTRIES

MADE = 8
"""Numbers that folding may make for each number in the file."""

FOLDED = frozenset(
    "Add Cast CastLike Concat Constant ConstantOfShape DequantizeLinear Div Expand Flatten Gather "
    "Identity MatMul Mul Neg Pow ReduceL2 ReduceSum Reshape Shape Slice Split Sqrt Squeeze Sub Tile "
    "Transpose Unsqueeze Where".split()
)
"""Operators that are run; the size of their results follows from their arguments."""


ZERO_STAYS = tuple("Cast Expand Identity Reshape Slice Squeeze Tile Transpose Unsqueeze".split())
"""Operators that make zeros of zeros, whatever their other arguments are."""


class Constants:
    """The constants of one graph, and of the graphs around it.

    Args:
        onnx: the package.
        graph: a ``GraphProto``.
        opset: version of ONNX's own operators.
        outer: the constants of the graph in which this one is an attribute; None for the model's graph.
    """

    def __init__(self, onnx: Any, graph: Any, opset: int, outer: "Constants | None" = None) -> None:
        self._onnx, self._opset, self._outer = onnx, opset, outer
        given = {value.name for value in graph.input}
        self._stored = {constant.name: constant for constant in graph.initializer}
        self._given = given - set(self._stored)
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._found: dict[str, np.ndarray | None] = {}
        stored = sum(int(np.prod(constant.dims)) for constant in graph.initializer)
        self._left = MOST_ENTRIES + MADE * min(stored, graph.ByteSize())

    def get(self, name: str) -> np.ndarray | None:
        """The value of a name; None if inputs of the model, or unknown operators, take part in it."""
        if name not in self._found:
            # Names may depend on thousands of others: no recursion. What is under way depends on itself.
            waiting = [name]
            while waiting:
                last = waiting[-1]
                if last in self._found:
                    waiting.pop()
                    continue
                needed = [n for n in self._needs(last) if n not in self._found]
                new = [n for n in needed if n not in waiting]
                if new:
                    waiting += new
                    continue
                self._found[last] = None if needed else self._value(last)
                waiting.pop()
        return self._found[name]

    def is_given(self, name: str) -> bool:
        """Whether a name is an input of the model."""
        if self._outer is not None and name not in self._makers and name not in self._stored:
            return self._outer.is_given(name)
        return self._outer is None and name in self._given

    def is_zero(self, name: str) -> bool:
        """Whether a name is zero, whatever the shape that the inputs of the model give it."""
        seen, waiting = set(), [name]
        while waiting:
            one = waiting.pop()
            if one in seen:
                continue
            seen.add(one)
            value = self.get(one)
            if value is not None:
                if value.any():
                    return False
                continue
            node = self._makers.get(one)
            if node is None or node.op_type not in (*ZERO_STAYS, "Concat", "ConstantOfShape"):
                return False
            if node.op_type == "ConstantOfShape":
                filled = [self._onnx.numpy_helper.to_array(a.t) for a in node.attribute]
                if any(value.any() for value in filled):
                    return False
                continue
            waiting += node.input if node.op_type == "Concat" else node.input[:1]
        return True

    def _needs(self, name: str) -> list[str]:
        """The names in this graph from which a name is made."""
        if name in self._stored or name in self._given or name not in self._makers:
            return []
        node = self._makers[name]
        return [] if node.op_type not in FOLDED else [n for n in node.input if n]

    def _value(self, name: str) -> np.ndarray | None:
        if name in self._stored:
            return self._onnx.numpy_helper.to_array(self._stored[name])
        if name in self._given:
            return None
        if name not in self._makers:
            return None if self._outer is None else self._outer.get(name)
        node = self._makers[name]
        if node.op_type not in FOLDED or node.domain not in ("", "ai.onnx"):
            return None
        inputs = [self._found[n] if n else None for n in node.input]
        if any(n and value is None for n, value in zip(node.input, inputs, strict=True)):
            return None
        made = self._run(node, inputs)
        # Of several results all are kept.
        for output, value in zip(node.output, made or [], strict=False):
            self._found[output] = value
        return self._found.get(name)

    def _run(self, node: Any, inputs: list[np.ndarray | None]) -> list[np.ndarray] | None:
        arrays = [array for array in inputs if array is not None]
        size = _size_of_results(node, arrays)
        if size is None or size > self._left:
            return None
        self._left -= size
        helper = self._onnx.helper
        names = [n for n in dict.fromkeys(node.input) if n]
        graph = helper.make_graph(
            [node],
            "one node",
            [helper.make_empty_tensor_value_info(n) for n in names],
            [helper.make_empty_tensor_value_info(n) for n in node.output if n],
        )
        # The reference knows this operator from version 19 on; before, it had the same meaning.
        opset = max(self._opset, 19) if node.op_type == "DequantizeLinear" else self._opset
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
        from onnx.reference import ReferenceEvaluator

        feeds = {n: self._found[n] for n in names}
        try:
            return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, feeds)]
        except (
            Exception
        ):  # An operator's own refusal, of a dozen types: then the name stays unknown.
            return None


def _size_of_results(node: Any, arrays: list[np.ndarray]) -> int | None:
    """How many numbers a node makes at most; None if its arguments do not fit it."""
    operator = node.op_type
    try:
        if operator == "ConstantOfShape":
            return _product(arrays[0])
        if operator == "Expand":
            shape = np.broadcast_shapes(arrays[0].shape, tuple(int(n) for n in arrays[1]))
            return _product(shape)
        if operator == "Tile":
            return arrays[0].size * _product(arrays[1])
        if operator == "Gather":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            return arrays[0].size // max(arrays[0].shape[axis], 1) * arrays[1].size
        if operator == "MatMul":
            return arrays[0].size * max(arrays[1].shape[-1], 1)
        if operator in ("Add", "Div", "Mul", "Pow", "Sub", "Where", "DequantizeLinear"):
            sizes = [array.size for array in arrays if array.ndim]
            if operator == "DequantizeLinear":
                return max(sizes, default=1)
            return _product(np.broadcast_shapes(*(array.shape for array in arrays)))
    except (ValueError, IndexError, TypeError):
        return None
    return sum(array.size for array in arrays) + 1


def _product(shape: Any) -> int:
    result = 1
    for n in shape:
        result *= max(int(n), 0)
    return result
