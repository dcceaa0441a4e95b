"""``python -m experiments.rnn_by_hand``."""

from experiments.rnn_by_hand.run import main
from gradient_flow.command_line.exit_codes import leave

leave(main())
