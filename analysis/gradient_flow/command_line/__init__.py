"""The command `gradient-flow`. Only this room imports tyro.

Start with `cli`: its subcommands. `comparison` is `gradient-flow compare`, which `make demo` runs;
`short_training` trains its networks. `tyro_options` reads options, `memory` refuses sizes that do not fit,
and `exit_codes` ends a command in one line and a code; these three are for the experiments as well.

May import: every other room, `lstm_jax.training` and `lstm_jax.language`.
"""
