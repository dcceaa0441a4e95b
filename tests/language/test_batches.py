"""Batches of a text against loops written out, within an epoch and over several."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lstm_jax
from lstm_jax import DtypeError, ShapeError, training
from lstm_jax.language import (
    TextError,
    contiguous,
    contiguous_from_offset,
    language_model,
    language_problem,
    steps_per_epoch,
)
from lstm_jax.training.mapped_source import Rows

KEY = jax.random.key(5)
SIZES = [(50, 3, 4), (15, 3, 4), (16, 1, 15), (41, 8, 2), (23, 4, 1)]
CODES = jnp.arange(40, dtype=jnp.int32)


def by_loops(codes, batch_size, length, steps, row, offset=0):
    """Every batch of an epoch, one token at a time: pairs of [T][B]."""
    rows = [codes[offset + b * row :] for b in range(batch_size)]
    return [
        (
            [[rows[b][n * length + t] for b in range(batch_size)] for t in range(length)],
            [[rows[b][n * length + t + 1] for b in range(batch_size)] for t in range(length)],
        )
        for n in range(steps)
    ]


def random_codes(tokens):
    return np.random.default_rng(tokens).integers(0, 1000, tokens).astype(np.int32)


@pytest.mark.parametrize(("tokens", "batch_size", "length"), SIZES)
def test_contiguous_is_the_loop_epoch_after_epoch(tokens, batch_size, length):
    codes = random_codes(tokens)
    row = tokens // batch_size
    steps = (row - 1) // length
    assert steps_per_epoch(tokens, batch_size, length) == steps
    expected = by_loops(codes.tolist(), batch_size, length, steps, row)
    for step in range(2 * steps + 1):
        batch = contiguous(jnp.asarray(codes), step, batch_size, length)
        inputs, targets = expected[step % steps]
        assert batch.inputs.tolist() == inputs
        assert batch.targets.tolist() == targets
        assert batch.first.dtype == bool
        assert bool(batch.first) == (step % steps == 0)


@pytest.mark.parametrize(("tokens", "batch_size", "length"), SIZES)
def test_an_epoch_reads_every_row_once_and_in_order(tokens, batch_size, length):
    codes = np.arange(tokens, dtype=np.int32)
    steps = steps_per_epoch(tokens, batch_size, length)
    batches = [contiguous(codes, step, batch_size, length) for step in range(steps)]
    read = np.concatenate([batch.inputs for batch in batches])
    row = tokens // batch_size
    for b in range(batch_size):
        np.testing.assert_array_equal(read[:, b], b * row + np.arange(steps * length))
    # Only what no further batch and its last target fit into is left of a row.
    assert row - 1 - length < steps * length <= row - 1


@pytest.mark.parametrize(("tokens", "batch_size", "length"), [(50, 3, 4), (41, 8, 2), (23, 4, 1)])
def test_from_an_offset_is_the_loop_with_an_offset_for_each_epoch(tokens, batch_size, length):
    codes = random_codes(tokens)
    # At least as many batches are there for any offset; the smallest number counts.
    steps = min((tokens - offset - 1) // batch_size // length for offset in range(length + 1))
    assert steps_per_epoch(tokens, batch_size, length, offset=True) == steps
    cut = jax.jit(lambda step: contiguous_from_offset(codes, step, batch_size, length, KEY))
    offsets = set()
    for epoch in range(40):
        offset = int(jax.random.randint(jax.random.fold_in(KEY, epoch), (), 0, length + 1))
        row = (tokens - offset - 1) // batch_size
        expected = by_loops(codes.tolist(), batch_size, length, steps, row, offset)
        for n in range(steps) if epoch < 8 else ():
            batch = cut(epoch * steps + n)
            assert batch.inputs.tolist() == expected[n][0]
            assert batch.targets.tolist() == expected[n][1]
            assert bool(batch.first) == (n == 0)
        offsets.add(offset)
    assert offsets == set(range(length + 1))


@pytest.mark.parametrize("offset", [False, True])
@settings(deadline=None, max_examples=10)
@given(st.data())
def test_the_next_batch_goes_on_where_one_ended(offset, data):
    batch_size = data.draw(st.sampled_from([1, 2, 5]), "batch_size")
    length = data.draw(st.sampled_from([1, 3, 6]), "length")
    least = (batch_size + 1) * length + 1 if offset else batch_size * (length + 1)
    tokens = data.draw(st.integers(least, least + 40), "tokens")
    codes = np.arange(tokens, dtype=np.int32)
    steps = steps_per_epoch(tokens, batch_size, length, offset=offset)
    assert steps >= 1

    def cut(step):
        if offset:
            return contiguous_from_offset(codes, step, batch_size, length, KEY)
        return contiguous(codes, step, batch_size, length)

    every = jax.device_get(jax.jit(jax.vmap(cut))(jnp.arange(steps, dtype=jnp.int32)))
    batches = [jax.tree.map(lambda leaf, n=n: leaf[n], every) for n in range(steps)]
    for batch, following in zip(batches, batches[1:], strict=False):
        np.testing.assert_array_equal(batch.targets[-1], following.inputs[0])
        assert not following.first
    read = np.stack([batch.inputs for batch in batches])
    assert len(np.unique(read)) == read.size
    # A place behind the end would be read as another number than the one after its input.
    for batch in batches:
        np.testing.assert_array_equal(batch.targets, batch.inputs + 1)


def test_one_program_for_all_steps_which_a_resumed_run_enters_anywhere():
    steps = jnp.arange(30, dtype=jnp.int32)

    def cut(step):
        return contiguous(CODES, step, 2, 3), contiguous_from_offset(CODES, step, 2, 3, KEY)

    _, scanned = jax.lax.scan(lambda carry, step: (carry, cut(step)), None, steps)
    for step in (29, 7, 0):
        for whole, one in zip(jax.tree.leaves(scanned), jax.tree.leaves(cut(step)), strict=True):
            np.testing.assert_array_equal(whole[step], one)


def test_under_x64(x64):
    codes = np.arange(40)
    batch = contiguous_from_offset(codes, jnp.int64(3), 2, 3, KEY)
    assert batch.inputs.dtype == codes.dtype
    np.testing.assert_array_equal(batch.targets, batch.inputs + 1)


@pytest.mark.parametrize(
    ("offset", "tokens", "message"),
    [
        (False, 11, "at least 12 tokens for 3 rows of 3 steps, got 11"),
        (True, 12, "at least 13 tokens for 3 rows of 3 steps, got 12"),
    ],
)
def test_a_text_that_is_too_short(offset, tokens, message):
    assert steps_per_epoch(tokens + 1, 3, 3, offset=offset) == 1
    codes = CODES[:tokens]
    calls = [
        lambda: steps_per_epoch(tokens, 3, 3, offset=offset),
        lambda: (
            contiguous_from_offset(codes, 0, 3, 3, KEY) if offset else contiguous(codes, 0, 3, 3)
        ),
    ]
    for call in calls:
        with pytest.raises(TextError, match=f"Length mismatch: expected a text of {message}"):
            call()


def test_what_is_no_text_and_no_step(without_type_checker):
    with pytest.raises(ShapeError, match=r"expected codes \[tokens\], got \[20, 2\]"):
        contiguous(CODES.reshape(20, 2), 0, 2, 3)
    with pytest.raises(DtypeError, match="expected codes as whole numbers, got float32"):
        contiguous(CODES.astype(jnp.float32), 0, 2, 3)
    with pytest.raises(DtypeError, match="expected step as integers, got float32"):
        contiguous(CODES, jnp.float32(1), 2, 3)
    with pytest.raises(ShapeError, match=r"expected step \[\], got \[2\]"):
        contiguous_from_offset(CODES, jnp.array([1, 2]), 2, 3, KEY)
    with pytest.raises(TypeError, match="Key mismatch"):
        contiguous_from_offset(CODES, 0, 2, 3, 5)
    with pytest.raises(ValueError, match="expected batch_size to be a positive integer, got 0"):
        contiguous(CODES, 0, 0, 3)
    with pytest.raises(ValueError, match="expected length to be a positive integer, got 2.5"):
        steps_per_epoch(40, 2, 2.5)
    with pytest.raises(ValueError, match="expected offset as True or False, got 3"):
        steps_per_epoch(40, 2, 3, offset=3)


@pytest.mark.parametrize("offset", [False, True])
def test_a_text_in_a_file_gives_the_batches_of_the_text(tmp_path, offset):
    codes = np.random.default_rng(0).integers(0, 60, 150).astype(np.int16)
    np.save(tmp_path / "codes.npy", codes)
    rows = Rows(np.load(tmp_path / "codes.npy", mmap_mode="r"))
    more = (jax.random.key(1),) if offset else ()
    cut = contiguous_from_offset if offset else contiguous
    for step in (0, 3, 40):
        found, wanted = (cut(x, jnp.int32(step), 4, 5, *more) for x in (rows, codes))
        for came, expected in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(came, expected)
            assert came.dtype == expected.dtype


def test_a_file_of_no_text_is_refused():
    with pytest.raises(ShapeError, match=r"codes \[tokens\], got \[20, 2\]"):
        contiguous(Rows(np.zeros((20, 2), int)), 0, 2, 3)
    with pytest.raises(DtypeError, match="codes as whole numbers, got float32"):
        contiguous(Rows(np.zeros(20, np.float32)), 0, 2, 3)
    with pytest.raises(TextError, match="at most 2147483647 tokens, got 2147483648"):
        contiguous(Rows(np.broadcast_to(np.uint8(0), 2**31)), 0, 2, 3)


@pytest.mark.slow
def test_a_language_model_is_trained_on_a_text_in_a_file(tmp_path):
    codes = np.random.default_rng(0).integers(0, 5, 400).astype(np.int32)
    np.save(tmp_path / "codes.npy", codes)
    net = language_model(lstm_jax.stack(lstm_jax.rnn(3, 4)), 5)
    problem = language_problem(net, lambda x, step, key: contiguous(x, step, 4, 8), batch_size=4)
    with jax.numpy_dtype_promotion("standard"):
        losses = [
            training.fit(problem, optax.sgd(0.5), 30, data=data).log[-1]["loss"]
            for data in (codes, np.load(tmp_path / "codes.npy", mmap_mode="r"))
        ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
