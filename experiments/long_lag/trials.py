r"""A trial: a task of some length, a network, an optimizer, and when it counts as solved.

adding   the form of 1997: the last 2,000 training sequences all within 0.04, on average within 0.01; it goes
         on until at most 1 of 2,560 validation sequences, which are not those of the test, is wrong
chrono   the uniform form: the mean loss of 100 steps below 0.01 (always answering the mean gives 0.167)
copy     the mean loss of 100 steps below half the memoryless floor
order_two, order_three
         temporal order in the form of 1997, of two or three symbols: every output of the last 2,000 training
         sequences within 0.3, on average within 0.1; it goes on as adding does
order    by fractions of T: the last 2,000 training sequences all classified right; it goes on to the last
         step all the same, and the weights that validate best are tested
"""

from dataclasses import dataclass, replace

from lstm_jax.tasks import copy_floor


@dataclass(frozen=True)
class Trial:
    """One network on one task.

    Attributes:
        task: of `problems.SIZES`.
        length: T of the task.
        network: of `networks.NAMES`.
        hidden_size: H.
        batch_size: sequences in a step.
        steps: gradient steps at most.
        optimizer: ``adam``, ``rmsprop`` or ``sgd``.
        learning_rate: at the start.
        half_life: sequences after which it has halved; constant if None.
        clip: global norm of the gradient; none if None.
        penalty: first weight of the penalty on vanishing gradients (`experiments.long_lag.temporal_order`).
        watch: steps between two measurements of the gradient's norms.
        validated: whether it goes on, once it is solved, until at most one of 2,560 fresh sequences is wrong.
    """

    task: str
    length: int
    network: str
    hidden_size: int = 32
    batch_size: int = 20
    steps: int = 4_000
    optimizer: str = "adam"
    learning_rate: float = 1e-2
    half_life: float | None = None
    clip: float | None = 1.0
    penalty: float = 0.0
    watch: int = 200
    validated: bool = False

    @property
    def name(self) -> str:
        """The name of the trial's folder, without the seed."""
        return f"{self.task}-{self.length}-{self.network}"

    @property
    def threshold(self) -> float | None:
        """The mean loss of a log entry that counts as solved; None if there is another criterion."""
        if self.task == "copy":
            return copy_floor(self.length) / 2
        return 0.01 if self.task == "chrono" else None

    @property
    def t_max(self) -> int:
        """The longest lag that chrono initialisation spreads its units over."""
        # Copy memory has ten symbols over T steps; Tallec & Ollivier 2018 take three halves of T.
        return 3 * self.length // 2 if self.task == "copy" else self.length


def _adding(length: int, name: str = "lstm_chrono", **change: object) -> Trial:
    trial = Trial("adding", length, name, half_life=20_000, steps=10_000, watch=250)
    return replace(trial, **change)  # type: ignore[arg-type]


def _copy(name: str, steps: int) -> Trial:
    # Tallec & Ollivier 2018, section 3, at half their width.
    return Trial("copy", 500, name, 64, 32, steps, "rmsprop", 1e-3, None, watch=5_000)


def _chrono(name: str, steps: int) -> Trial:
    # Tallec & Ollivier 2018, section 3, at a smaller width and batch.
    return Trial(
        "chrono", 750, name, 32, 20, steps, "rmsprop", 1e-3, None, clip=None, watch=steps // 10
    )


def _order_1997(task: str) -> Trial:
    # As `adding`, with the longest length for T.
    return _adding(100, task=task, validated=True)


STUDIES: dict[str, tuple[Trial, ...]] = {
    "adding": tuple(_adding(length, validated=True) for length in (100, 500, 750, 1000)),
    "chrono": (_chrono("lstm_chrono", 30_000), _chrono("lstm_1", 100_000)),
    "copy": (_copy("lstm_chrono", 50_000), _copy("lstm_1", 30_000)),
    "order_1997": (_order_1997("order_two"), _order_1997("order_three")),
    # Its loss clips the gradient and reduces the rate.
    "order": (
        Trial("order", 200, "rnn", 50, 20, 120_000, "sgd", 1e-2, None, None, 4.0, watch=5_000),
    ),
    "lags": tuple(
        _adding(length, name, steps=3_000)
        for length in (50, 100, 200, 400)
        for name in ("rnn", "rnn_orthogonal", "irnn", "lstm_0", "lstm_1", "lstm_chrono", "gru")
    ),
}
SEEDS = {"adding": 5, "chrono": 2, "copy": 1, "order_1997": 5, "order": 2, "lags": 2}
"""Networks that are trained in each trial."""


def quick(trial: Trial) -> Trial:
    """The trial made small: a few steps of a short task."""
    return replace(
        trial, length=30, hidden_size=8, batch_size=8, steps=40, watch=20, half_life=None
    )
