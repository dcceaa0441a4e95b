"""A stream's step is each library's own, and its state goes from call to call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import latency
from benchmarks.cases import Case, Shape
from benchmarks.competitors import OURS, PYTORCH
from benchmarks.timed_program import NotOffered

CASE = Case("lstm", Shape(1, 1, 3, 4), "forward")
PEERS = ("equinox", "haiku")


@pytest.fixture(autouse=True)
def ordinary_promotion(standard_promotion):
    """Peers are entitled to JAX's defaults."""


def two_steps(name):
    made = latency.MAKERS[name](CASE)
    x = jnp.arange(3.0)[None] / 3

    def both(params, state):
        state, first = made.step(params, state, x)
        return first, made.step(params, state, x)

    return jax.jit(both)(made.params, made.state)


@pytest.mark.parametrize("name", [OURS, latency.KERNEL])
def test_ours_is_the_plain_step(name):
    try:
        found = two_steps(name)
    except NotOffered as error:
        pytest.skip(str(error))
    for a, b in zip(*map(jax.tree.leaves, (found, two_steps("plain scan"))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.peer] * (n in PEERS)) for n in latency.MAKERS],
)
def test_every_step_is_an_lstms(name):
    if name in PEERS:
        pytest.importorskip(name)
    try:
        first, (state, second) = two_steps(name)
    except NotOffered as error:
        pytest.skip(str(error))
    assert first.shape == second.shape == (1, 4) and np.any(first != second)
    # The state's first part, or its second in Flax, is the output.
    assert any(np.array_equal(part, second) for part in jax.tree.leaves(state))
    call = latency.contestant(name, CASE.as_json()).compile()
    assert 0 < call() < 1


@pytest.mark.peer
def test_pytorch():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        assert 0 < latency.contestant(PYTORCH, CASE.as_json()).compile()() < 1
    finally:
        torch.set_num_threads(before)
