"""``python -m experiments.which_lags``."""

from experiments.which_lags.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
