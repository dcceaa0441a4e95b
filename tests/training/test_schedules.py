"""The step decay against the papers' words."""

import numpy as np
import pytest

from lstm_jax.training import step_decay


@pytest.mark.parametrize(
    ("hold", "factor", "epochs"), [(4, 2.0, 13), (6, 1.2, 39), (14, 1.15, 55), (1, 2, 5)]
)
def test_the_rate_holds_and_then_falls_at_every_epoch(hold, factor, epochs):
    per_epoch = 7
    schedule = step_decay(1.0, steps_per_epoch=per_epoch, hold=hold, factor=factor)
    rate, expected = 1.0, []
    for epoch in range(1, epochs + 1):
        if epoch > hold:
            rate = rate / factor
        expected += [rate] * per_epoch
    came = [float(schedule(np.int32(n))) for n in range(len(expected))]
    np.testing.assert_allclose(came, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
        ({"hold": 0}, "hold"),
        ({"factor": 0.5}, "factor as a finite number of at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    options = {"learning_rate": 1.0, "steps_per_epoch": 5, "hold": 4, "factor": 2.0} | change
    rate = options.pop("learning_rate")
    with pytest.raises(ValueError, match=message):
        step_decay(rate, **options)
