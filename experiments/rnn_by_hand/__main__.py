"""``python -m experiments.rnn_by_hand``."""

import sys

from experiments.rnn_by_hand.run import main

sys.exit(main())
