"""The benchmarks are not in the wheel; where they are, they import from the checkout's root."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
collect_ignore_glob = []
if (CHECKOUT / "benchmarks" / "race.py").is_file():
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))
else:
    collect_ignore_glob.append("test_*.py")
