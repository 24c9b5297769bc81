"""The command line: Hydra's overrides with our own driver, so that every mistake is answered in one sentence.

Not `hydra.main`: it prints tracebacks or hides them as a whole.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobStatus, run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from compress_exp.cli.help import help_text
from compress_exp.config.checks import UserError
from compress_exp.config.compose import loader_of
from compress_exp.config.explain import CONFIG_NAME, check_root, explain
from compress_exp.config.overrides import at_home, parse
from compress_exp.config.refusal import SweepFailed, refusal
from compress_exp.config.secrecy import hide
from compress_exp.outputs.files import make_outputs
from compress_exp.outputs.manifest import Identity

log = logging.getLogger("compress_exp")


TERMINATED = 128 + signal.SIGTERM
# What transformers says while it loads: new heads are expected, and damage is told by our own checks.
QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def identify(config: DictConfig) -> Identity:
    """What a configuration asks for, after all that can be checked of it on any host.

    Raises:
        UserError: one sentence.
    """
    from compress_exp.experiment.plan import identity, plan

    check_root(config)
    return identity(plan(config), config)


def be_quiet() -> None:
    """Silence libraries where the user's environment does not say otherwise; PyTorch looks when it is imported."""
    os.environ |= {name: os.environ.get(name, value) for name, value in QUIET.items()}


def task(config: DictConfig) -> dict[str, Any] | None:
    """One experiment; a failure is told at once, wherever the launcher runs it."""
    be_quiet()
    try:
        check_root(config)
        from compress_exp.run import run

        record: dict[str, Any] | None = run(config)
        return record
    except Exception as error:
        print(refusal(error) or hide("".join(traceback.format_exception(error))), file=sys.stderr, flush=True)
        raise


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `python -m compress_exp --help` shows how")


def parser() -> argparse.ArgumentParser:
    """The flags; everything else is an override."""
    flags = _Parser(prog="compress_exp", add_help=False)
    flags.add_argument("overrides", nargs="*", help="key=value for anything in the configuration")
    flags.add_argument("--help", "-h", action="store_true", help="this text")
    flags.add_argument("--multirun", "-m", action="store_true", help="a sweep: every combination of the values given")
    flags.add_argument("--cfg", "-c", choices=["job", "hydra", "all"], help="print the configuration, run nothing")
    flags.add_argument("--package", "-p", help="the part of it that --cfg prints")
    flags.add_argument("--resolve", action="store_true", help="with --cfg: interpolations resolved")
    flags.add_argument("--config-dir", "-cd", help="one more directory of configuration files, searched first")
    return flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 only if everything asked for was done."""
    be_quiet()
    try:
        args = parser().parse_intermixed_args(arguments)
        return _drive(args)
    except SweepFailed:
        return 1
    except (KeyboardInterrupt, SystemExit) as error:
        # Lightning turns the first into the second
        interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__context__, KeyboardInterrupt)
        if not interrupted and getattr(error, "code", None) != TERMINATED:
            raise
        word = "interrupted" if interrupted else "terminated"
        print(f"{word}: what is finished is kept, the same command goes on from there", file=sys.stderr)
        return 130 if interrupted else TERMINATED
    except Exception as error:
        sentence = refusal(error)
        if sentence is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(sentence, file=sys.stderr)
        return 1


def _drive(args: argparse.Namespace) -> int:
    loader = loader_of(args.config_dir)
    hydra = Hydra(task_name="compress_exp", config_loader=loader)
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    overrides = [at_home(item) for item in args.overrides]
    try:
        if args.help:
            print(help_text(loader.repository, parser()))
        elif args.cfg:
            hydra.show_cfg(CONFIG_NAME, overrides, args.cfg, args.package, args.resolve)
        elif args.multirun or _swept(hydra, overrides):
            hydra.multirun(CONFIG_NAME, task, overrides)
        else:
            return _single(hydra, overrides)
    except HydraException as error:
        raise explain(error, overrides, loader) from error
    finally:
        GlobalHydra.instance().clear()
    return 0


def _swept(hydra: Hydra, overrides: list[str]) -> bool:
    """Whether values to sweep are given without -m to an experiment that is a sweep by itself."""
    swept = any(item.is_sweep_override() for item in parse(overrides, hydra.config_loader))
    return swept and hydra.get_mode(CONFIG_NAME, overrides) is RunMode.MULTIRUN


def _single(hydra: Hydra, overrides: list[str]) -> int:
    """One run, or the sweep of an experiment; `Hydra.run` would add a line of its own to the sentence of a failure."""
    config = hydra.compose_config(CONFIG_NAME, overrides, RunMode.RUN, with_log_configuration=True)
    if config.hydra.mode is RunMode.MULTIRUN:
        hydra.multirun(CONFIG_NAME, task, overrides)
        return 0
    outputs = make_outputs(config.outputs)
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    job = run_job(task, config, "hydra.run.dir", None, context)
    if job.status is not JobStatus.COMPLETED:
        return 1
    if job.return_value is not None:
        from compress_exp.report.summary import report

        report(outputs, [job.return_value["run"]["id"]])
    return 0
