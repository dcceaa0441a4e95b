"""``python -m experiments.char_lm``."""

from experiments.char_lm.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
