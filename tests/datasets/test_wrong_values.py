"""Wrong values at the border of the room of data sets, and of what predicts for one."""

import numpy as np
import pytest
from wrong_values import Tensor, cases, require_refused

from lstm_jax.datasets import batches, padded, standardization_of, windows
from lstm_jax.training import predict

pytestmark = pytest.mark.usefixtures("without_type_checker")

XS = [np.ones((3, 2), np.float32), np.ones((2, 2), np.float32)]
SCALE = standardization_of([np.array([[0.0, 1.0], [1.0, 0.0]])])
WRONG = {
    "sequences": [
        None,
        3,
        "ab",
        {"a": XS[0]},
        [],
        [1.0, 2.0],
        ["a", "b"],
        [[[1.0], [2.0, 3.0]], [1.0]],
        [Tensor(), Tensor()],
        [np.array(["a"]), np.array(["b"])],
        [XS[0], XS[1][:, :1]],
        [XS[0], XS[1].astype(int)],
        object(),
    ],
    "targets": [3, "ab", [], [1], [1, 2, 3], {"a": 1, "b": 2}],
    "standardization": [3, "x", tuple(SCALE), {}],
}
MADE = {"xs": XS, "targets": [0, 1], "batch_size": 2}
ENTRIES = [
    (
        batches,
        MADE,
        {
            "xs": "sequences",
            "targets": "targets",
            "batch_size": ["size", 3],
            "buckets": "size",
            "shuffle": "bool",
            "per_step": "bool",
            "standardization": "standardization",
            "seed": [-1, 1.5, "x", None, [1]],
            "part": [3, (0,), "ab", None, (1, 1), (0, 0), (0, 3), ("a", 2)],
        },
    ),
    (
        padded,
        {"xs": XS, "targets": [0, 1]},
        {
            "xs": "sequences",
            "targets": [*WRONG["targets"], ["a", "b"], [Tensor(), 1], [[1], [1, 2]]],
            "length": "size",
            "per_step": "bool",
            "standardization": "standardization",
        },
    ),
    (
        windows,
        {"array": np.ones(5), "length": 3},
        {"array": ["x", 3.0, None, [1, 2, 3], Tensor()], "length": ["size", 6], "stride": "size"},
    ),
    (
        standardization_of,
        {"xs": XS[0] * np.array([[0], [1], [2]], np.float32)},
        {"xs": [None, 3, "ab", [], ["a"], [Tensor()], [1.0], [XS[0], XS[0][:, :1]], XS[0] + 1j]},
    ),
    (
        predict,
        {"function": lambda params, batch: batch.lengths, "params": None, "xs": XS},
        {
            "function": [*[None, 3, "f"], lambda one: one, lambda params, batch: "x"],
            "xs": "sequences",
            "batch_size": "size",
            "buckets": "size",
            "output_axes": [None, 1, "a", 0.5, {"a": 0}],
            "standardization": "standardization",
        },
    ),
]


@pytest.mark.parametrize(("call", "given"), [entry[:2] for entry in ENTRIES])
def test_the_right_values_pass(call, given):
    call(**given)


@pytest.mark.parametrize(("call", "given", "name", "value"), cases(ENTRIES, WRONG))
def test_a_wrong_value_is_refused(call, given, name, value):
    require_refused(call, given, name, value)
