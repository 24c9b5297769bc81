"""Running Lightning so that a killed training goes on exactly where its last checkpoint was."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from tqdm import tqdm

from compress_exp.config.train import TrainConfig
from compress_exp.layers.bf16 import kernels_available
from compress_exp.outputs.progress import Beat, unheard
from compress_exp.parallel import ranks
from compress_exp.training.checkpoint import CHECKPOINT, AtomicFile, Checkpoint, checkpoint_step
from compress_exp.training.data import Batches
from compress_exp.training.module import CompressionModule
from compress_exp.training.preemption import Preemption

log = logging.getLogger("compress_exp")
TELL_SECONDS = 60.0


class Bar(Callback):
    """A progress bar over optimiser steps; where there is no terminal, a line a minute."""

    def __init__(self, label: str, total: int, start: int) -> None:
        terminal, first = sys.stderr.isatty(), ranks.rank() == 0
        hidden = not (terminal and first)
        self.bar = tqdm(desc=label, total=total, initial=start, unit="step", leave=False, disable=hidden)
        self.label, self.total, self.tells, self.told = label, total, first and not terminal, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further; the last noted loss beside it."""
        assert isinstance(pl_module, CompressionModule)
        loss = pl_module.history[-1]["loss"]
        self.bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self.bar.update()
        if self.tells and time.monotonic() - self.told >= TELL_SECONDS:
            log.info("%-24s step %d of %d, loss %.3f", self.label, trainer.global_step, self.total, loss)
            self.told = time.monotonic()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the line."""
        self.bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Clear the line."""
        self.bar.close()


class OurProcesses(LightningEnvironment):
    """The ranks that are running already, one device each; Lightning starts none and asks no scheduler."""

    @property
    def creates_processes_externally(self) -> bool:
        """Always."""
        return True

    def local_rank(self) -> int:
        """All of them are on this host."""
        return ranks.rank()


def fit(
    module: CompressionModule,
    batches: Batches,
    train: TrainConfig,
    directory: Path,
    label: str,
    beat: Beat = unheard,
) -> float:
    """Train to the end, from the checkpoint in `directory` if a killed run left one there.

    Args:
        module: what is trained; its `total_steps` are done.
        batches: of the whole training; their start is moved to the checkpoint's step.
        train: precision, clipping, checkpoint intervals.
        directory: holds the checkpoint while it trains.
        label: for the progress bar.
        beat: called on rank 0 after every step.

    Returns:
        Seconds spent here.

    Raises:
        KeyboardInterrupt: SIGINT came; the checkpoint is written.
        SystemExit: SIGTERM or SIGUSR2 came and nobody else deals with it; the checkpoint is written.
    """
    checkpoint = directory / CHECKPOINT
    batches.start = checkpoint_step(checkpoint)
    if batches.start:
        log.info("%s: going on at step %d of %d", label, batches.start, module.total_steps)
    else:
        log.info("%-24s training, %d steps", label, module.total_steps)
    started = time.monotonic()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with Preemption() as preemption, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
        bar = Bar(label, module.total_steps, batches.start)
        trainer = _trainer(module, train, directory, [Checkpoint(checkpoint, train, preemption, beat), bar])
        if train.precision == "bf16" and trainer.strategy.root_device.type == "cpu" and not kernels_available():
            log.warning("train.precision: bf16 is slower than float32 on this CPU, which has to emulate it; set f32")
        try:
            trainer.fit(module, batches, ckpt_path=checkpoint if batches.start else None, weights_only=True)
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns the one into the other
                raise KeyboardInterrupt from error
            raise
    return time.monotonic() - started


def _trainer(module: CompressionModule, train: TrainConfig, directory: Path, callbacks: list[Callback]) -> Trainer:
    many = ranks.world() > 1
    # Unused parameters are looked for in any case: buckets then stay as they are, and with them, in a resumed
    # training, the order in which floating point numbers are added. Buffers follow from what is reduced.
    many_strategy = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
    trainer = Trainer(
        max_steps=module.total_steps,
        max_epochs=-1,
        accelerator="cpu" if many and not torch.cuda.is_available() else "auto",
        devices=ranks.world(),
        strategy=many_strategy if many else "auto",
        precision="bf16-mixed" if train.precision == "bf16" else "32-true",
        callbacks=callbacks,
        plugins=[OurProcesses() if many else LightningEnvironment(), AtomicFile()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
    )
    # Lightning's own handler of SIGTERM would end the training without a checkpoint.
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    return trainer


def _nothing() -> None:
    pass
