"""``python -m experiments.char_lm``."""

from experiments.char_lm.run import main
from gradient_flow.command_line.exit_codes import leave

leave(main())
