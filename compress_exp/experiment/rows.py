"""What a stage reads of its parent and of the task, before any weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_exp.experiment.plan import Plan
from compress_exp.experiment.prepare import told_at
from compress_exp.experiment.stages import Stage
from compress_exp.tasks.files import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def read_rows(
    plan: Plan, stage: Stage, parent: Path
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase, Any, list[Row]]:
    """The parent's tokenizer, the stage's, the parent's configuration, and the training features of the stage."""
    from transformers import AutoConfig, AutoTokenizer

    before: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(parent)
    tokenizer, config = before, AutoConfig.from_pretrained(parent)
    features = plan.task.features("train", before, config)
    for key, method in zip(stage.keys, stage.methods, strict=True):
        with told_at(f"method.{key}"):
            tokenizer = method.retokenize(tokenizer, features)
    if tokenizer is not before:
        features = plan.task.features("train", tokenizer, config)
    return before, tokenizer, config, features
