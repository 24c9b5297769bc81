"""What a killed training goes on from: when it is written, and that it is never half-written."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from compress_exp.config.train import TrainConfig
from compress_exp.outputs.progress import Beat
from compress_exp.parallel import ranks
from compress_exp.training.module import CompressionModule
from compress_exp.training.preemption import Preemption

log = logging.getLogger("compress_exp")
CHECKPOINT = "checkpoint.ckpt"


class AtomicFile(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and replaces it in one move; makes no directory.

    A directory that is gone was taken over together with its lease: the `FileNotFoundError` ends the training.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write, sync, replace."""
        temporary = Path(path).with_suffix(".tmp")
        with temporary.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)


class Checkpoint(Callback):
    """A checkpoint every so many steps or minutes, and when a signal asks for one.

    Args:
        path: of the file.
        budget: says how often.
        preemption: knows the signals.
        beat: told of every step, before its checkpoint; what it raises ends the training.
    """

    def __init__(self, path: Path, budget: TrainConfig, preemption: Preemption, beat: Beat) -> None:
        self.path, self.preemption, self.beat = path, preemption, beat
        self.steps, self.seconds = budget.checkpoint_steps, budget.checkpoint_minutes * 60
        self.last = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell the step; save if it is time; then do what signals ask. Rank 0 decides for all."""
        assert isinstance(pl_module, CompressionModule)
        if ranks.rank() == 0:
            self.beat(trainer.global_step, pl_module.total_steps)
        signals = self.preemption.take()
        late = self.seconds > 0 and time.monotonic() - self.last > self.seconds
        if ranks.from_zero(bool(signals) or late) or trainer.global_step % self.steps == 0:
            trainer.save_checkpoint(self.path)
            self.last = time.monotonic()
        self.preemption.answer(signals, trainer.global_step)


def checkpoint_step(path: Path) -> int:
    """The step that rank 0 finds in a checkpoint; 0 without one, or with a damaged one, which is removed."""
    return ranks.from_zero(_read_step(path) if ranks.rank() == 0 else 0)


def _read_step(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception as error:  # torch names no type for a damaged file
        log.warning("%s cannot be read (%s); training starts over", path, type(error).__name__)
        path.unlink()
        return 0
