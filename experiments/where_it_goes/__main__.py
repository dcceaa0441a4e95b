"""``python -m experiments.where_it_goes``."""

import sys

from experiments.where_it_goes.run import main

sys.exit(main())
