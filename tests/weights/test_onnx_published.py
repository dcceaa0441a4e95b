"""The test cases that ONNX itself publishes for its RNN, LSTM and GRU operators, inputs and outputs."""

import warnings
from importlib import import_module

import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax import weights

pytestmark = pytest.mark.peer
STARTS = ("test_lstm_", "test_gru_", "test_rnn_", "test_simple_rnn_")
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
EXPECTED = {
    *(
        f"test_{k}_{n}"
        for k in ("lstm", "gru", "simple_rnn")
        for n in ("defaults", "with_initial_bias")
    ),
    *(f"test_{k}_batchwise" for k in ("lstm", "gru", "simple_rnn")),
    *(f"test_{k}_seq_length" for k in ("gru", "rnn")),
    "test_lstm_with_peepholes",
}


def published():
    """Name -> (model, inputs, outputs)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, while they are imported
        pytest.importorskip("onnx")
        loader = import_module("onnx.backend.test.loader")
        cases = loader.load_model_tests(kind="node")
    return {case.name: case for case in cases if case.name.startswith(STARTS)}


@pytest.fixture(scope="module")
def cases():
    return published()


def test_the_cases_are_there(cases):
    assert set(cases) >= EXPECTED


def hold(case):
    """Weights into the model, as an exporter writes it, then ours against the stored outputs."""
    onnx = import_module("onnx")
    model = onnx.load(f"{case.model_dir}/model.onnx") if case.model is None else case.model
    model = onnx.ModelProto.FromString(model.SerializeToString())
    given, expected = case.data_sets[0] if case.data_sets else stored(case, onnx)
    graph = model.graph
    (node,) = graph.node
    role = {name: role for role, name in zip(INPUTS, node.input, strict=False) if name}
    values = {role[i.name]: np.asarray(v) for i, v in zip(graph.input, given, strict=True)}
    for entry in list(graph.input):
        if role[entry.name] in ("W", "R", "B", "P"):
            array = onnx.numpy_helper.from_array(values[role[entry.name]], entry.name)
            graph.initializer.append(array)
            graph.input.remove(entry)
    net, params = weights.from_onnx(model)
    batch_first = any(a.name == "layout" and a.i == 1 for a in node.attribute)
    xs = values["X"].swapaxes(0, 1) if batch_first else values["X"]
    state0 = None
    if "initial_h" in values:
        (zeros,) = net.initial_state(xs.shape[1])
        leaves = [values[f"initial_{leaf}"] for leaf in zeros._fields]
        leaves = [leaf.swapaxes(0, 1) if batch_first else leaf for leaf in leaves]
        state0 = (type(zeros)(*(jnp.asarray(leaf[0]) for leaf in leaves)),)
    lengths = values.get("sequence_lens")
    (state,), ys = lstm_jax.unroll_stack(
        net, params, jnp.asarray(xs), state0, sequences=lstm_jax.Sequences(lengths=lengths)
    )
    both = state if isinstance(state, lstm_jax.Both) else [state]
    ours = {"Y_h": np.stack([s.h for s in both])}
    if hasattr(both[0], "c"):
        ours["Y_c"] = np.stack([s.c for s in both])
    ours["Y"] = np.asarray(ys).reshape(*ys.shape[:2], len(both), -1).swapaxes(1, 2)
    roles = {name: role for role, name in zip(("Y", "Y_h", "Y_c"), node.output, strict=False)}
    for entry, value in zip(graph.output, expected, strict=True):
        found = ours[roles[entry.name]]
        if batch_first:  # [T, dirs, B, H] -> [B, T, dirs, H]
            found = found.transpose(2, 0, 1, 3) if found.ndim == 4 else found.swapaxes(0, 1)
        np.testing.assert_allclose(found, value, rtol=2e-6, atol=1e-7)


def stored(case, onnx):
    folder = f"{case.model_dir}/test_data_set_0"

    def read(kind, values):
        return [
            onnx.numpy_helper.to_array(onnx.load_tensor(f"{folder}/{kind}_{n}.pb"))
            for n in range(len(values))
        ]

    graph = onnx.load(f"{case.model_dir}/model.onnx").graph
    return read("input", graph.input), read("output", graph.output)


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        try:
            names = sorted(published())
        except pytest.skip.Exception:
            names = sorted(EXPECTED)
        metafunc.parametrize("name", names)


def test_a_published_case(cases, name):
    hold(cases[name])
