"""``python -m experiments.gate_walkthrough``."""

import sys

from experiments.gate_walkthrough.run import main

sys.exit(main())
