"""``python -m experiments.rnn_by_hand``."""

from experiments.rnn_by_hand.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
