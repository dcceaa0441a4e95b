"""``python -m gradient_flow`` is the command ``gradient-flow``."""

import sys

from gradient_flow.command_line.cli import main

if __name__ == "__main__":
    sys.exit(main())
