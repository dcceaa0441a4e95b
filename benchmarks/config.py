"""The options of the command line: what a run measures, and for how long."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.cases import CaseError, CellName, PassName
from benchmarks.competitors import GPU_NAMES, NAMES, OURS
from benchmarks.device_and_precision import Device, Precision, has_gpu
from benchmarks.interleaved_timing import Pace
from benchmarks.machine import cores_allowed


@dataclass(frozen=True)
class Timing:
    """The options of every part."""

    out: Path | None = None
    """New or empty folder for the results; runs/bench-<date> if not given."""
    rounds: int | None = None
    """At least so many rounds for each case: 12, and 3 where a call takes seconds."""
    seconds: float = 5.0
    """At least so many seconds of rounds for each case."""
    limit: float = 300.0
    """No new round for a case after so many seconds, whatever the other options say."""
    threads: int | None = None
    """Cores and threads of each competitor; all that this process may use if not given."""
    seed: int = 0
    """Seed of the order of the turns."""
    device: Device = "cpu"
    """Where: cpu, or gpu, which has two large shapes more and NVIDIA's kernel among the competitors."""
    quick: bool = False
    """Tiny shapes and two short rounds, to see that everything runs."""


@dataclass(frozen=True)
class Precise(Timing):
    """More options, of the parts with a choice of precision."""

    precision: tuple[Precision, ...] = ("float32",)
    """Of unrolls and matrix products; several are taken one after the other."""


@dataclass(frozen=True)
class All(Precise):
    """Time everything; the default."""


@dataclass(frozen=True)
class Unroll(Precise):
    """Time unrolls, forward and with gradient, against other libraries."""

    cell: CellName | None = None
    """One cell; all if not given."""
    shape: tuple[str, ...] = ()
    """Shapes T,B,D,H, such as 100,32,64,128, or untuned: five that no setting was chosen on; the standard
    ones if not given."""
    pass_: Annotated[PassName | None, tyro.conf.arg(name="pass")] = None
    """Forward alone, or forward and backward; both if not given."""
    competitor: tuple[str, ...] = ()
    """Competitors beside lstm_jax, by the names in the tables; all if not given."""


@dataclass(frozen=True)
class Jacobians(Timing):
    """Time norms of Jacobians at all lags against automatic differentiation."""


@dataclass(frozen=True)
class Memory(Timing):
    """Time the gradient of a very long unroll, and take its peak memory."""


@dataclass(frozen=True)
class Training(Timing):
    """Time steps of training a character and a word model against Flax nnx and PyTorch."""


@dataclass(frozen=True)
class Latency(Timing):
    """Time one step of an LSTM for one sequence, and 300 steps of it in one call."""


@dataclass(frozen=True)
class Kernels:
    """Count the kernels that unrolls launch on a GPU, by compiling for one; no GPU is needed."""

    out: Path | None = None
    """New or empty folder for the results; runs/bench-<date> if not given."""
    cell: CellName | None = None
    """One cell; all if not given."""
    shape: tuple[str, ...] = ()
    """Shapes T,B,D,H, such as 100,32,64,128; the standard ones and two for GPUs if not given."""
    pass_: Annotated[PassName | None, tyro.conf.arg(name="pass")] = None
    """Forward alone, or forward and backward; both if not given."""
    competitor: tuple[str, ...] = ()
    """Competitors beside lstm_jax, by the names in the tables; all in JAX if not given."""
    quick: bool = False
    """Tiny shapes, to see that everything runs."""


@dataclass(frozen=True)
class Report:
    """Print the tables of a run again from its files."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder of the run."""


@dataclass(frozen=True)
class Roofline:
    """Draw the roofline of a run of unroll from its files."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder of the run."""
    out: Path = Path("roofline.svg")
    """The picture; its ending says the format."""


Command = (
    Annotated[All, tyro.conf.subcommand("all")]
    | Annotated[Unroll, tyro.conf.subcommand("unroll")]
    | Annotated[Jacobians, tyro.conf.subcommand("jacobians")]
    | Annotated[Memory, tyro.conf.subcommand("memory")]
    | Annotated[Training, tyro.conf.subcommand("training")]
    | Annotated[Latency, tyro.conf.subcommand("latency")]
    | Annotated[Kernels, tyro.conf.subcommand("kernels")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Roofline, tyro.conf.subcommand("roofline")]
)


def check(config: Timing) -> None:
    """Refuse, before any work, options that cannot be run.

    Raises:
        CaseError: one sentence with the expected and the given value.
    """
    if config.rounds is not None and config.rounds < 1:
        raise CaseError(f"Range mismatch: expected --rounds of at least 1, got {config.rounds}.")
    for name in ("seconds", "limit"):
        value = getattr(config, name)
        if not 0 <= value < float("inf"):
            raise CaseError(f"Range mismatch: expected --{name} of at least 0, got {value}.")
    if config.device == "gpu" and isinstance(config, Training | Latency):
        raise CaseError("Device mismatch: expected --device cpu for this part, got gpu.")
    if config.device == "gpu" and not has_gpu():
        raise CaseError("Device mismatch: expected an NVIDIA device for --device gpu, got none.")
    precisions = config.precision if isinstance(config, Precise) else ("float32",)
    if config.device == "cpu" and "tf32" in precisions:
        raise CaseError("Device mismatch: expected --device gpu for --precision tf32, got cpu.")
    if not precisions:
        raise CaseError("Range mismatch: expected --precision with at least one value, got none.")
    cores = cores_allowed()
    if config.threads is not None and not 1 <= config.threads <= cores:
        raise CaseError(
            f"Range mismatch: expected --threads from 1 to {cores}, the cores that this process may "
            f"use, got {config.threads}."
        )
    check_names(config.competitor if isinstance(config, Unroll) else (), names_on(config.device))


def names_on(device: Device) -> tuple[str, ...]:
    """The competitors on a device."""
    return GPU_NAMES if device == "gpu" else NAMES


def check_names(asked: Sequence[str], known: Sequence[str]) -> None:
    """Refuse competitors that are not known.

    Raises:
        CaseError: with the known ones in the message.
    """
    for name in asked:
        if name not in known:
            raise CaseError(
                f"Name mismatch: expected --competitor from {', '.join(known)}, got {name!r}."
            )


def pace(config: Timing, *, long_calls: bool) -> Pace:
    """How long a case is timed for.

    Args:
        config: the options.
        long_calls: whether one call takes seconds, so that three rounds are enough.
    """
    standard = 3 if long_calls else 12
    if config.quick:
        return Pace(config.rounds or 2, 0.0, 60.0, 1.0, 600.0, threads(config), config.seed)
    return Pace(
        rounds=config.rounds or standard,
        seconds=config.seconds,
        limit=config.limit,
        turn_ms=20.0,
        patience=1800.0,
        threads=threads(config),
        seed=config.seed,
    )


def threads(config: Timing) -> int:
    """Threads of each competitor."""
    return config.threads or cores_allowed()


def competitors(asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The competitors in the unrolls, `lstm_jax` first: the named ones, or all."""
    return (OURS, *(name for name in known if name != OURS and (not asked or name in asked)))
