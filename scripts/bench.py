"""`make bench`: measure the overlay on this machine; tables on standard output, JSON under build/bench."""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])  # `tests` is found from the top of the project
    os.execv(sys.executable, [sys.executable, "-m", "tests.bench", *sys.argv[1:]])  # noqa: S606 - no shell is wanted
