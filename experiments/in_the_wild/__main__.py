"""``python -m experiments.in_the_wild``."""

from experiments.in_the_wild.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
