"""``python -m experiments.readout_bias``."""

from experiments.readout_bias.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
