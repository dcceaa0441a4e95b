"""The training of several networks in one program, against each of them trained alone, step by step."""

from functools import partial

import jax
import numpy as np
import pytest
from slow_cases import slow_but

import lstm_jax
from gradient_flow.command_line import short_training
from gradient_flow.command_line.short_training import (
    model_of,
    optimizer_of,
    problem_of,
    shortest_text,
    split,
    start,
    train,
)
from lstm_jax import NonFiniteError
from lstm_jax.language import log_frequency
from lstm_jax.language.text import encode
from lstm_jax.training import train_step

pytestmark = pytest.mark.usefixtures("standard_promotion")

CORPUS = encode("so it goes, and so it goes again. " * 60, "a text")
CODES = CORPUS.codes
SIZES = (CORPUS.vocabulary.size, 8)
CELLS = [lstm_jax.rnn(*SIZES), lstm_jax.rnn(*SIZES, w_h_init=lstm_jax.orthogonal())]
RATE, AT_ONCE = 0.02, 10


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_training, "STEPS_AT_ONCE", AT_ONCE)
        patch.setattr(short_training, "BATCH_SIZE", 6)
        yield


@pytest.fixture(scope="module")
def trained(small):
    """Both networks after 40 steps, and what was reported on the way."""
    reports = []
    with jax.numpy_dtype_promotion("standard"):
        ends = train(CELLS, CODES, 40, RATE, 3, lambda *said: reports.append(said))
    return ends, reports


def test_it_learns(trained):
    ends, reports = trained
    for end in ends:
        assert len(end.bits) == 40 and np.mean(end.bits[-5:]) < np.mean(end.bits[:5]) - 1
        # The text repeats itself, so what is learned holds for its end too.
        assert end.held_out < np.mean(end.bits[:5]) - 1
    assert [done for done, _ in reports] == [10, 20, 30, 40]
    both = np.mean([end.bits for end in ends], axis=0).reshape(4, AT_ONCE).mean(axis=1)
    np.testing.assert_allclose([value for _, value in reports], both, rtol=1e-6)


def test_it_repeats(trained):
    for end, again in zip(trained[0], train(CELLS, CODES, 40, RATE, 3), strict=True):
        assert end.bits == again.bits and end.held_out == again.held_out
        jax.tree.map(np.testing.assert_array_equal, end.params, again.params)
    assert train(CELLS, CODES, 10, RATE, 4)[0].bits != trained[0][0].bits[:10]


@pytest.mark.parametrize("number", slow_but([0, 1], 1))
def test_each_network_is_as_if_trained_alone(trained, number):
    seen, _ = split(CODES)
    model = model_of(CELLS[number], log_frequency(seen, CELLS[number].input_size))
    problem, optimizer = problem_of(model), optimizer_of(RATE)
    state = start(problem, optimizer, model, 3, number)
    # Both networks compute the same, so that one program serves this test twice.
    first = model_of(CELLS[0], log_frequency(seen, CELLS[0].input_size))
    step = one_step(first)
    bits = []
    for _ in range(20):
        state, metrics = step(state, seen)
        bits.append(float(metrics.more["nats"]) / np.log(2))
    np.testing.assert_allclose(trained[0][number].bits[:20], bits, rtol=1e-4)
    twenty = train(CELLS, CODES, 20, RATE, 3)[number]
    assert twenty.bits == trained[0][number].bits[:20]
    for ours, alone in zip(twenty.params, state.params.stack.layers[0], strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-3, atol=1e-5)


@partial(jax.jit, static_argnums=0)
def _step(model, state, codes):
    with jax.numpy_dtype_promotion("standard"):
        return train_step(problem_of(model), optimizer_of(RATE))(state, codes)


def one_step(model):
    return partial(_step, model)


def test_the_end_of_the_text_is_held_out(trained):
    """Another end changes nothing of the training, and what is measured on it."""
    seen, held_out = split(CODES)
    assert len(held_out) == len(CODES) // 10
    np.testing.assert_array_equal(np.concatenate([seen, held_out]), CODES)
    other = np.concatenate([seen, held_out[::-1]])
    for end, changed in zip(trained[0], train(CELLS, other, 40, RATE, 3), strict=True):
        assert changed.bits == end.bits
        jax.tree.map(np.testing.assert_array_equal, end.params, changed.params)
        assert changed.held_out > end.held_out + 0.1


def test_the_readout_begins_with_the_frequencies():
    """Before anything is learned a character costs no more than without a network."""
    seen, _ = split(CODES)
    shares = np.bincount(seen) / len(seen)
    entropy = -np.sum(shares * np.log2(shares))
    model = model_of(CELLS[0], log_frequency(seen, CELLS[0].input_size))
    state = start(problem_of(model), optimizer_of(RATE), model, 3, 0)
    np.testing.assert_allclose(np.exp(state.params.b_y), shares, atol=0.01)
    _, metrics = one_step(model)(state, seen)
    assert abs(float(metrics.more["nats"]) / np.log(2) - entropy) < 0.3


def test_a_loss_that_is_not_finite_names_its_step():
    """A rate that throws the weights out of range: the first loss is finite, the second is not."""
    with pytest.raises(NonFiniteError, match=r"finite training loss, got (nan|inf) at step 2\.$"):
        train(CELLS[:1], CODES, 10, 1e38, 3)


def test_the_shortest_text_can_be_trained_on():
    assert shortest_text(0) == 1
    seen, held_out = split(CODES[: shortest_text(1)])
    assert len(seen) > short_training.WINDOW
    assert len(held_out) >= 2 * short_training.TEST_ROWS - 1
