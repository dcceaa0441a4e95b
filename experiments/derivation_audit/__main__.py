"""``python -m experiments.derivation_audit``."""

import sys

from experiments.derivation_audit.run import main

sys.exit(main())
