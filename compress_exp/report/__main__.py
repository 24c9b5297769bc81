"""`python -m compress_exp.report [outputs] [--task TASK …] [--open]`: tables and page of all runs there."""

from __future__ import annotations

import argparse
import sys
import webbrowser

from compress_exp.config.arguments import add_outputs
from compress_exp.report.summary import report


def main(arguments: list[str] | None = None) -> int:
    """Print the table, write tables and page; the exit code is 1 where there is nothing to report."""
    parser = argparse.ArgumentParser(
        prog="python -m compress_exp.report", description="Tables and a page of all finished runs."
    )
    add_outputs(parser)
    parser.add_argument("--task", action="append", metavar="TASK", help="only this task; may be given several times")
    parser.add_argument("--open", action="store_true", help="show the page in a browser")
    args = parser.parse_args(arguments)
    try:
        paths = report(args.outputs, tasks=args.task)
    except OSError as error:
        print(f"{error.filename or args.outputs}: {error.strerror}", file=sys.stderr)
        return 1
    if args.open and paths and not webbrowser.open(paths[-1].resolve().as_uri()):
        print(f"no browser can be started here; open {paths[-1]} in one", file=sys.stderr)
    return 0 if paths else 1


if __name__ == "__main__":
    sys.exit(main())
