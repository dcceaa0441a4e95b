"""``python -m experiments.japanese_vowels``."""

from experiments.japanese_vowels.run import main
from gradient_flow.command_line.exit_codes import leave

leave(main())
