"""Running Lightning so that a killed training goes on exactly where its last checkpoint was."""

from __future__ import annotations

import csv
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from tqdm import tqdm

from compress_exp.config import TrainConfig
from compress_exp.progress import Beat
from compress_exp.training.data import Batches
from compress_exp.training.module import CompressionModule

log = logging.getLogger("compress_exp")
CHECKPOINT = "checkpoint.ckpt"


class Checkpoint(Callback):
    """A checkpoint every so many steps or minutes, replaced in one move."""

    def __init__(self, path: Path, steps: int, minutes: float) -> None:
        self.path, self.steps, self.seconds = path, steps, minutes * 60
        self.last = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time."""
        late = self.seconds > 0 and time.monotonic() - self.last > self.seconds
        if trainer.global_step % self.steps == 0 or late:
            temporary = self.path.with_suffix(".tmp")
            trainer.save_checkpoint(temporary)
            os.replace(temporary, self.path)
            self.last = time.monotonic()


class Heart(Callback):
    """Tells the beat after every optimiser step."""

    def __init__(self, beat: Beat) -> None:
        self.beat = beat

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further."""
        assert isinstance(pl_module, CompressionModule)
        self.beat(trainer.global_step, pl_module.total_steps)


class Bar(Callback):
    """A progress bar over optimiser steps, on terminals only."""

    def __init__(self, label: str, total: int, start: int) -> None:
        self.bar = tqdm(
            desc=label, total=total, initial=start, unit="step", leave=False, disable=not sys.stderr.isatty()
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step further; the last noted loss beside it."""
        assert isinstance(pl_module, CompressionModule)
        self.bar.set_postfix(loss=f"{pl_module.history[-1]['loss']:.3f}", refresh=False)
        self.bar.update()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Clear the line."""
        self.bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Clear the line."""
        self.bar.close()


def fit(module: CompressionModule, batches: Batches, train: TrainConfig, directory: Path, label: str, beat: Beat) -> float:
    """Train to the end, from the checkpoint in `directory` if a killed run left one there.

    Args:
        module: what is trained; its `total_steps` are done.
        batches: of the whole training; their start is moved to the checkpoint's step.
        train: precision, clipping, threads, checkpoint intervals.
        directory: holds the checkpoint while it trains.
        label: for the progress bar.
        beat: called with (step, steps) after every step, before a checkpoint is written.

    Returns:
        Seconds spent here.
    """
    checkpoint = directory / CHECKPOINT
    batches.start = _checkpoint_step(checkpoint)
    if batches.start:
        log.info("%s: going on at step %d of %d", label, batches.start, module.total_steps)
    else:
        log.info("%-24s training, %d steps", label, module.total_steps)
    started = time.monotonic()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    callbacks = [
        Heart(beat),
        Checkpoint(checkpoint, train.checkpoint_steps, train.checkpoint_minutes),
        Bar(label, module.total_steps, batches.start),
    ]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        trainer = Trainer(
            max_steps=module.total_steps,
            max_epochs=-1,
            accelerator="auto",
            devices=train.devices,
            precision="bf16-mixed" if train.precision == "bf16" else "32-true",
            callbacks=callbacks,
            plugins=[LightningEnvironment()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=directory,
        )
        trainer.fit(module, batches, ckpt_path=checkpoint if batches.start else None, weights_only=True)
    return time.monotonic() - started


def _checkpoint_step(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:  # torch names no type for a damaged file
        log.warning("%s cannot be read (%s); training starts over", path, type(error).__name__)
        path.unlink()
        return 0


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """The curves as CSV: one row per noted step, no times."""
    columns = list(dict.fromkeys(name for row in history for name in row)) or ["step"]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows({name: f"{value:.9g}" for name, value in row.items()} for row in history)
