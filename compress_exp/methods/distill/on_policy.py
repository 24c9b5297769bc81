"""Generalised distillation on the student's own samples (GKD: Agarwal et al. 2023, arXiv:2306.13649).

With probability λ a batch's targets are replaced by what the student itself says, sampled at temperature 1 without
gradients, and the teacher is asked about those: so a student is corrected where its own mistakes lead it. A language
model continues the first half of each window, a sequence-to-sequence model answers each source. Samples have no hard
labels: only losses that compare with the teacher are allowed. Defaults: λ = 0.5, the divergence of the loss
`soft_targets` at temperature 1. Deviation: of the paper's divergences the forward one, KL(teacher ‖ student), is here.
Cost: one generation of the targets' length in a share λ of the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from compress_exp.config.checks import FieldError, check_number
from compress_exp.methods.base import Facts
from compress_exp.methods.calibration import evaluating
from compress_exp.methods.context import Work
from compress_exp.methods.distill.student import Student
from compress_exp.models.forward import IGNORED
from compress_exp.parallel import seeds

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def continued(model: PreTrainedModel, batch: dict[str, Tensor], padding: int) -> dict[str, Tensor]:
    """Windows of a language model whose second half the model has said itself; rows with padding stay as they are.

    Args:
        model: in evaluation mode; its random numbers are those of the process.
        batch: `input_ids`, `attention_mask`, `labels`, all (rows, length).
        padding: the tokenizer's id.
    """
    whole, length = batch["attention_mask"].bool().all(1), batch["input_ids"].shape[1]
    prompt = length // 2
    if not bool(whole.any()) or not prompt:
        return batch
    ids = batch["input_ids"].clone()
    asked, new = ids[whole, :prompt], length - prompt
    ids[whole] = _generate(model, asked, torch.ones_like(asked), new, padding, forced=True)
    labels = batch["labels"].clone()
    labels[whole, prompt:] = ids[whole, prompt:]
    return batch | {"input_ids": ids, "labels": labels}


def answered(model: PreTrainedModel, batch: dict[str, Tensor], padding: int) -> dict[str, Tensor]:
    """Sources with the targets that the model gives itself, at most as long as the given ones.

    Args:
        model: in evaluation mode; its random numbers are those of the process.
        batch: `input_ids` and `attention_mask` (rows, length), `labels` (rows, target length).
        padding: the tokenizer's id.
    """
    new = batch["labels"].shape[1]
    said = _generate(model, batch["input_ids"], batch["attention_mask"], new, padding, forced=False)[:, 1:]
    end = said == model.config.eos_token_id
    after = end.cumsum(1) - end.long() > 0  # behind the first end
    return batch | {"labels": said.masked_fill(after, IGNORED)}


def _generate(
    model: PreTrainedModel,
    ids: Tensor,  # (rows, length)
    mask: Tensor,  # (rows, length)
    new: int,
    padding: int,
    forced: bool,
) -> Tensor:  # (rows, length + new), or of a decoder (rows, 1 + at most new)
    found: Tensor = model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=mask,
        min_new_tokens=new if forced else None,
        max_new_tokens=new,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_beams=1,
        pad_token_id=padding,
    )
    return found


@dataclass(frozen=True, kw_only=True)
class OnPolicy(Student):
    """A student that learns from the teacher on what it says itself.

    Attributes:
        share: λ, the probability that a step learns from samples, in [0, 1].
    """

    origin: ClassVar[str] = "distill/on_policy"

    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("share", self.share, 0, 1)
        if self.loss is None:
            raise FieldError("loss", "it needs losses of its own that compare with the teacher, such as soft_targets")
        for name, loss in self.loss.items():
            if loss.uses_labels:
                raise FieldError(f"loss.{name}", "samples have no labels; take one that asks the teacher alone")

    def check(self, facts: Facts) -> Facts:
        """Only what generates has samples."""
        if facts.family.kind == "encoder":
            raise FieldError("", "an encoder says nothing of its own; take a model that generates")
        return super().check(facts)

    def batch(self, work: Work, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows of the task, or the student's own samples; all ranks decide alike."""
        drawn = seeds.derived(work.context.seed, "on_policy", work.step) / 2**56
        if drawn >= self.share:
            return batch
        say = answered if work.model.config.is_encoder_decoder else continued
        padding = work.context.tokenizer.pad_token_id
        with evaluating(work.model):
            return say(work.model, batch, int(work.model.config.eos_token_id if padding is None else padding))
