"""``python -m experiments.japanese_vowels``."""

import sys

from experiments.japanese_vowels.run import main

sys.exit(main())
