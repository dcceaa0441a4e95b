"""Batches of a set of sequences: buckets, epochs, masks, standardisation, windows; with grain, too."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.problems import leaves, numbers, run

from lstm_jax.datasets import (
    ConstantColumnsWarning,
    Standardization,
    batches,
    padded,
    standardization_of,
    windows,
)
from lstm_jax.datasets.length_buckets import bucket_lengths
from lstm_jax.training import Mean, Problem, RunError
from lstm_jax.validation import ShapeError

D = 2


def sequences(lengths, seed=0, missing=0.0, columns=(D,)):
    """Sequences whose first number says which one it is."""
    drawn = np.random.default_rng(seed)
    found = []
    for n, length in enumerate(lengths):
        x = drawn.standard_normal((length, *columns)).astype(np.float32)
        x[drawn.random(x.shape) < missing] = np.nan
        x.reshape(-1)[0] = n
        found.append(x)
    return found


LENGTHS = np.random.default_rng(1).integers(1, 30, 53)


@pytest.mark.parametrize("buckets", [1, 2, 3, 5, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_boundaries_are_the_best_of_all(buckets, seed):
    lengths = np.random.default_rng(seed).choice([2, 3, 5, 8, 9, 12, 20, 21, 30], 40)

    def steps(ends):
        return sum(min(end for end in ends if end >= length) for length in lengths)

    ends = np.unique(lengths)
    all_choices = itertools.chain(
        *(itertools.combinations(ends, k + 1) for k in range(min(buckets, len(ends))))
    )
    least = min(steps(choice) for choice in all_choices if choice[-1] == ends[-1])
    found = bucket_lengths(lengths, buckets)
    assert len(found) <= buckets and steps(found) == least and found[-1] == ends[-1]
    assert list(found) == sorted(set(found.tolist()))


def test_of_very_many_lengths_some_are_boundaries():
    lengths = np.arange(1, 5000)
    found = bucket_lengths(lengths, 8)
    assert len(found) == 8 and found[-1] == 4999
    np.testing.assert_allclose(np.diff(found), 625, rtol=0.05)


@pytest.mark.parametrize("buckets", [1, 4])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_each_sequence_once(buckets, shuffle):
    xs = sequences(LENGTHS)
    made = batches(xs, np.arange(53), batch_size=6, buckets=buckets, shuffle=shuffle)
    assert len(made) == 8
    seen, real, all_steps = [], 0, 0
    for batch in made(0):
        assert batch.xs.shape[0] in made.bucket_lengths and batch.xs.shape[1:] == (6, D)
        seen += batch.targets.tolist()
        real, all_steps = real + batch.lengths.sum(), all_steps + batch.xs[..., 0].size
        for b, which in enumerate(batch.targets):
            x = xs[which]
            assert batch.lengths[b] == len(x)
            np.testing.assert_array_equal(batch.xs[: len(x), b], x)
            assert not batch.xs[len(x) :, b].any() and not batch.observed[len(x) :, b].any()
            assert batch.observed[: len(x), b].all() and batch.counted[b]
    assert len(set(seen)) == len(seen) == 48
    if shuffle or buckets == 1:
        assert made.padding == pytest.approx(1 - real / all_steps)
    if not shuffle and buckets == 1:
        assert seen == list(range(48))


def test_buckets_save_padding_and_shuffling_leaves_it_small():
    padding = {
        k: batches(sequences(LENGTHS), batch_size=4, buckets=k).padding for k in (1, 2, 4, 8)
    }
    assert padding[1] > 0.4 and padding[4] < 0.2 and padding[8] < 0.12
    assert list(padding.values()) == sorted(padding.values(), reverse=True)


def test_the_order_is_of_the_seed_and_the_epoch_alone():
    def order(seed, epoch):
        made = batches(sequences(LENGTHS), np.arange(53), batch_size=6, seed=seed)
        return np.concatenate([batch.targets for batch in made(epoch)]).tolist()

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(*at)) for at in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    # What is left out differs, so that all are seen.
    assert set(order(0, 0)) | set(order(0, 1)) | set(order(0, 2)) == set(range(53))


def test_parts_of_processes_are_together_the_batch_of_one():
    xs, targets = sequences(LENGTHS), np.arange(53)
    whole = list(batches(xs, targets, batch_size=6)(1))
    parts = [list(batches(xs, targets, batch_size=6, part=(k, 3))(1)) for k in range(3)]
    for batch, *each in zip(whole, *parts, strict=True):
        assert {part.xs.shape for part in each} == {(len(batch.xs), 2, D)}
        joined = np.stack([part.targets for part in each], 1).reshape(-1)
        np.testing.assert_array_equal(joined, batch.targets)


def test_what_is_missing_is_zero_and_masked():
    xs = sequences([3, 5], missing=0.4)
    targets = [np.array([1.0, np.nan, 2.0]), np.arange(5.0)]
    batch = padded(xs, targets, per_step=True, length=6)
    for b, (x, target) in enumerate(zip(xs, targets, strict=True)):
        np.testing.assert_array_equal(batch.observed[: len(x), b], ~np.isnan(x))
        np.testing.assert_array_equal(batch.xs[: len(x), b], np.nan_to_num(x))
        np.testing.assert_array_equal(batch.counted[: len(x), b], ~np.isnan(target))
        np.testing.assert_array_equal(batch.targets[: len(x), b], np.nan_to_num(target))
        assert not batch.counted[len(x) :, b].any() and not batch.observed[len(x) :, b].any()
    assert np.isfinite(batch.xs).all() and batch.xs.shape == (6, 2, D)
    scale = standardization_of(xs)
    scaled = padded(xs, standardization=scale)
    # A missing value becomes the mean of its column.
    assert not scaled.xs[~scaled.observed].any() and scaled.targets is None
    of_run = padded(xs, standardization=jax.tree.map(jnp.asarray, scale))
    assert isinstance(of_run.xs, np.ndarray) and (of_run.xs == scaled.xs).all()
    one = padded([[1.0, 2.0]], [np.nan])
    assert one.targets.tolist() == [0.0] and one.counted.tolist() == [False]


def test_codes_keep_their_dtype_and_are_masked_by_length():
    batch = padded([np.array([3, 4], np.int32), np.array([5], np.int32)])
    assert batch.xs.dtype == np.int32 and batch.xs.T.tolist() == [[3, 4], [5, 0]]
    assert batch.observed.T.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("part", [7, 2**20])
def test_mean_and_deviation_are_those_of_all_values_at_once(monkeypatch, part):
    monkeypatch.setattr("lstm_jax.datasets.standardization.PART", part)
    xs = [1e3 + x for x in sequences([4, 1, 9, 30, 2], missing=0.3)]
    whole = np.concatenate(xs).astype(np.float64)
    for given in (xs, np.concatenate(xs)):
        found = standardization_of(given)
        np.testing.assert_allclose(found.mean, np.nanmean(whole, 0), rtol=1e-6)
        np.testing.assert_allclose(found.std, np.nanstd(whole, 0), rtol=1e-6)
        assert found.mean.dtype == np.float32
    scaled = found.apply(np.concatenate(xs))
    np.testing.assert_allclose(np.nanmean(scaled, 0), 0, atol=1e-4)
    np.testing.assert_allclose(found.undo(scaled), np.concatenate(xs), rtol=1e-6)


def test_constant_columns_are_named_and_become_zero():
    xs = np.array([[0.1, 1.0, np.nan], [0.1, 2.0, np.nan]] * 50)
    with pytest.warns(
        ConstantColumnsWarning, match="or none, in column 0; column 2. They become 0"
    ):
        scale = standardization_of(xs)
    assert scale.std[0] == scale.std[2] == 1 and scale.mean[2] == 0
    np.testing.assert_allclose(scale.apply(xs)[:, 0], 0, atol=1e-15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert standardization_of(xs[:, 1]).mean.shape == ()


def test_a_standardization_is_applied_in_a_compiled_function_too():
    scale = Standardization(np.array([1.0, 2.0], np.float32), np.array([2.0, 4.0], np.float32))
    xs = np.ones((3, 1, 2), np.float32)
    np.testing.assert_array_equal(jax.jit(lambda s, x: s.apply(x))(scale, xs), scale.apply(xs))
    with pytest.raises(ValueError, match=r"expected the last axes of xs \[2\], got \[3\]"):
        scale.apply(np.ones(3))


def test_windows_are_those_of_the_array_and_copy_nothing():
    array = np.arange(20).reshape(10, 2)
    for length, stride in itertools.product((1, 3, 10), (1, 2, 4)):
        cut = windows(array, length, stride)
        starts = range(0, 10 - length + 1, stride)
        assert len(cut) == len(starts)
        for n, start in enumerate(starts):
            np.testing.assert_array_equal(cut[n], array[start : start + length])
            assert cut[n].base is not None
    assert [w.tolist() for w in windows(np.arange(5), 2)[:]] == [[0, 1], [2, 3]]
    with pytest.raises(IndexError):
        windows(array, 3)[3]


regression = Problem(
    init=lambda key: {"w": jax.random.normal(key, (D,))},
    loss=lambda params, carry, batch, key: (
        Mean(
            jnp.where(
                batch.counted,
                (jnp.einsum("tbd,d->tb", batch.xs, params["w"]) - batch.targets) ** 2,
                0,
            ).sum(),
            batch.counted.sum(),
        ),
        (carry, {"of": batch.lengths.sum()}),
    ),
)


def per_step(missing=0.2):
    xs = sequences(LENGTHS, missing=missing)
    return xs, [np.nan_to_num(x).sum(-1) for x in xs]


@pytest.mark.slow
def test_a_run_over_buckets_goes_on_to_the_same_numbers_in_the_middle_of_an_epoch(tmp_path):
    made = batches(*per_step(), batch_size=8, per_step=True, buckets=2)
    problem = regression._replace(batch_axes=made.axes)
    words = {"data": made, "log_every": 1, "checkpoint_every": 50, "accumulate": 2}
    whole = run(16, problem, **words)
    run(9, problem, folder=tmp_path, **words)
    cut = run(16, problem, folder=tmp_path, resume=True, **words)
    assert numbers(cut.log) == numbers(whole.log)
    for came, wanted in zip(leaves(cut.state), leaves(whole.state), strict=True):
        np.testing.assert_array_equal(came, wanted)
    other = batches(*per_step(), batch_size=8, per_step=True, buckets=2, seed=1)
    with pytest.raises(RunError, match="the same batch_size, seed and buckets as before"):
        run(20, problem, folder=tmp_path, resume=True, **words | {"data": other})


def test_grain_reads_windows_and_pads_with_them(tmp_path):
    grain = pytest.importorskip("grain")
    array = np.memmap(tmp_path / "x", np.float32, "w+", shape=(40, D))
    array[:] = np.arange(40)[:, None]
    cut = windows(array, 4)
    made = grain.MapDataset.source(cut).seed(0).shuffle().batch(5, batch_fn=padded)
    seen = np.concatenate([batch.xs[0, :, 0] for batch in made])
    assert sorted(seen.tolist()) == list(range(0, 40, 4))
    of_room = np.concatenate([batch.xs[0, :, 0] for batch in batches(cut, batch_size=5)(0)])
    assert sorted(of_room.tolist()) == sorted(seen.tolist())


def test_a_loader_of_grain_goes_on_with_windows_made_again():
    grain = pytest.importorskip("grain.python")

    def begun():
        source = windows(np.arange(12.0), 3)
        order = grain.SequentialSampler(len(source), grain.NoSharding())
        return iter(grain.DataLoader(data_source=source, sampler=order, worker_count=0))

    first, again = begun(), begun()
    next(first)
    again.set_state(first.get_state())
    assert next(again).tolist() == next(first).tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batches(sequences([2, 3]), batch_size=3), "at least 3 sequences, .* got 2"),
        (lambda: batches([np.ones(2), np.ones(0)], batch_size=1), "got none in sequence 1"),
        (lambda: batches(sequences([2, 3]), [1], batch_size=1), "targets for 2 sequences, got 1"),
        (
            lambda: batches(sequences([2, 3]), batch_size=1, part=(0, 2)),
            "batch_size that 2 processes divide, got 1",
        ),
        (lambda: batches(sequences([2, 3]), batch_size=0), "batch_size to be a positive integer"),
        (lambda: padded(sequences([2, 3]), length=2), "at most 2 steps, got 3"),
        (
            lambda: batches([np.ones((2, 1)), np.ones((2, 3))], batch_size=1),
            r"the same columns, got float64\[T, 1\] and float64\[T, 3\]",
        ),
        (
            lambda: padded([np.ones((2, 1)), np.ones((2, 3))]),
            r"xs as float64\[T, 1\] in each sequence, got float64\[2, 3\]",
        ),
        (
            lambda: padded(sequences([2]), [np.ones(3)], per_step=True),
            "expected 2 targets for the steps of sequence 0, got 3",
        ),
        (lambda: windows(np.ones(3), 4), r"at least 4 steps, got \[3\]"),
        (lambda: standardization_of([]), "values to standardise by, got none"),
        (lambda: standardization_of([[np.inf]]), "finite or missing values, got an infinite"),
        (
            lambda: standardization_of([np.ones((2, 1)), np.ones((2, 3))]),
            r"columns \[1\] in each sequence, got \[3\]",
        ),
    ],
)
def test_what_makes_no_batches_is_refused_in_one_sentence(call, message):
    with pytest.raises((ValueError, ShapeError), match=message):
        call()
