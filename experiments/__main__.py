"""``python -m experiments`` is the console script ``zoo``."""

import sys

from experiments.cli import main

if __name__ == "__main__":
    sys.exit(main())
