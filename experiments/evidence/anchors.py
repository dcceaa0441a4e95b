"""Numbers of others, and what became of each here."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.evidence.claim import found_of, markdown
from experiments.evidence.claims import CLAIMS

REPRODUCED, PASSED, PARTLY = "reproduced", "passed", "in part"
MISSED, NOT_TRIED = "not reached", "not attempted"


class Anchor(NamedTuple):
    """A published number.

    Attributes:
        source: who published it.
        what: the number, and of what.
        became: `REPRODUCED`, `PASSED`, `PARTLY`, `MISSED` or `NOT_TRIED`.
        here: our number, by how much it misses, or why it was not attempted. ``{NAME.number}``, ``.seeds``
            and ``.interval`` stand for those of the claim with this name.
    """

    source: str
    what: str
    became: str
    here: str


ANCHORS: Sequence[Anchor] = (
    Anchor(
        "Hochreiter and Schmidhuber 1997",
        "adding, T = 100, 500, 1000: 74,000, 209,000, 853,000 sequences", PASSED,
        "{adding_100.number}, {adding_500.number}, {adding_1000.number}, medians of {adding_100.seeds} "
        "seeds ([long lags](../experiments/long_lag/README.md))",
    ),
    Anchor(
        "the same", "adding: at most 1 wrong of 2,560", PARTLY,
        "{adding_right.number} networks, which end by a validation set; the other has 2",
    ),
    Anchor(
        "the same", "temporal order 6a and 6b: 31,390 and 571,100 sequences, at most 2 wrong of 2,560",
        PASSED,
        "{order_two.number} and {order_three.number}, medians of 5 seeds each; "
        "{order_1997_right.number} with at most 1 wrong",
    ),
    Anchor(
        "Pascanu et al. 2013", "temporal order: no error to T = 5,000, five of five seeds", MISSED,
        "{order_right.number} fresh seeds; at its worst length a network has {order_wrong.number} "
        "wrong of 10,000 ({order_wrong.interval}), with a third of the updates "
        "([why](../experiments/long_lag/README.md#expected-and-reached))",
    ),
    Anchor(
        "Tallec and Ollivier 2018", "adding, T = 750: chrono in a seventh of the steps of forget bias 1",
        PARTLY,
        "{chrono_steps.number} steps ({chrono_steps.interval}, {chrono_steps.seeds} seeds); forget bias 1 "
        "has solved it in {bias_solved.number} seeds within 25,000, and in one look not in 100,000; "
        "32 units for 128",
    ),
    Anchor(
        "the same", "copy, T = 500: chrono below the memoryless floor, forget bias 1 at it", REPRODUCED,
        "one look, 64 units for 128",
    ),
    Anchor("the same", "copy, T = 2,000", NOT_TRIED, "four times the length at some 50,000 steps: a day"),
    Anchor(
        "LEM, 2022", "adding at T = 2,000 to 10,000: squared errors of 2 to 5 · 10⁻⁵", PARTLY,
        "{longer_error_2000.number} at 2,000 ({longer_error_2000.seeds} seeds) and "
        "{longer_error_5000.number} and {longer_error_10000.number} at 5,000 and 10,000 (one look each), "
        "an LSTM of 32 units in {longer_2000.number}, {longer_5000.number} and {longer_10000.number} "
        "sequences, for 128 units and 1,500,000",
    ),
    Anchor(
        "Bai et al. 2018", "LSTM: adding T = 600 0.164, copy T = 1000 0.0204", NOT_TRIED,
        "their setting was not run; in the same form of adding, at T = 750, chrono comes below 0.01 (above)",
    ),
    Anchor(
        "the same", "LSTM: sequential MNIST 87.2 %, permuted 85.7 %", NOT_TRIED,
        "the pictures cannot be had from a package registry, and 784 steps of 60,000 pictures are "
        "hours an epoch",
    ),
    Anchor(
        "Dive into Deep Learning",
        "Time Machine: perplexity 1.3 from scratch, 1.1, two layers 1.0", REPRODUCED,
        "{scratch.number}, {library.number} and {two_layers.number}, medians of {library.seeds} seeds "
        "([characters](../experiments/char_lm/README.md))",
    ),
    Anchor(
        "the same", "17,736, 234,815 and 186,006 tokens a second on a GPU", PARTLY,
        "on one CPU core, in the same table; the library's layers are slower than theirs on a GPU",
    ),
    Anchor(
        "Zaremba et al. 2014", "Penn Treebank, small: 120.7 and 114.5", REPRODUCED,
        "{ptb_valid.number} and {ptb_test.number} ({ptb_test.interval}), medians of {ptb_test.seeds} seeds "
        "([words](../experiments/ptb/README.md))",
    ),
    Anchor(
        "the same", "medium 86.2 and 82.7, large 82.2 and 78.4", NOT_TRIED,
        "some 7 and 40 hours of one core, by their operations at the small model's speed",
    ),
    Anchor(
        "a re-run of Vogt et al. 2022",
        "Lyapunov spectrum of a GRU of 512 units, 100 trials: 75 minutes on a GPU", PASSED,
        "182 seconds on two CPU cores ([the microscope](analysis.md))",
    ),
    Anchor(
        "fixed-point-finder", "Jacobians one by one and batched: 137.4 s and 0.22 s", NOT_TRIED,
        "of their network and machine; ours are batched",
    ),
    Anchor(
        "Gonzalez et al. 2025", "parallel Newton converges fast exactly where λ_1 is negative", REPRODUCED,
        "the example of [the microscope](analysis.md), three gains",
    ),
    Anchor(
        "DEER", "parallel GRU, one unit, forward: 138 to 2,029 times a loop on a GPU", NOT_TRIED,
        "no GPU at hand for it",
    ),
    Anchor(
        "FlashRNN's table", "cuDNN fp16 2.01 and 5.19 ms on an H100", NOT_TRIED,
        "no H100 at hand; what was timed on an H200 is in [the benchmarks](../benchmarks/README.md)",
    ),
    Anchor(
        "Banerjee et al. 2019", "vanilla network on a CPU: up to 3 times oneDNN forward, 5 times backward",
        PARTLY,
        "PyTorch's time over ours is in [the benchmarks](../benchmarks/README.md); their shapes are "
        "for many cores",
    ),
    Anchor(
        "lyapax", "0.49 of our time for an LSTM of 32 units in float64, 1.3 at 128", NOT_TRIED,
        "not timed again since",
    ),
    Anchor(
        "trained networks in packages", "norms, time constants and λ_1 of ten layers", REPRODUCED,
        "[in the wild](../experiments/in_the_wild/README.md), on inputs of its own",
    ),
)  # fmt: skip


def anchor_table(anchors: Sequence[Anchor]) -> str:
    """A line for each."""
    named = {claim.name: found_of(claim) for claim in CLAIMS if claim.name}
    return markdown(("source", "published", "here", "how"), [
        (one.source, one.what, one.became, one.here.format_map(named)) for one in anchors
    ])  # fmt: skip
