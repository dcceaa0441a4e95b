"""The table of a comparison: its columns, its bits per character, and what stands where nothing is."""

import numpy as np
import pytest

from gradient_flow.command_line.comparison import Compare, autodiff_line, bits, heading, lines
from gradient_flow.command_line.short_training import Trained

LABELS = ["RNN", "LSTM, forget bias 1"]
ROWS = [
    {"length": 50, "log10_hh": -12.345, "log10_cc": None, "decades_per_100": 24.5, "horizon": 11.7},
    {
        "length": 1000,
        "log10_hh": -250.5,
        "log10_cc": -3.25,
        "decades_per_100": 1.25,
        "horizon": float("inf"),
    },
]
BITS = {"first": 4.5, "last": 2.126, "held_out": 2.254}


def words(line):
    return line.split()


def test_a_line_for_each_length():
    first, second = lines("RNN", ROWS, LABELS)
    assert words(first) == ["RNN", "50", "-12.35", "-", "24.50", "12"]
    # The network is named once, and where nothing has fallen so far, the length is all that is known.
    assert words(second) == ["1000", "-250.50", "-3.25", "1.25", ">", "1000"]


def test_the_bits_stand_in_the_last_line():
    first, second = lines("RNN", ROWS, LABELS, BITS)
    assert words(first) == words(lines("RNN", ROWS, LABELS)[0])
    assert words(second)[-2:] == ["2.13", "2.25"]


def test_the_columns_are_those_of_the_heading():
    for stage, found in (("untrained", None), ("trained", BITS)):
        title, names = heading(stage, Compare(train_steps=7), LABELS).split("\n")
        assert title == ("before training" if found is None else "after 7 training steps")
        assert ("held-out" in names) == ("bits/char" in names) == (found is not None)
        for label in LABELS:
            first, last = lines(label, ROWS, LABELS, found)
            assert len(last) == len(names)
            # Numbers end where their column's name does.
            end = names.index("horizon") + len("horizon")
            assert first[end - 2 : end] == "12" and last[end - 6 : end] == "> 1000"
            assert first[: names.index("T") + 1].endswith("50")


def test_bits_are_of_the_first_and_the_last_ten_steps():
    each = [5.0] * 10 + [0.0] * 30 + [1.0] * 5 + [2.0] * 5
    found = bits(Trained(None, each, 1.75))
    assert found == {"first": 5.0, "last": 1.5, "held_out": 1.75}
    assert bits(Trained(None, [3.0, 1.0], 2.0))["first"] == 2.0


@pytest.mark.parametrize(
    ("lags", "said"),
    [((None, None), "exactly 0: nowhere."), ((90, None), "exactly 0: Vanilla from lag 90.")],
)
def test_where_autodiff_ends(lags, said):
    rows = {
        name: [{"autodiff_zero_from": None}, {"autodiff_zero_from": lag}]
        for name, lag in zip(("rnn", "gru"), lags, strict=True)
    }
    assert autodiff_line(rows, {"rnn": "Vanilla", "gru": "GRU"}).endswith(said)
    rows["gru"][-1]["autodiff_zero_from"] = np.int64(200)
    assert autodiff_line(rows, {"rnn": "Vanilla", "gru": "GRU"}).endswith("GRU from lag 200.")
