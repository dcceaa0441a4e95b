"""``python -m experiments.ptb``."""

import sys

from experiments.ptb.run import main

sys.exit(main())
