"""``python -m experiments.char_lm``."""

import sys

from experiments.char_lm.run import main

sys.exit(main())
