"""`python -m compress_exp.dashboard [--dry-run | --push] [tracking.project=… outputs=…]`: W&B's views of all runs.

Without a flag a saved workspace and a report are made in the project that `tracking=wandb` is configured with, or
brought up to date.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from compress_exp.tracking.wandb import WandbTracking


def main(arguments: Sequence[str] | None = None) -> int:
    """Save both views, print them, or send runs; the exit code is 1 where something was not done."""
    parser = argparse.ArgumentParser(
        prog="python -m compress_exp.dashboard",
        description="A workspace and a report of all runs in Weights & Biases; made once, then brought up to date. "
        "What was changed in them by hand is replaced: copy them to keep it.",
    )
    parser.add_argument(
        "overrides", nargs="*", help="such as tracking.project=mine, tracking.entity=team, outputs=DIRECTORY"
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--dry-run", action="store_true", help="print both as JSON; needs no key and no network")
    either.add_argument("--push", action="store_true", help="send the runs that W&B lacks, from their records")
    args = parser.parse_intermixed_args(arguments)

    from compress_exp.config.refusal import refusal

    try:
        tracking, config = _settings(args.overrides)
        if args.push:
            from compress_exp.dashboard.push import push

            found = push(tracking, config)
            print(f"{found.sent} runs were sent, {found.failed} were not, {found.there} were there")
            return 1 if found.failed else 0
        from compress_exp.dashboard.save import preview, save

        print(preview(tracking) if args.dry_run else save(tracking, Path(config.outputs)))
        return 0
    except Exception as error:
        sentence = refusal(error)
        if sentence is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(sentence, file=sys.stderr)
        return 1


def _settings(overrides: Sequence[str]) -> tuple[WandbTracking, DictConfig]:
    """The tracker that is configured, and all of the configuration."""
    from hydra import compose, initialize_config_dir

    from compress_exp.config.build import build
    from compress_exp.config.checks import UserError
    from compress_exp.config.schema import CONF
    from compress_exp.tracking.wandb import WandbTracking

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides))
    tracking = build(config.tracking, "tracking")
    if not isinstance(tracking, WandbTracking):
        raise UserError("tracking: a dashboard is one of Weights & Biases; choose tracking=wandb")
    return tracking, config


if __name__ == "__main__":
    sys.exit(main())
