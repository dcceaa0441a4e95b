"""``python -m gradient_flow`` is the command ``gradient-flow``."""

from gradient_flow.command_line.cli import main
from lstm_jax.command_line.exit_codes import leave


def command() -> None:
    """The command of a process of its own."""
    leave(main())


if __name__ == "__main__":
    command()
