"""``python -m experiments.derivation_audit``."""

from experiments.derivation_audit.run import main
from gradient_flow.command_line.exit_codes import leave

leave(main())
