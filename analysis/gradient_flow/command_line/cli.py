"""The command ``gradient-flow``: compare networks, check gradients, draw a run from its files."""

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from gradient_flow.command_line import comparison, short_training
from gradient_flow.command_line.comparison import Compare, ConfigError
from gradient_flow.command_line.inspect_command import Inspect, run_inspect
from gradient_flow.command_line.memory import TooLargeError, lstm_bytes, require_memory
from gradient_flow.command_line.report_command import Report, page_of_run, run_report
from gradient_flow.measurements.curve_summary import lag_grid
from gradient_flow.measurements.training_watch import records_folder
from gradient_flow.pages.run_page import PAGE
from gradient_flow.results_folder import (
    ARRAYS,
    FINISHED,
    STAGE,
    OutputError,
    claim_folder,
    environment,
    publish,
    read_run,
    release_folder,
    write_arrays,
    write_json,
)
from lstm_jax import Cell, check_gradients, gru, lstm, rnn, unroll
from lstm_jax.atomic_write import write_whole
from lstm_jax.command_line.exit_codes import exit_code, leave
from lstm_jax.command_line.tyro_options import parse
from lstm_jax.language import Corpus
from lstm_jax.language.text import TextError
from lstm_jax.validation import NonFiniteError, require_positive_int


@dataclass(frozen=True)
class Check:
    """Check the hand-derived gradients of every cell against autodiff and central differences."""

    length: int = 20
    """Time steps T."""
    batch_size: int = 3
    """Batch B."""
    input_size: int = 4
    """Input size D."""
    hidden_size: int = 6
    """Hidden size H."""
    seed: int = 0
    """Seed of parameters and inputs."""


@dataclass(frozen=True)
class Draw:
    """Draw a finished comparison again, with its page, or a training run: what was watched, or the loss."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder of the run."""


LOG = "log.jsonl"
TABLES = "tables.txt"

KINDS = ("rnn", "lstm", "gru")
"""The kinds of networks; those of one kind are trained together."""

