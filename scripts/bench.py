"""`make bench`: measure the overlay on this machine; tables on standard output, JSON under build/bench."""

import sys

if __name__ == "__main__":
    from tests.bench.suite import main

    sys.exit(main())
