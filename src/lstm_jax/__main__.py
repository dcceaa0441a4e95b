"""``python -m lstm_jax`` is the command ``lstm-jax``."""

from lstm_jax.command_line.commands import command

if __name__ == "__main__":
    command()
