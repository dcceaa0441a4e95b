"""``python -m experiments.japanese_vowels``."""

from experiments.japanese_vowels.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
