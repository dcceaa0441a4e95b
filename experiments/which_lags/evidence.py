r"""How well scores tell learned rows from the others, with intervals, and on what was held out.

    AUC = P(score of a learned row > score of an unlearned one) + ½ P(equal)

Intervals are bootstraps over starts: a start is drawn with all of its rows.
"""

from typing import NamedTuple

import numpy as np

from experiments.which_lags.rows import Rows

DRAWS = 1_000
RIDGE = 1.0


class Interval(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "-"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def auc(scores: np.ndarray, learned: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The AUC; of each row of ``weights`` [draws, rows] if given. NaN with rows of one kind alone."""
    weights = np.ones((1, len(scores))) if weights is None else np.atleast_2d(weights)
    _, level = np.unique(scores, return_inverse=True)
    levels = level.max(initial=-1) + 1
    hits, misses = np.zeros((2, levels, len(weights)))
    np.add.at(hits, level[learned], weights[:, learned].T)
    np.add.at(misses, level[~learned], weights[:, ~learned].T)
    below = np.cumsum(misses, axis=0) - misses
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (hits * (below + misses / 2)).sum(0) / (hits.sum(0) * misses.sum(0))
    return found


def bootstrap_weights(rows: Rows, draws: int = DRAWS) -> np.ndarray:
    """How often each row is drawn, [draws, rows], if starts are drawn."""
    names, which = np.unique(rows.start, return_inverse=True)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / max(len(names), 1)), size=draws)
    return counts[:, which]


def auc_interval(rows: Rows, scores: np.ndarray, draws: int = DRAWS) -> Interval:
    """The AUC of some scores on some rows; rows without a score are left out."""
    known = ~np.isnan(scores)
    rows, scores = rows.where(known), scores[known]
    if not 0 < rows.learned.sum() < len(rows):
        return Interval(np.nan, np.nan, np.nan)
    value = auc(scores, rows.learned)[0]
    return _interval(value, auc(scores, rows.learned, bootstrap_weights(rows, draws)))


def difference(rows: Rows, a: np.ndarray, b: np.ndarray, draws: int = DRAWS) -> Interval:
    """The AUC of scores a minus that of b, on the same rows and draws."""
    known = ~np.isnan(a) & ~np.isnan(b)
    rows, a, b = rows.where(known), a[known], b[known]
    if not 0 < rows.learned.sum() < len(rows):
        return Interval(np.nan, np.nan, np.nan)
    weights = bootstrap_weights(rows, draws)
    value = auc(a, rows.learned)[0] - auc(b, rows.learned)[0]
    return _interval(value, auc(a, rows.learned, weights) - auc(b, rows.learned, weights))


def _interval(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def chosen_elsewhere(rows: Rows, folds: np.ndarray, look: int, names: list[str]) -> np.ndarray:
    """Scores of each fold by the predictor that is best on the others: its rank among theirs."""
    found = np.full(len(rows), np.nan)
    for fold in np.unique(folds):
        own, others = folds == fold, rows.where(folds != fold)
        best = best_predictor(others, look, names)
        if best is None:
            continue
        ranked = np.sort(others.scores[look][best])
        values = rows.scores[look][best][own]
        below = np.searchsorted(ranked, values, "left") + np.searchsorted(ranked, values, "right")
        found[own] = np.where(np.isnan(values), np.nan, below / 2 / len(ranked))
    return found


def best_predictor(rows: Rows, look: int, names: list[str]) -> str | None:
    """The predictor with the highest AUC; None where all rows are of one kind."""
    values = {}
    for name in names:
        scores = rows.scores[look][name]
        known = ~np.isnan(scores)
        values[name] = auc(scores[known], rows.learned[known])[0] if known.any() else np.nan
    known_names = [name for name in names if not np.isnan(values[name])]
    return max(known_names, key=lambda name: values[name]) if known_names else None


def fitted_elsewhere(rows: Rows, folds: np.ndarray, look: int, names: list[str]) -> np.ndarray:
    """Scores of each fold by a logistic regression that was fitted on the others."""
    columns = np.stack([_tamed(rows.scores[look][name]) for name in names], axis=1)
    found = np.full(len(rows), np.nan)
    whole = ~np.isnan(columns).any(1)
    for fold in np.unique(folds):
        own, others = whole & (folds == fold), whole & (folds != fold)
        if own.any() and 0 < rows.learned[others].sum() < others.sum():
            middle, spread = columns[others].mean(0), columns[others].std(0)
            scaled = (columns - middle) / np.where(spread > 0, spread, 1)
            weights = logistic(scaled[others], rows.learned[others])
            found[own] = scaled[own] @ weights[1:] + weights[0]
    return found


def _tamed(scores: np.ndarray) -> np.ndarray:
    """sign(x) log(1 + |x|), infinities as the largest number that is one."""
    finite = np.where(np.isinf(scores), np.sign(scores) * 1e6, scores)
    return np.sign(finite) * np.log1p(np.abs(finite))


def logistic(columns: np.ndarray, learned: np.ndarray, steps: int = 50) -> np.ndarray:
    """Weights of a logistic regression, the constant first, by Newton's method; a ridge on the others."""
    design = np.concatenate([np.ones((len(columns), 1)), columns], axis=1)
    ridge = RIDGE * np.eye(design.shape[1])
    ridge[0, 0] = 1e-6
    weights = np.zeros(design.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (p - learned) + ridge @ weights
        curvature = design.T @ (design * (p * (1 - p))[:, None]) + ridge
        move = np.linalg.solve(curvature, slope)
        weights = weights - move
        if np.abs(move).max() < 1e-8:
            break
    return weights
