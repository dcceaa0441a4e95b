"""Outputs for a whole data set against those of each sequence alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lstm_jax
from lstm_jax.datasets import padded, standardization_of
from lstm_jax.training import ProblemError, predict

LENGTHS = [5, 1, 9, 3, 3, 8, 2]
net = lstm_jax.stack(lstm_jax.lstm(2, 3), output_size=1)


def function(params, batch):
    states, ys = lstm_jax.unroll_stack(
        net, params, batch.xs, sequences=lstm_jax.Sequences(lengths=batch.lengths)
    )
    return {"last": states[0].h, "steps": ys[..., 0]}


@pytest.mark.parametrize(("batch_size", "buckets"), [(3, 2), (64, 1)])
def test_outputs_are_those_of_each_sequence_alone_in_order_and_cut(batch_size, buckets):
    params = net.init(jax.random.key(0))
    drawn = np.random.default_rng(0)
    xs = [drawn.standard_normal((length, 2)).astype(np.float32) for length in LENGTHS]
    scale = standardization_of(xs)
    words = {"batch_size": batch_size, "buckets": buckets, "standardization": scale}
    found = predict(function, params, xs, output_axes={"last": 0, "steps": 1}, **words)
    assert found["last"].shape == (7, 3) and [len(ys) for ys in found["steps"]] == LENGTHS
    alone = jax.jit(function)
    for n, x in enumerate(xs):
        one = alone(params, padded([x], length=9, standardization=scale))
        np.testing.assert_allclose(found["last"][n], one["last"][0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            found["steps"][n], one["steps"][: len(x), 0], rtol=1e-5, atol=1e-6
        )


def test_a_program_is_compiled_for_each_bucket_and_no_more():
    traced = []

    def counted(params, batch):
        traced.append(batch.xs.shape)
        return batch.lengths

    xs = [np.ones((length, 1)) for length in LENGTHS * 5]
    for _ in range(2):
        assert predict(counted, None, xs, batch_size=4, buckets=3).tolist() == LENGTHS * 5
    assert len(traced) == 3 and {shape[1] for shape in traced} == {4}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict(lambda p, b: 0.5, None, [np.ones((2, 1))]), "axes from 0 to -1, or None"),
        (
            lambda: predict(lambda p, b: "a", None, [np.ones((2, 1))]),
            "arrays or numbers, got a str",
        ),
        (lambda: predict(lambda p, b: jnp.ones(1), None, []), "at least one of xs, got none"),
        (
            lambda: predict(lambda p, b: b.xs, None, [np.ones((2, 1))], output_axes=None),
            "output_axes as 0 or 1 for each output, got None",
        ),
        (lambda: predict(lambda p: p, None, [np.ones((2, 1))]), "expected function.params, batch"),
    ],
)
def test_what_gives_no_outputs_is_refused_in_one_sentence(call, message):
    with pytest.raises((ProblemError, ValueError, TypeError), match=message):
        call()
