"""What `python -m compress_exp --help` prints. Not Hydra's: composing and copying for it takes longer than a second."""

from __future__ import annotations

import argparse
import textwrap

from compress_exp.config.overrides import Listing, options
from compress_exp.config.schema import GROUPS

TEXT = """\
compress_exp: compress transformer language models, and measure what was exported.

A run takes a model, a task and one or more methods, exports the compressed model, loads it again in a fresh process and
records its quality, size and speed beside those of the dense model. A sweep (-m) is a grid of runs and ends in a table.

Choices (group=option):

{choices}

Examples:

  python -m compress_exp -m method=prune,quant,distill            the demo: three methods on the embedded data
  python -m compress_exp method=prune method.prune.sparsity=0.9   one method, one setting
  python -m compress_exp method=[distill,quant]                   a pipeline, in the order written
  python -m compress_exp -m 'method=quant,[distill,quant]'        lists and single names in one sweep
  python -m compress_exp -m 'method=glob(quant/*)'                all variants of a family
  python -m compress_exp -m method=prune method.prune.sparsity=0.5,0.8 seed=0,1,2
  python -m compress_exp method=prune loss=soft_targets           learn from the dense model while recovering
  python -m compress_exp task=classification task.data_dir=mine   own data: mine/train.jsonl, mine/validation.jsonl
  python -m compress_exp model=minilm model.path=DIRECTORY task=sst2 task.data_dir=DIRECTORY method=quant
  python -m compress_exp method=quant plan=true                   what would be built, what is there already
  python -m compress_exp -m method=prune,quant seed=0,1,2 hydra/launcher=local_processes   several at once
  python -m compress_exp -m hydra/sweeper=optuna 'method.prune.sparsity=interval(0.2,0.9)' a search in place of a grid

Everything in the configuration can be set as key=value; `--cfg job` prints it for the choices given.
Results lie in outputs/; the same command again goes on where the last one stopped.
`python -m compress_exp.report` prints the table of everything there, `.status` what is finished, running, failed or
missing, `.clean` what nothing needs any more.

Flags:

{flags}
"""


def help_text(listing: Listing, parser: argparse.ArgumentParser) -> str:
    """The help, with the choices that there are.

    Args:
        listing: knows the options of a group.
        parser: knows the flags.
    """
    lines = [(group, ", ".join(sorted(options(group, listing), key=_order))) for group in (*GROUPS, "experiment")]
    wrap = textwrap.TextWrapper(120, initial_indent="  ", subsequent_indent=" " * 14, break_on_hyphens=False)
    choices = "\n".join(wrap.fill(f"{group + ':':<12}{names}") for group, names in lines if names)
    actions = [action for action in parser._actions if action.option_strings]
    flags = "\n".join(f"  {', '.join(reversed(action.option_strings)):<20}{action.help}" for action in actions)
    return TEXT.format(choices=choices, flags=flags)


def _order(name: str) -> tuple[str, bool, str]:
    """A family before its variants."""
    return name.partition("/")[0], "/" in name, name
