"""`python -m tests.bench`, from the top of the project."""

import sys

from tests.bench.suite import main

sys.exit(main())
