"""TinyBERT (Jiao et al. 2019, arXiv:1909.10351): first the teacher's layers, then its predictions, in two stages.

Body: hidden states (equation 8, embeddings among them) and attention scores (equation 7) of the teacher at every
mapped layer, no labels and no logits. Prediction: the cross-entropy of the logits with the teacher's at temperature 1
(equation 10), as KL, whose gradient is the same. Each stage has its own learning-rate schedule and artifact.
Deviations: the student is made of the teacher's layers, where the paper pre-trains one (a directory or
`+model@method.distill.student` gives such a one); no data augmentation. Defaults: three quarters of the budget for the
body (of 13 epochs the paper spends 10 on it).
Cost: see the losses `attention` and `hidden`; the teacher's forward pass in each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compress_exp.config.checks import FieldError, check_number
from compress_exp.losses.base import Loss
from compress_exp.methods.base import Method
from compress_exp.methods.distill.student import Student
from compress_exp.methods.finetune import Finetune


@dataclass(frozen=True, kw_only=True)
class TinyBert(Student):
    """A student that learns layers, then predictions.

    Attributes:
        body: the share of the budget that the layers get, in (0, 1).
        prediction: what the second stage minimises, by name; `loss` is the first one's.
    """

    origin: ClassVar[str] = "distill/tinybert"

    prediction: dict[str, Loss]
    body: float = 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("body", self.body, 0.01, 0.99)
        if not all(part.trains for part in self.train.split(self.body)):
            raise FieldError("train", "both stages need training; set max_steps to 2 or more, or epochs above 0")

    def expand(self) -> tuple[Method, ...]:
        """The student with the losses of layers, then the same student with those of predictions."""
        body, rest = self.train.split(self.body)
        student = Student(
            name=f"{self.name}/body",
            train=body,
            select=self.select,
            loss=self.loss,
            recovery=self.recovery,
            student=self.student,
            layers=self.layers,
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers,
        )
        finish = Finetune(name=f"{self.name}/prediction", train=rest, loss=self.prediction, recovery=self.recovery)
        return student, finish
