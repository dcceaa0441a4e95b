"""``python -m experiments.ptb``."""

from experiments.ptb.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
