"""Every competitor that is installed computes what is asked of it."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import competitors, jacobians
from benchmarks.cases import CELLS, Case, Shape
from benchmarks.timed_program import NotOffered
from slow_cases import slow_but

import gradient_flow
import lstm_jax

PEERS = ("equinox", "haiku")  # beside Flax, without which nothing here runs
SLOW = pytest.mark.slow
SHAPE = Shape(time=5, batch=2, input_size=3, hidden_size=4)


@pytest.fixture(autouse=True)
def ordinary_promotion():
    """Peers are entitled to JAX's defaults, which this test run makes stricter."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(
    "cell", ["lstm", pytest.param("gru", marks=SLOW), pytest.param("rnn", marks=SLOW)]
)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.peer] * (name in PEERS))
        for name in (*competitors.NETWORKS, "lstm_jax, loop")
    ],
)
def test_gradients_of_the_right_shapes(name, cell):
    if name in PEERS and not importlib.util.find_spec(name):
        pytest.skip(f"{name} is not installed")
    case = Case(cell, SHAPE, "gradient")
    if (name, cell) == ("equinox", "rnn"):
        with pytest.raises(NotOffered, match="no vanilla RNN"):
            competitors.network_of(name, case)
        return
    network = competitors.network_of(name, case)
    xs, weight, _ = competitors.arrays(case)
    arguments = (network.params, xs, network.state0)
    loss = competitors.loss_of(network)
    hs, gradients = jax.jit(lambda *a: (network.run(*a), jax.grad(loss, (0, 1, 2))(*a, weight)))(
        *arguments
    )
    assert hs.shape == (SHAPE.time, SHAPE.batch, SHAPE.hidden_size) and hs.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, arguments)
    leaves = jax.tree.leaves(gradients)
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in leaves)
    width = {"lstm": 4, "gru": 3, "rnn": 1}[cell] * SHAPE.hidden_size
    matrices = sum(leaf.size for leaf in jax.tree.leaves(network.params) if leaf.ndim == 2)
    assert matrices == (SHAPE.input_size + SHAPE.hidden_size) * width


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=SLOW)])
@pytest.mark.parametrize(
    "name", slow_but(["lstm_jax", "plain scan", "flax linen", "flax nnx"], "lstm_jax")
)
def test_other_dtypes(name, precision):
    case = Case("lstm", SHAPE, "forward", precision)
    network = competitors.network_of(name, case)
    xs, *_ = competitors.arrays(case)
    assert jax.jit(network.run)(network.params, xs, network.state0).dtype == precision


def test_the_kernel_is_offered_for_what_it_knows():
    for name, make in competitors.ON_GPU.items():
        for case in (Case("gru", SHAPE, "forward"), Case("lstm", SHAPE, "forward", "float16")):
            with pytest.raises(NotOffered, match="for the LSTM in float32 alone"):
                make(case)
        network = competitors.network_of(name, Case("lstm", SHAPE, "forward", "tf32"))
        assert network.params.w_h.shape == (4, 16)


@pytest.mark.parametrize("cell", slow_but(CELLS, "lstm"))
def test_ours_is_the_plain_scan(cell):
    case = Case(cell, SHAPE, "gradient")
    xs, weight, _ = competitors.arrays(case)
    found = []
    for name in (competitors.OURS, "plain scan"):
        network = competitors.NETWORKS[name](case)
        inputs = (network.params, xs, network.state0, weight)
        found.append(jax.jit(jax.value_and_grad(competitors.loss_of(network), (0, 1, 2)))(*inputs))
    ours, plain = map(jax.tree.leaves, found)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.peer
def test_pytorch():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        for cell in CELLS:
            for kind in ("forward", "gradient"):
                case = Case(cell, SHAPE, kind)
                call = competitors.contestant(competitors.PYTORCH, case.as_json()).compile()
                assert call() is None
                names = dict(zip(call.__code__.co_freevars, call.__closure__, strict=True))
                if kind == "gradient":
                    leaves = names["leaves"].cell_contents
                    assert len(leaves) == 4 + 1 + (2 if cell == "lstm" else 1)
                    assert all(leaf.grad.shape == leaf.shape for leaf in leaves)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", [jacobians.SKIPPING, jacobians.FORWARD, jacobians.PER_LAG])
def test_the_autodiff_ways_compute_the_curve(name):
    cell = lstm_jax.lstm(3, 4)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (6, 3))
    flow = gradient_flow.jacobian_norms(cell, params, None, xs, norms=("spectral",))
    states = jacobians.trajectory(cell, params, xs)
    function = jax.jit(jacobians.norms_by_autodiff(name, cell))
    for lag in (1, 4, 6):
        norms = function(*jacobians.at_lag(name, params, states, xs, lag))
        exact = [flow.spectral[block][lag] for block in jacobians.BLOCKS]
        np.testing.assert_allclose(np.log(norms), exact, rtol=1e-4, atol=1e-4)
