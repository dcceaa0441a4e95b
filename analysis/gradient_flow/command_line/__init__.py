"""The command `gradient-flow`. Only this room imports tyro.

Start with `cli`: its subcommands. `comparison` is `gradient-flow compare`, which `make demo` runs;
`short_training` trains its networks. `tyro_options` reads options for the experiments as well.

May import: every other room, `lstm_jax.training` and `lstm_jax.language`.
"""
