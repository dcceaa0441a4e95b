"""``python -m experiments.where_it_goes``."""

from experiments.where_it_goes.run import main
from gradient_flow.command_line.exit_codes import leave

leave(main())