Command = (
    Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Draw, tyro.conf.subcommand("draw")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for success, 1 if gradients differ, 2 for invalid input, 130 after Ctrl-C; `exit_codes` has all.
    """
    command = parse(Command, "gradient-flow", arguments)

    def run() -> int:
        if isinstance(command, Inspect):
            words = list(sys.argv[1:] if arguments is None else arguments)
            return run_inspect(command, words[1:])
        if isinstance(command, Check):
            return run_check(command)
        if isinstance(command, Draw):
            return run_draw(command)
        if isinstance(command, Report):
            return run_report(command)
        return run_compare(command)

    return exit_code(
        run, refused=(ConfigError, TooLargeError, OutputError, TextError, NonFiniteError)
    )


def run_compare(config: Compare) -> int:
    """Measure, train, measure again; print the table line by line; write results, arrays and figures."""
    corpus = comparison.check_config(config)
    input_size = comparison.NOISE_SIZE if corpus is None else corpus.vocabulary.size
    require_memory(
        "--lengths, --samples and --hidden-size", comparison.bytes_needed(config, input_size)
    )
    folder = claim_folder(config.out, "compare", overwrite=config.overwrite)
    found = Found({}, {}, {}, [])
    try:
        results = _measured(config, corpus, found)
    except BaseException as stop:
        kept = _keep_what_there_is(folder, found)
        if isinstance(stop, KeyboardInterrupt) and kept:
            raise KeyboardInterrupt(f"the numbers so far are in {kept}") from None
        raise
    _write(folder / STAGE, found)
    write_json(folder / STAGE / FINISHED, results)
    # Matplotlib is imported only here, where it is needed.
    from gradient_flow.pictures.comparison_figures import PICTURES

    pictures = [f"{name}.{ending}" for name in PICTURES for ending in ("png", "svg")]
    publish(folder, replaces=[*pictures, PAGE], more=True)
    print(f"\nnumbers:  {folder / FINISHED}, {folder / ARRAYS}")
    try:
        _draw(folder, results, found.arrays)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"all numbers are kept, gradient-flow draw {folder} draws them"
        ) from None
    return 0


class Found(NamedTuple):
    """What a comparison has found so far.

    Attributes:
        arrays: by ``stage/network/name``.
        rows: of the table, by stage and network.
        bits: per character, by network.
        lines: that were printed.
    """

    arrays: dict[str, np.ndarray]
    rows: dict[str, dict[str, Any]]
    bits: dict[str, dict[str, float]]
    lines: list[str]


def _write(folder: Path, found: Found) -> None:
    write_arrays(folder / ARRAYS, found.arrays)
    write_whole(folder / TABLES, ("\n".join(found.lines) + "\n").encode())
    write_json(folder / "environment.json", environment())


def _keep_what_there_is(folder: Path, found: Found) -> Path | None:
    """Write the numbers of a run that does not end, beside no other results; where they are."""
    if not found.arrays:
        release_folder(folder)
        return None
    with contextlib.suppress(OSError, OutputError):
        _write(folder / STAGE, found)
        if (folder / FINISHED).exists():
            # An earlier run's results stay as they are.
            return folder / STAGE
        publish(folder, finishes=False)
        return folder
    return None


def _measured(config: Compare, corpus: Corpus | None, found: Found) -> dict[str, Any]:
    """Measure, train, measure again; print and collect what is found.

    Returns:
        The content of ``results.json``.
    """
    key_xs, key_init = jax.random.split(jax.random.key(config.seed))
    xs = comparison.inputs(config, corpus, key_xs)
    nets = comparison.networks(xs.shape[-1], config.hidden_size, max(config.lengths))
    labels = {name: network.label for name, network in nets.items()}
    stages = ["untrained", "trained"] if config.steps else ["untrained"]
    arrays, rows, bits, told = found
    rows.update({stage: {} for stage in stages})

    with Progress(len(nets) * len(stages) + (len(KINDS) if config.steps else 0)) as progress:

        def show(text: str) -> None:
            told.append(text)
            progress.show(text)

        def look(stage: str, name: str, params: Any) -> None:
            progress.begin(f"measuring {labels[name]}")
            cell = comparison.shared_cell(nets[name].cell)
            last = stage == stages[-1]
            measured = comparison.measure(name, cell, params, xs, config.lengths, last=last)
            arrays.update({f"{stage}/{name}/{key}": value for key, value in measured.items()})
            rows[stage][name] = comparison.summarise(config.lengths, measured)
            table = comparison.lines(
                labels[name], rows[stage][name], labels.values(), bits.get(name)
            )
            progress.done()
            show("\n".join(table))

        show(comparison.LEGEND + "\n")
        show(comparison.heading("untrained", config, labels.values()))
        for n, (name, network) in enumerate(nets.items()):
            look("untrained", name, network.cell.init(jax.random.fold_in(key_init, n)))
        show("\n" + comparison.autodiff_line(rows["untrained"], labels))
        if corpus is not None and config.steps:
            show("\n" + comparison.heading("trained", config, labels.values()))
            for kind in KINDS:
                names = [name for name, network in nets.items() if network.cell.kind == kind]
                ends = _trained(config, corpus, kind, [nets[name].cell for name in names], progress)
                for name, end in zip(names, ends, strict=True):
                    bits[name] = comparison.bits(end)
                    look("trained", name, end.params)

    return {
        "config": {**asdict(config), "train_steps": config.steps},
        "text": None if corpus is None else comparison.describe(corpus),
        "stages": stages,
        "networks": labels,
        "inside": comparison.INSIDE_NETWORK,
        "lags": lag_grid(config.lengths),
        "horizon_factor": comparison.HORIZON_FACTOR,
        "gate_text": comparison.gate_text(corpus, xs),
        "bits_per_character": bits,
        "table": rows,
    }


def _draw(folder: Path, results: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Draw the pictures and the page of a claimed folder, and say where they are."""
    from gradient_flow.pictures.comparison_figures import draw_all

    try:
        pictures = draw_all(folder / STAGE, results, arrays)
        page = page_of_run(folder, folder / STAGE)
    finally:
        publish(folder, finishes=False)
    for picture in pictures:
        print(f"picture:  {folder / picture.name}  (and .svg)")
    print(page)


def _trained(
    config: Compare, corpus: Corpus, kind: str, cells: list[Cell], progress: "Progress"
) -> list[short_training.Trained]:
    """The networks of a kind after training."""
    progress.begin(f"training {len(cells)} {kind.upper()}")

    def report(step: int, value: float) -> None:
        progress.note(f"step {step} of {config.steps}, {value:.2f} bits/char")

    ends = short_training.train(
        cells, corpus.codes, config.steps, config.learning_rate, config.seed, report
    )
    progress.done()
    return ends


class Progress:
    """Progress: on a terminal one line that changes, otherwise a line for each finished part.

    Args:
        parts: their number.
    """

    def __init__(self, parts: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=parts, unit="part", dynamic_ncols=True, disable=not self._terminal)
        self._name, self._begun = "", time.perf_counter()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.close()

    def begin(self, name: str) -> None:
        """Name the part that begins."""
        self._name, self._begun = name, time.perf_counter()
        self._bar.set_description(name)

    def note(self, words: str) -> None:
        """Show the progress of the part, on a terminal."""
        self._bar.set_postfix_str(words)

    def done(self) -> None:
        """End the part."""
        self._bar.set_postfix_str("", refresh=False)
        self._bar.update()
        if not self._terminal:
            print(f"{self._name}: {time.perf_counter() - self._begun:.1f} s", file=sys.stderr)

    def show(self, text: str) -> None:
        """Print to the standard output, above the line that changes."""
        with self._bar.external_write_mode(file=sys.stdout):
            print(text, flush=True)


def run_check(config: Check) -> int:
    """Print a gradient check of each cell."""
    comparison.check_seed(config.seed)
    for name in ("length", "batch_size", "input_size", "hidden_size"):
        try:
            require_positive_int(f"--{name.replace('_', '-')}", getattr(config, name))
        except ValueError as error:
            raise ConfigError(str(error)) from None
    rows = config.length * config.batch_size
    require_memory(
        "--length, --batch-size, --input-size and --hidden-size",
        lstm_bytes(config.input_size, config.hidden_size, rows),
    )
    agree = True
    for make in (lstm, gru, rnn):
        cell = make(config.input_size, config.hidden_size)
        keys = jax.random.split(jax.random.key(config.seed), 4)
        shape = (config.length, config.batch_size)
        state0 = cell.initial_state(config.batch_size)
        inputs = {
            "params": cell.init(keys[0]),
            "xs": jax.random.normal(keys[1], (*shape, config.input_size)),
            "state0": jax.tree.map(
                lambda leaf, key=keys[2]: 0.5 * jax.random.normal(key, leaf.shape), state0
            ),
        }
        targets = jax.random.normal(keys[3], (*shape, config.hidden_size))

        def loss(inputs: Any, targets: Any, gradient: str, cell: Any = cell) -> Any:
            state, hs = unroll(
                cell, inputs["params"], inputs["xs"], inputs["state0"], gradient=gradient
            )
            return jnp.mean((hs - targets) ** 2) + jnp.mean(state[-1] ** 2)

        report = check_gradients(loss, inputs, targets)
        agree = agree and report.ok
        print(f"{cell}, T = {config.length}, B = {config.batch_size}\n{report}\n")
    return 0 if agree else 1


def run_draw(config: Draw) -> int:
    """Draw a run's pictures from its files: a comparison's, what was watched in training, or the loss."""
    records = records_folder(config.folder)
    if records is not None:
        return _draw_records(records)
    if (config.folder / LOG).exists() and not (config.folder / ARRAYS).exists():
        return _draw_loss(config.folder)
    results, arrays = read_run(config.folder)
    from gradient_flow.pictures.comparison_figures import require_comparison

    require_comparison(config.folder, results, arrays)
    claim_folder(config.folder, "compare", overwrite=True)
    _draw(config.folder, results, arrays)
    return 0


def _draw_records(records: Path) -> int:
    # Matplotlib is imported only here, where it is needed.
    from gradient_flow.pictures.watch_figures import draw_watch

    log = _log(records.parent) if (records.parent / LOG).exists() else None
    for picture in draw_watch(records, log):
        print(f"picture:  {picture}  (and .svg)")
    return 0


def _draw_loss(folder: Path) -> int:
    from gradient_flow.pictures.loss_figures import draw_losses

    for picture in draw_losses(_log(folder), folder):
        print(f"picture:  {picture}  (and .svg)")
    return 0


def _log(folder: Path) -> list[dict[str, Any]]:
    # lstm_jax.training imports Orbax, which takes a second.
    from lstm_jax.training import LogError, read_log

    try:
        return read_log(folder)
    except LogError as error:
        raise OutputError(str(error)) from None


if __name__ == "__main__":
    leave(main())
