"""The figures by brute force: ratios, quartiles, means, interpolated sums, operations, shapes."""

import statistics

import numpy as np
import pytest
from benchmarks import jacobians, worker
from benchmarks.cases import UNTUNED_SHAPES, Case, CaseError, Shape, case_from, parse_shapes, select
from benchmarks.ratios import fastest_over_ours, quartiles, ratio, summary


def test_ratio_pairs_the_rounds():
    # Both slow down together in the second round, and the third is missing for one.
    theirs = [[3.0, 9.0, 4.0], [40.0], [99.0]]
    ours = [[2.0], [10.0, 10.0, 30.0]]
    assert ratio(theirs, ours) == pytest.approx((3.0, 2.5, 3.5))
    assert ratio(theirs, []) is None
    assert ratio([[], [4.0]], [[1.0], [2.0]]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 12])
def test_quartiles(count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    found = quartiles(values)
    assert found == pytest.approx(tuple(np.quantile(values, [0.5, 0.25, 0.75])))
    assert found.median == pytest.approx(statistics.median(values))


def test_fastest_peer():
    def case(**seconds):
        return {"ours": "u", "entries": {k: {"rounds": v} for k, v in seconds.items()}}

    cases = [
        case(u=[[1.0]], a=[[2.0]], b=[[3.0]], other=[[0.1]]),
        case(u=[[2.0]], a=[[20.0]], b=[[1.0]]),
        case(u=[], a=[[1.0]]),
    ]
    assert fastest_over_ours(cases, ["a", "b"]) == [2.0, 0.5]
    assert fastest_over_ours(cases, ["nobody"]) == []
    assert summary([2.0, 0.5, 8.0]) == pytest.approx((2.0, 0.5))
    assert summary([]) is None


@pytest.mark.parametrize("time", [1, 2, 5, 40, 301])
def test_interpolated_sum(time):
    lags = jacobians.sampled_lags(time, 10)
    assert lags[0] == 1 and lags[-1] == time and len(lags) <= 11
    weights = jacobians.weights(time, lags)
    seconds = {lag: 0.5 + 3.0 * lag for lag in range(1, time + 1)}
    assert weights @ [seconds[lag] for lag in lags] == pytest.approx(sum(seconds.values()))


@pytest.mark.parametrize(("cell", "width"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_operations(cell, width):
    shape = Shape(5, 2, 3, 7)
    # A multiplication and an addition for each weight, row of the batch and step.
    expected = sum(2 for _ in range(5 * 2) for _ in range((3 + 7) * width * 7))
    assert Case(cell, shape, "forward").flops == expected
    assert Case(cell, shape, "gradient").flops == 3 * expected


def test_selection():
    cases = select(None, (), None, quick=False)
    assert len(cases) == len(set(cases)) == 2 * (6 + 2 + 2)
    assert select("gru", ["4,3,2,1"], "forward", quick=False) == (
        Case("gru", Shape(4, 3, 2, 1), "forward"),
    )
    named = select("lstm", ["untuned", "4,3,2,1"], "gradient", quick=True)
    assert [case.shape for case in named] == [*UNTUNED_SHAPES, Shape(4, 3, 2, 1)]
    assert not {case.shape for case in cases} & set(UNTUNED_SHAPES)
    assert all(case_from(case.as_json()) == case for case in cases)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,x,4", "0,1,1,1", "-1,2,3,4"])
def test_bad_shape(text):
    with pytest.raises(CaseError, match="^Shape mismatch: expected --shape as four .* got"):
        parse_shapes(text)


@pytest.mark.parametrize(
    ("typical", "timed", "discarded"), [(0.001, 20, 1), (0.05, 1, 1), (0.2, 1, 0), (1e-9, 50, 1)]
)
def test_turn(typical, timed, discarded):
    calls = []
    seconds = worker.turn(lambda: calls.append(None) or 0.5, typical, 0.02)
    assert seconds == [0.5] * timed
    assert len(calls) == timed + discarded
