"""What a method is given: what a stage lets it use, and the moment of a hook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compress_exp.config.checks import UserError
from compress_exp.models.families.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compress_exp.tasks.base import Task


def _no_model() -> PreTrainedModel:
    raise UserError("this context has no other model to load")


def _no_rows(count: int) -> list[dict[str, Tensor]]:
    raise UserError("this context has no rows to calibrate on")


@dataclass(frozen=True)
class Context:
    """What a method may use beside the model.

    Attributes:
        family: its architecture.
        task: gives targets and collates rows.
        tokenizer: what the result of the stage reads with.
        parent_tokenizer: what the model reads with before the stage; the same unless a method changes it.
        seed: of everything random.
        device: where the model is.
        steps: optimiser steps of one training of the stage; 0 where nothing trains.
        baseline: loads the dense model.
        pretrained: loads what the baseline began from.
        dtype: of the parent's weights. A stage computes in float32 and rounds to it in the end.
        calibration: gives so many batches of 32 seeded training rows; of several ranks each sees its own rows.
    """

    family: Family
    task: Task
    tokenizer: PreTrainedTokenizerBase
    parent_tokenizer: PreTrainedTokenizerBase
    seed: int = 0
    device: torch.device = torch.device("cpu")
    steps: int = 0
    dtype: torch.dtype = torch.float32
    baseline: Callable[[], PreTrainedModel] = _no_model
    pretrained: Callable[[], PreTrainedModel] = _no_model
    calibration: Callable[[int], list[dict[str, Tensor]]] = _no_rows


@dataclass(frozen=True)
class Work:
    """What a hook is given at one moment of a stage.

    Attributes:
        model: with all that the methods of the stage inserted; on it alone a method keeps state.
        context: what may be used beside it.
        progress: the method's own, from 0 to exactly 1.
        step: the optimiser step, counted from 0 over all trainings of the stage.
        rate: the learning rate of that step.
    """

    model: PreTrainedModel
    context: Context
    progress: float = 1.0
    step: int = 0
    rate: float = 0.0
