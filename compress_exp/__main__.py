"""`python -m compress_exp`: see `cli.py`."""

import sys

from compress_exp.cli import main

if __name__ == "__main__":
    sys.exit(main())
