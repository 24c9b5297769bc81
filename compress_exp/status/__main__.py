"""`python -m compress_exp.status [outputs] [--watch [SECONDS]]`: what is finished, running, failed and missing.

The exit code is 0 whatever became of the runs (Ctrl-C ends `--watch` with 0 as well), and 1 where there is no such
directory.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from compress_exp.config.arguments import add_outputs
from compress_exp.status.show import render
from compress_exp.status.sweeps import look

WIDE = 160


def main(arguments: list[str] | None = None) -> int:
    """Print the state once, or again and again."""
    parser = argparse.ArgumentParser(
        prog="python -m compress_exp.status", description="What is finished, running, failed and missing."
    )
    add_outputs(parser)
    parser.add_argument(
        "--watch",
        nargs="?",
        const=2.0,
        type=float,
        metavar="SECONDS",
        help="on a terminal: refresh it (every 2 s) until Ctrl-C",
    )
    args = parser.parse_args(arguments)
    if args.watch is not None and not args.watch > 0:
        parser.error("--watch: a number of seconds above 0 is needed")
    # a pipe or a log file has no width, and takes wide lines
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE, highlight=False)
    try:
        if args.outputs.is_dir():
            if args.watch is not None and console.is_terminal:
                watch(args.outputs, args.watch, console)
            else:
                console.print(render(look(args.outputs)))
            return 0
        print(f"{args.outputs}: there is no such directory; give the one that is written to", file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or args.outputs}: {error.strerror}", file=sys.stderr)
    return 1


def watch(outputs: Path, seconds: float, console: Console) -> None:
    """Show the state on the whole terminal until Ctrl-C, which leaves the last one behind."""
    last = render(look(outputs))
    try:
        with Live(last, console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(seconds)
                last = render(look(outputs))
                live.update(last, refresh=True)
    except KeyboardInterrupt:
        console.print(last)


if __name__ == "__main__":
    sys.exit(main())
