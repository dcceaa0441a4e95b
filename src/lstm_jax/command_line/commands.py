"""The command ``lstm-jax``: train a language model on a text, evaluate it, let it write."""

from collections.abc import Sequence
from typing import Annotated

import tyro

from lstm_jax.command_line.evaluate_command import Evaluate, run_evaluate
from lstm_jax.command_line.exit_codes import leave
from lstm_jax.command_line.generate_command import Generate, run_generate
from lstm_jax.command_line.train_command import Train, run_train
from lstm_jax.command_line.training_ends import training_exit_code
from lstm_jax.command_line.tyro_options import parse

Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 for success, 1 for a stop, 2 for invalid input, 130 after Ctrl-C; `exit_codes` has all.
    """
    chosen = parse(Command, "lstm-jax", arguments)

    def run() -> None:
        if isinstance(chosen, Train):
            run_train(chosen)
        elif isinstance(chosen, Evaluate):
            run_evaluate(chosen)
        else:
            run_generate(chosen)

    return training_exit_code(run, refused=(ValueError, FileNotFoundError, IsADirectoryError))


def command() -> None:
    """The command of a process of its own."""
    leave(main())
