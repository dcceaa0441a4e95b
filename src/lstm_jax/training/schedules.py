r"""A schedule of the learning rate: constant for some epochs, then divided at each epoch.

η(n) = η₀ / d^max(e − hold, 0),   e = ⌊n / steps per epoch⌋ + 1
"""

import optax

from lstm_jax.validation import require_number, require_positive_int


def step_decay(
    learning_rate: float, *, steps_per_epoch: int, hold: int, factor: float
) -> optax.Schedule:
    """A learning rate that stays for ``hold`` epochs and is divided by ``factor`` at each one after.

    Args:
        learning_rate: η₀, of the first epochs.
        steps_per_epoch: steps in an epoch.
        hold: epochs with η₀, at least 1.
        factor: by which each epoch after them divides, d; at least 1.

    Returns:
        An optax schedule, a function of the step.

    Raises:
        ValueError: numbers out of range.

    Source: Zaremba, Sutskever & Vinyals 2014, section 4.1: η₀ = 1, hold 4, factor 2 for the small model.

    Example:
        >>> from lstm_jax.training import step_decay
        >>> schedule = step_decay(1.0, steps_per_epoch=10, hold=4, factor=2.0)
        >>> [round(float(schedule(10 * epoch)), 3) for epoch in range(6)]
        [1.0, 1.0, 1.0, 1.0, 0.5, 0.25]
    """
    require_number("learning_rate", learning_rate, above=0)
    require_positive_int("steps_per_epoch", steps_per_epoch)
    require_positive_int("hold", hold)
    require_number("factor", factor, least=1)
    return optax.exponential_decay(
        learning_rate,
        transition_steps=steps_per_epoch,
        decay_rate=1 / factor,
        # The exponent counts from the last epoch with η₀.
        transition_begin=(hold - 1) * steps_per_epoch,
        staircase=True,
    )
