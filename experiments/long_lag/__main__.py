"""``python -m experiments.long_lag``."""

import sys

from experiments.long_lag.run import main

sys.exit(main())
