"""``python -m experiments.derivation_audit``."""

from experiments.derivation_audit.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
