"""Next-character training: the loss, that it is minimised, and that it repeats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax import NonFiniteError, gru, language_model, lstm, rnn
from lstm_jax.language.text import encode

CORPUS = encode("the quick brown fox jumps over the lazy dog. " * 40, "example")
CODES = jnp.asarray(CORPUS.codes)
SIZE = CORPUS.vocabulary.size
CONFIG = language_model.TrainConfig(steps=60, length=20, batch_size=8, learning_rate=2e-2)


def train(cell, seed=0, config=CONFIG, **options):
    model = language_model.init(cell, jax.random.key(seed))
    return language_model.train(cell, model, CODES, jax.random.key(seed + 1), config, **options)


def test_the_loss_is_the_cross_entropy_of_the_next_character():
    cell = lstm(SIZE, 6)
    model = language_model.init(cell, jax.random.key(0))
    codes = CODES[:14].reshape(7, 2)
    value = language_model.loss(cell, model, codes)

    state, total = cell.initial_state(2), 0.0
    for t in range(6):
        x = np.eye(SIZE, dtype=np.float32)[np.asarray(codes[t])]
        state, h = cell.step(model.cell, state, jnp.asarray(x))
        logits = np.asarray(h @ model.w_y) + np.asarray(model.b_y)[None]
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total -= logs[np.arange(2), np.asarray(codes[t + 1])].sum()
    np.testing.assert_allclose(value, total / 12, rtol=1e-5)


@pytest.mark.parametrize("make", [lstm, gru, rnn])
def test_training_learns_and_repeats(make):
    cell = make(SIZE, 16)
    seen = []
    _, losses = train(cell, report=lambda step, loss: seen.append((step, loss)))
    assert len(losses) == CONFIG.steps
    assert np.mean(losses[-10:]) < 0.7 * losses[0]
    assert [step for step, _ in seen] == [10, 20, 30, 40, 50, 60]
    model, again = train(cell)
    assert losses == again
    assert model.w_y.shape == (16, SIZE)


def test_a_loss_that_is_not_finite_names_its_step():
    cell = rnn(SIZE, 8, activation="identity")
    wild = CONFIG._replace(learning_rate=1e30)
    with pytest.raises(
        NonFiniteError, match=r"expected a finite training loss, got .* at step \d+"
    ):
        train(cell, config=wild)
