"""``python -m experiments.ptb``."""

from experiments.ptb.run import main
from gradient_flow.command_line.exit_codes import leave

leave(main())
