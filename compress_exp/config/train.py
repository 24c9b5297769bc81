"""The training budget and its numerics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from compress_exp.config.checks import check_choice, check_number
from compress_exp.config.identity import settings


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training budget and its numerics.

    Attributes:
        epochs: passes over the training rows; ignored when `max_steps` is set.
        max_steps: optimiser steps; null counts by epochs, 0 trains nothing (post-training methods).
        learning_rate: peak of the schedule (linear warm-up, linear decay to zero).
        batch_size: rows per optimiser step.
        warmup: share of the steps in which the learning rate rises, in [0, 1].
        weight_decay: AdamW's, on matrices only.
        gradient_clip: largest norm of the gradient; 0 switches clipping off.
        precision: "f32" or "bf16" (autocast; weights stay in float32), which is slower on CPUs without bfloat16.
        threads: CPU threads of each process of training; null shares out all cores.
        devices: GPUs (CPU processes where there is none) that share the rows of every batch.
        buckets: group rows of similar length, so that little is padded.
        checkpoint_steps: steps between checkpoints; a killed run goes on from the last one.
        checkpoint_minutes: a checkpoint is also written after so many minutes.
    """

    epochs: float
    learning_rate: float
    batch_size: int
    max_steps: int | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    precision: str = "f32"
    threads: int | None = None
    devices: int = 1
    buckets: bool = True
    checkpoint_steps: int = 500
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, 0)
        check_number("learning_rate", self.learning_rate, 0, 1)
        check_number("batch_size", self.batch_size, 1)
        check_number("warmup", self.warmup, 0, 1)
        check_number("weight_decay", self.weight_decay, 0)
        check_number("gradient_clip", self.gradient_clip, 0)
        check_choice("precision", self.precision, ("f32", "bf16"))
        check_number("devices", self.devices, 1)
        check_number("checkpoint_steps", self.checkpoint_steps, 1)
        check_number("checkpoint_minutes", self.checkpoint_minutes, 0)
        if self.max_steps is not None:
            check_number("max_steps", self.max_steps, 0)
        if self.threads is not None:
            check_number("threads", self.threads, 1)

    @property
    def trains(self) -> bool:
        """Whether there is anything to train: `max_steps=0` and `epochs=0` mean post-training."""
        return self.epochs > 0 if self.max_steps is None else self.max_steps > 0

    def split(self, part: float) -> tuple[TrainConfig, TrainConfig]:
        """A part of the budget and the rest of it, each with the whole learning-rate schedule."""
        if self.max_steps is None:
            return replace(self, epochs=part * self.epochs), replace(self, epochs=(1 - part) * self.epochs)
        steps = round(part * self.max_steps)
        return replace(self, max_steps=steps), replace(self, max_steps=self.max_steps - steps)

    def identity(self) -> dict[str, Any]:
        """What decides the trained weights: everything but threads, devices and checkpoint intervals."""
        ignored = "epochs" if self.max_steps is not None else "max_steps"
        return settings(self, without={ignored, "threads", "devices", "checkpoint_steps", "checkpoint_minutes"})
