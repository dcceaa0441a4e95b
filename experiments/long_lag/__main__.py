"""``python -m experiments.long_lag``."""

from experiments.long_lag.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
