"""What the pictures of a comparison say in words."""

import numpy as np
import pytest

from gradient_flow.pictures.comparison_figures import INSIDE, coinciding_paths

LN10 = np.log(10)


def said(decades, samples=3):
    """`coinciding_paths` of curves that fall alike and lie this many decades above each other."""
    fall = -0.2 * np.arange(6)
    arrays = {
        f"trained/lstm_1/curve.{block}": np.broadcast_to(
            LN10 * (fall + decades[block]), (samples, 2, 6)
        ).copy()
        for block in INSIDE
    }
    return arrays, lambda: coinciding_paths({"inside": "lstm_1"}, arrays, "trained")


APART = {"carousel": 0.0, "cc": 2.0, "chain_c": 4.0, "total_c": 6.0, "hh": 8.0}


def test_paths_that_lie_together_are_named():
    _, words = said({"carousel": 0.0, "cc": 0.4, "chain_c": 3.0, "total_c": 3.4, "hh": 10.0})
    assert words() == "Within 0.5 decades of each other: carousel, cc; and chain_c, total_c."
    _, words = said(APART | {"hh": 1.8})
    assert words() == "Within 0.5 decades of each other: cc, hh."


def test_paths_that_part_are_not():
    _, words = said(APART)
    assert words() == "No two paths stay within 0.5 decades of each other."
    # A path that lies near two others, which are apart, is named with one of them.
    _, words = said(APART | {"cc": 0.4, "chain_c": 0.8})
    assert words() == "Within 0.5 decades of each other: carousel, cc."


def test_one_lag_is_enough_to_part():
    arrays, words = said(APART | {"cc": 0.1})
    arrays["trained/lstm_1/curve.cc"][:, -1, 4] += LN10
    assert words() == "No two paths stay within 0.5 decades of each other."


@pytest.mark.parametrize(("sample", "length"), [(0, -1), (slice(None), 0)])
def test_one_sample_or_a_shorter_length_is_not(sample, length):
    """Medians count, back from the longest time."""
    arrays, words = said(APART | {"cc": 0.1})
    arrays["trained/lstm_1/curve.cc"][sample, length] += 5 * LN10
    assert words() == "Within 0.5 decades of each other: carousel, cc."
