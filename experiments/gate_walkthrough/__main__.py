"""``python -m experiments.gate_walkthrough``."""

from experiments.gate_walkthrough.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
