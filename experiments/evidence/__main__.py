"""``python -m experiments.evidence``."""

from experiments.evidence.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
