"""`python -m compress_exp.report [outputs]`: the table of all runs there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compress_exp.report.summary import report


def main(arguments: list[str] | None = None) -> int:
    """Print and write the table; the exit code is 1 where there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="python -m compress_exp.report", description="The table of all finished runs."
    )
    parser.add_argument("outputs", nargs="?", default="outputs", type=Path, help="where the runs were written")
    args = parser.parse_args(arguments)
    try:
        return 0 if report(args.outputs) else 1
    except OSError as error:
        print(f"{error.filename or args.outputs}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
