"""The long-lag tasks against their definitions, read off the examples one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.tasks import adding, adding_floor, copy_floor, copy_memory, temporal_order

KEY = jax.random.key(3)
B = 300


@pytest.mark.parametrize("length", [22, 100])
def test_adding_as_in_1997(length):
    xs, targets, lengths = map(np.asarray, adding(KEY, B, length))
    assert xs.shape == (length + length // 10, B, 2)
    assert lengths.min() >= length and lengths.max() <= length + length // 10
    firsts, seconds = set(), set()
    for b in range(B):
        steps = lengths[b]
        values, markers = xs[:steps, b].T
        assert not xs[steps:, b].any()
        assert abs(values).max() <= 1
        assert markers[0] == -1 and markers[-1] == -1
        (marked,) = np.nonzero(markers == 1)
        # The first pair, marked, keeps its −1 and counts as zero.
        assert len(marked) in (1, 2) and set(markers[1:-1]) <= {0.0, 1.0}
        assert marked[0] < 10 or (len(marked) == 1 and marked[0] < length // 2 - 1)
        assert marked[-1] < length // 2 - 1
        np.testing.assert_allclose(targets[b], 0.5 + values[marked].sum() / 4, atol=1e-6)
        if len(marked) == 2:
            firsts.add(int(marked[0]))
            seconds.add(int(marked[1]))
    assert firsts >= set(range(1, 10)) & set(range(length // 2 - 2))
    assert max(seconds) >= length // 2 - 3


def test_adding_in_the_uniform_form():
    xs, targets, lengths = map(np.asarray, adding(KEY, B, 51, form="uniform"))
    assert xs.shape == (51, B, 2) and (lengths == 51).all()
    values, markers = xs[..., 0], xs[..., 1]
    assert values.min() >= 0 and values.max() <= 1
    assert (markers[:25].sum(0) == 1).all() and (markers[25:].sum(0) == 1).all()
    np.testing.assert_allclose((values * markers).sum(0), targets, rtol=1e-6)
    many = adding(KEY, 20_000, 2, form="uniform").targets
    assert abs(float(jnp.var(many)) - adding_floor()) < 5e-3


@pytest.mark.parametrize(
    ("symbols", "form", "windows"),
    [
        (2, "1997", [(10, 20), (50, 60)]),
        (3, "1997", [(10, 20), (33, 43), (66, 76)]),
        (2, "fractions", [(10, 20), (40, 50)]),
    ],
)
def test_temporal_order(symbols, form, windows):
    xs, targets, lengths = map(np.asarray, temporal_order(KEY, B, 100, symbols=symbols, form=form))
    assert xs.shape == (100 if form == "fractions" else 110, B, 8)
    assert set(lengths) == ({100} if form == "fractions" else set(range(100, 111)))
    seen = [set() for _ in windows]
    for b in range(B):
        steps = lengths[b]
        assert (xs[:steps, b].sum(1) == 1).all() and not xs[steps:, b].any()
        codes = xs[:steps, b].argmax(1)
        assert codes[0] == 6 and codes[-1] == 7
        (places,) = np.nonzero((codes == 4) | (codes == 5))
        assert len(places) == symbols and (codes[1:-1] < 6).all()
        for place, (low, high), places_seen in zip(places, windows, seen, strict=True):
            assert low <= place <= high
            places_seen.add(int(place))
        bits = "".join(str(codes[place] - 4) for place in places)
        assert targets[b] == int(bits, 2)
    assert all(len(places) == 11 for places in seen)
    assert set(targets) == set(range(2**symbols))


def test_temporal_order_with_lengths_of_its_own():
    given = jax.random.randint(jax.random.key(9), (B,), 30, 61)
    xs, targets, lengths = map(
        np.asarray, temporal_order(KEY, B, 60, form="fractions", lengths=given)
    )
    assert xs.shape == (60, B, 8) and (lengths == np.asarray(given)).all()
    assert set(lengths) == set(range(30, 61))
    for b in range(B):
        steps = lengths[b]
        assert (xs[:steps, b].sum(1) == 1).all() and not xs[steps:, b].any()
        codes = xs[:steps, b].argmax(1)
        assert codes[0] == 6 and codes[-1] == 7
        first, second = np.flatnonzero((codes == 4) | (codes == 5))
        assert steps // 10 <= first <= 2 * steps // 10
        assert 4 * steps // 10 <= second <= 5 * steps // 10
        assert targets[b] == 2 * (codes[first] - 4) + codes[second] - 4


def test_copy_memory():
    xs, targets, lengths = map(np.asarray, copy_memory(KEY, B, 30))
    codes = xs.argmax(-1)
    assert (xs.sum(-1) == 1).all() and codes.shape == targets.shape == (50, B)
    assert (lengths == 50).all()
    assert set(np.unique(codes[:10])) == set(range(8))
    assert (codes[10:39] == 8).all() and (codes[39] == 9).all() and (codes[40:] == 8).all()
    assert (targets[:40] == 8).all()
    np.testing.assert_array_equal(targets[40:], codes[:10])
    assert copy_floor(500) == pytest.approx(10 * np.log(8) / 520)


def test_drawn_under_jit_and_differently_for_each_key():
    draw = jax.jit(lambda key: adding(key, 5, 40))
    one, other = draw(KEY), draw(jax.random.key(4))
    for a, b in zip(one, adding(KEY, 5, 40), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert not np.allclose(one.targets, other.targets)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: adding(3, 5, 40), TypeError, "expected one key"),
        (lambda: adding(KEY, 0, 40), ValueError, "expected batch_size to be a positive integer"),
        (lambda: adding(KEY, 5, 21), ValueError, "expected length of at least 22, got 21"),
        (lambda: adding(KEY, 5, 40, form="2015"), ValueError, "Unknown form"),
        (lambda: temporal_order(KEY, 5, 19), ValueError, "expected length of at least 20"),
        (lambda: temporal_order(KEY, 5, symbols=4), ValueError, "expected symbols 2, or 3"),
        (
            lambda: temporal_order(KEY, 5, 60, lengths=jnp.full(5, 30)),
            ValueError,
            "expected lengths in the form by fractions alone, got them in '1997'",
        ),
        (
            lambda: temporal_order(KEY, 5, 60, form="fractions", lengths=jnp.asarray([61] * 5)),
            ValueError,
            "expected lengths from 20 to 60, got 61 to 61",
        ),
        (
            lambda: temporal_order(KEY, 5, 60, form="fractions", lengths=jnp.full(4, 30)),
            ValueError,
            r"expected lengths as whole numbers \[5\], got int32\[4\]",
        ),
        (
            lambda: temporal_order(KEY, 5, symbols=3, form="fractions"),
            ValueError,
            "expected symbols 2, or 3",
        ),
        (lambda: copy_memory(KEY, 5, 0), ValueError, "expected length to be a positive"),
        (lambda: copy_floor(-1), ValueError, "expected delay to be a positive"),
    ],
)
def test_what_does_not_fit_is_refused(without_type_checker, draw, error, message):
    with pytest.raises(error, match=message):
        draw()
