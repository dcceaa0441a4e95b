"""``python -m experiments.readout_bias``."""

import sys

from experiments.readout_bias.run import main

sys.exit(main())
