"""The command `lstm-jax`, and what every command here shares.

Start with `commands`: its subcommands, each a few lines over `lstm_jax.language` and `lstm_jax.training`.
`tyro_options` reads a dataclass as options, and `exit_codes` ends a command in one line and a code; these two
are for `gradient-flow` and the experiments as well.

May import: every other room.
"""
