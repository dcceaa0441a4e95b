"""``python -m experiments.course_questions``."""

from experiments.course_questions.run import main
from lstm_jax.command_line.exit_codes import leave

leave(main())
