"""`python -m compress_exp`: see `cli/main.py`."""

import sys

from compress_exp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
