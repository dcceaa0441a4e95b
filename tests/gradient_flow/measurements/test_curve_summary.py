"""Slope and reach of curves whose slope and reach are known."""

import jax.numpy as jnp
import numpy as np
import pytest
from comparison import random_problem

from gradient_flow import decades_per_100, horizon, jacobian_norms

LAGS = np.arange(200)


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.999, 1.0, 1.01])
def test_an_exponential(rate):
    curve = LAGS * np.log(rate)
    np.testing.assert_allclose(decades_per_100(LAGS, curve), -100 * np.log10(rate), atol=1e-12)
    expected = np.log(1e-3) / np.log(rate) if rate < 0.96 else np.inf
    np.testing.assert_allclose(horizon(LAGS, curve), expected)


def test_lags_need_not_be_evenly_spaced():
    lags = np.array([0, 1, 10, 100])
    np.testing.assert_allclose(decades_per_100(lags, -0.1 * lags), 10 / np.log(10))
    np.testing.assert_allclose(horizon(lags, -0.1 * lags, np.exp(-5.0)), 50.0)


def test_the_slope_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    curve = rng.standard_normal(200).cumsum()
    slope = np.polyfit(LAGS, curve / np.log(10), 1)[0]
    np.testing.assert_allclose(decades_per_100(LAGS, curve), -100 * slope, rtol=1e-10)


def test_the_slope_leaves_out_what_is_not_finite():
    curve = -0.1 * LAGS
    curve[[3, 7]] = -np.inf
    curve[150:] = np.nan
    np.testing.assert_allclose(decades_per_100(LAGS, curve), 10 / np.log(10))


@pytest.mark.parametrize("finite", [0, 1])
def test_no_slope_without_two_points(finite):
    curve = np.full(5, -np.inf)
    curve[:finite] = 0.0
    assert np.isnan(decades_per_100(np.arange(5), curve))


def test_no_slope_at_a_single_lag():
    assert np.isnan(decades_per_100(np.array([4, 4]), np.array([1.0, 2.0])))


def test_a_horizon_is_the_first_crossing():
    curve = np.array([0.0, -3.0, -9.0, -1.0, -9.0])
    # exp(-6) lies half-way between lags 1 and 2.
    np.testing.assert_allclose(horizon(np.arange(5), curve, np.exp(-6.0)), 1.5)
    np.testing.assert_allclose(horizon(np.arange(5), curve, np.exp(-9.0)), 2.0)


def test_a_drop_to_zero_is_not_interpolated():
    assert horizon(np.arange(4), np.array([0.0, -1.0, -np.inf, -np.inf])) == 2


def test_a_gap_is_not_interpolated():
    assert horizon(np.arange(4), np.array([0.0, np.nan, -9.0, -10.0])) == 2


def test_a_curve_that_never_falls_has_no_horizon():
    assert horizon(LAGS, np.zeros(200)) == np.inf
    assert horizon(LAGS, np.full(200, np.nan)) == np.inf
    # NaN beyond the sequence is not a fall.
    assert horizon(LAGS, np.where(LAGS < 10, 0.0, np.nan)) == np.inf


def test_a_curve_that_starts_below():
    assert horizon(np.array([5, 6]), np.array([-9.0, -10.0])) == 5


def test_many_curves_at_once():
    rates = np.array([[0.5, 0.9, 1.0], [0.8, 1.1, 0.7]])
    curves = np.log(rates)[..., None] * LAGS
    for function in (decades_per_100, horizon):
        values = function(LAGS, curves)
        assert values.shape == rates.shape
        for index in np.ndindex(rates.shape):
            np.testing.assert_allclose(values[index], function(LAGS, curves[index]))


@pytest.mark.slow
def test_curves_as_the_microscope_returns_them():
    cell, params, xs, state0, *_ = random_problem("lstm", 120, 2, dtype=jnp.float32)
    flow = jacobian_norms(cell, params, state0, xs, times=[120, 60])
    curves = flow.spectral["hh"]
    assert decades_per_100(flow.lags, curves).shape == horizon(flow.lags, curves).shape == (2, 2)
    assert (decades_per_100(flow.lags, curves) > 1).all()
    assert (horizon(flow.lags, curves) < 60).all()


@pytest.mark.parametrize("factor", [0, 1, -0.5, 2.0, float("nan")])
def test_a_bad_factor_is_refused(factor):
    with pytest.raises(ValueError, match="expected a factor between 0 and 1, got"):
        horizon(LAGS, np.zeros(200), factor)
