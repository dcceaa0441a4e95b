"""``python -m experiments.where_it_goes``."""

from experiments.where_it_goes.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
