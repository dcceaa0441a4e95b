"""The groups: the runs that one program trains, in the order in which they are made."""

from dataclasses import dataclass

from experiments.which_lags.starts import starts_of

LENGTHS = (25, 50, 100, 200)
NO_PRODUCTS = ("adding_uniform", "adding_1997", "order")
"""Tasks in which two inputs of a step are multiplied or put in order, which no linear network can do."""

SECONDS = {
    (32, "lstm"): 1.2e-5, (32, "gru"): 1.5e-5, (32, "tanh"): 3.5e-6, (32, "relu"): 3.5e-6,
    (32, "identity"): 2.8e-6, (128, "lstm"): 8e-5, (128, "gru"): 6e-5, (128, "tanh"): 2.5e-5,
    (128, "relu"): 2.5e-5, (128, "identity"): 2.4e-5,
}  # fmt: skip
"""Seconds of one core for a time step of an update of one network, batches of 20."""
OVERHEAD = 30.0
"""Seconds to compile a group's programs and to measure its networks."""


@dataclass(frozen=True)
class Group:
    """One network, size, task and length, with all starts, seeds and rates.

    Attributes:
        network: of `starts.NETWORKS`.
        hidden_size: H.
        task: of `tasks.TASKS`.
        length: T.
        updates: gradient steps at most.
        rates: of Adam.
        seeds: how many.
        batch_size: sequences in an update.
        looks: updates before which the network is measured.
        side_by_side: networks in one program.
    """

    network: str
    hidden_size: int
    task: str
    length: int
    updates: int = 3_000
    rates: tuple[float, ...] = (0.002, 0.01)
    seeds: int = 3
    batch_size: int = 20
    looks: tuple[int, ...] = (0, 20, 100)
    side_by_side: int = 8

    @property
    def name(self) -> str:
        """The name of its file."""
        return group_name(self.task, self.length, self.network, self.hidden_size)

    @property
    def most_seconds(self) -> float:
        """Of one core, if no network is ever solved."""
        runs = len(starts_of(self.network)) * self.seeds * len(self.rates)
        step = SECONDS[128 if self.hidden_size > 32 else 32, self.network]
        return OVERHEAD + step * self.length * self.updates * runs


def group_name(task: str, length: int, network: str, hidden_size: int) -> str:
    """The name of a group and of its file."""
    return f"{task}-{length}-{network}-{hidden_size}"


def _of_task(task: str, hidden_size: int) -> list[Group]:
    networks = ("lstm", "gru", "tanh", "relu", "identity")
    chosen = [n for n in networks if n != "identity" or task not in NO_PRODUCTS]
    small = hidden_size == 32
    more = {} if small else {"updates": 2_000, "rates": (0.002,)}
    lengths = LENGTHS if small or task == "recall" else LENGTHS[:-1]
    # The lags between the easiest and the hardest first: there networks differ most.
    return [
        Group(
            network, hidden_size, task, length, **more,  # type: ignore[arg-type]
            # What fits into a core's cache is fastest.
            side_by_side=1 if not small else 4 if network in ("lstm", "gru") else 8,
        )
        for length in (50, 100, 200, 25)
        if length in lengths
        for network in chosen
    ]  # fmt: skip


def all_groups() -> tuple[Group, ...]:
    """Every group, the most telling first."""
    return tuple(
        group
        for task, hidden_size in (
            ("recall", 32),
            ("adding_uniform", 32),
            ("order", 32),
            ("copy", 32),
            ("adding_1997", 32),
            ("recall", 128),
            ("adding_uniform", 128),
        )
        for group in _of_task(task, hidden_size)
    )


def quick_groups() -> tuple[Group, ...]:
    """Three small ones, for tests; no result."""
    given = {"hidden_size": 8, "length": 25, "updates": 40, "seeds": 1, "looks": (0, 20)}
    return (
        Group(network="tanh", task="recall", **given),  # type: ignore[arg-type]
        Group(network="gru", task="recall", **given),  # type: ignore[arg-type]
        Group(network="tanh", task="adding_uniform", **given),  # type: ignore[arg-type]
    )
