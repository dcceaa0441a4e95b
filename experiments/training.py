"""What the experiments that train share: options, the run's folder and exit codes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh

from experiments.running import FAILED, REFUSED, Refusal, require_seed
from gradient_flow.results_folder import FINISHED, OutputError, claim_folder
from lstm_jax.command_line import training_ends
from lstm_jax.training import (
    CHECKPOINTS,
    RunOptions,
    data_mesh,
    start_processes,
)
from lstm_jax.training.system_errors import reason


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The options of every experiment that trains."""

    quick: bool = False
    """A small version that ends within a minute; its numbers are no results."""
    resume: bool = False
    """Go on from the last checkpoint in --out."""
    overwrite: bool = False
    """Replace the run in --out."""
    seed: int = 0
    """Seed of everything random."""
    log_every: int = 100
    """Steps between two entries of the log."""
    checkpoint_every: int | None = 1000
    """Steps between two checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard events beside the log."""
    watch_flow: int | None = None
    """Record Jacobian norms and gates every so many steps, and draw them."""
    data_parallel: bool = False
    """Spread every batch over all devices (of all processes)."""
    coordinator: str | None = None
    """host:port of the first process, where there are several."""
    processes: int | None = None
    """How many processes there are."""
    process: int | None = None
    """Which one this is, from 0."""

    def run_options(self, *, evaluate_every: int | None = None) -> RunOptions:
        """The options of `lstm_jax.training.fit`."""
        return RunOptions(
            resume=self.resume,
            overwrite=self.overwrite,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            evaluate_every=evaluate_every,
            tensorboard=self.tensorboard,
        )

    def start(self) -> Mesh | None:
        """Join the other processes, if there are any; the mesh, if the batch is to be spread.

        Call it before anything else: no device may have been used before.

        Raises:
            Refusal: numbers that no run can use, or processes that cannot be joined.
        """
        self.check()
        if self.coordinator is not None or self.processes is not None or self.process is not None:
            try:
                start_processes(self.coordinator, self.processes, self.process)
            except (ValueError, RuntimeError) as error:
                raise Refusal(reason(error)) from None
        return data_mesh() if self.data_parallel else None

    def check(self) -> None:
        """Refuse options that no run can use.

        Raises:
            Refusal: naming the option.
        """
        for name in ("log_every", "checkpoint_every", "watch_flow"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = f"--{name.replace('_', '-')}"
                raise Refusal(f"Range mismatch: expected {option} of at least 1 step, got {value}.")
        require_seed(self.seed)
        if self.resume and self.overwrite:
            raise Refusal("Option mismatch: expected --resume or --overwrite, got both.")


def claim_run(out: Path, name: str, config: TrainingConfig) -> Path:
    """The folder of a run: new, or with the unfinished run to resume.

    Raises:
        OutputError: a folder with other files in it, or into which another run writes.
        Refusal: options that no run can use.
    """
    config.check()
    if jax.process_index():
        return out
    if config.resume:
        if (out / FINISHED).exists():
            raise OutputError(
                f"Finished run: expected an unfinished run in {out}, got its results. Name another --out, or "
                "use --overwrite in place of --resume."
            )
        return claim_folder(out, name, overwrite=True)
    if (out / CHECKPOINTS).exists() and not (config.overwrite or (out / FINISHED).exists()):
        raise OutputError(
            f"Unfinished run: expected a new or empty folder, got {out} with checkpoints in it. Add --resume "
            "or --overwrite, or name another --out."
        )
    return claim_folder(out, name, overwrite=config.overwrite)


def begin_run(out: Path) -> None:
    """Say that the run in a folder is not finished: call it when nothing is left that may be refused.

    Until then the results of an earlier run, which this one replaces, stay.
    """
    if not jax.process_index():
        (out / FINISHED).unlink(missing_ok=True)


def training_exit_code(action: Callable[[], None]) -> int:
    """How an experiment that trains ends: as every command that trains, with refusals of its own."""

    def guarded() -> None:
        try:
            action()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("finished parts are kept") from None

    return training_ends.training_exit_code(guarded, refused=REFUSED, failed=FAILED)


def say(text: str) -> None:
    """Print, in the first process alone."""
    if not jax.process_index():
        print(text)
