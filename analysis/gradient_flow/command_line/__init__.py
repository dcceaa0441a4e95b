"""The command `gradient-flow`.

Start with `cli`: its subcommands. `comparison` is `gradient-flow compare`, which `make demo` runs;
`short_training` trains its networks. `memory` refuses sizes that do not fit. `lstm_jax.command_line` reads
options and ends a command.

May import: every other room, `lstm_jax.training` and `lstm_jax.language`.
"""
