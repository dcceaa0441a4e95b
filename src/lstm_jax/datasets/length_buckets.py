r"""The lengths to which sequences are padded: few, and with as little padding as so few allow.

Of the lengths u_1 < … < u_m with counts c, K boundaries b_1 < … < b_K = u_m are to be chosen; each sequence
is padded to the next boundary. The least number of steps for the lengths up to u_j with k boundaries is

    S(k, j) = min_{i < j}  S(k − 1, i) + u_j (c_{i+1} + … + c_j)
"""

import numpy as np

MOST_LENGTHS = 256
"""Different lengths that are told apart; of more, that many are taken as possible boundaries."""


def bucket_lengths(lengths: np.ndarray, buckets: int) -> np.ndarray:
    """The lengths to pad to.

    Args:
        lengths: of the sequences, [N].
        buckets: how many lengths at most.

    Returns:
        In ascending order; the last is that of the longest sequence.

    Example:
        >>> import numpy as np
        >>> from lstm_jax.datasets.length_buckets import bucket_lengths
        >>> bucket_lengths(np.array([3, 3, 4, 9, 10]), 2).tolist()
        [4, 10]
    """
    ends = np.unique(lengths)
    if len(ends) > MOST_LENGTHS:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, MOST_LENGTHS).astype(int))]
    within = np.concatenate([[0], np.searchsorted(np.sort(lengths), ends, side="right")])
    # steps[i, j]: those of the sequences longer than ends[i − 1] and up to ends[j].
    steps = ends[None, :] * (within[None, 1:] - within[:-1, None]).astype(np.float64)
    steps[np.tril_indices(len(ends), -1)] = np.inf
    best, chosen = steps[0], [np.zeros(len(ends), int)]
    for _ in range(min(buckets, len(ends)) - 1):
        # best[i − 1] + steps[i, j] for i ≥ 1
        sums = best[:-1, None] + steps[1:]
        first = sums.argmin(0) + 1
        better = sums.min(0)
        chosen.append(np.where(better < best, first, 0))
        best = np.minimum(best, better)
        # Where one boundary less is as good, that choice stays.
        chosen[-1] = np.where(chosen[-1] == 0, chosen[-2], chosen[-1])
    found, j = [], len(ends) - 1
    for first in reversed(chosen):
        found.append(int(ends[j]))
        if first[j] == 0:
            break
        j = first[j] - 1
    return np.array(found[::-1])
