"""A smaller student that learns from the dense model (Hinton et al. 2015; DistilBERT, Sanh et al. 2019,
arXiv:1910.01108; DistilBART, Shleifer & Rush 2020, arXiv:2010.13002).

The student is the parent with fewer layers, started from its layers round(linspace(0, L − 1, k)), which are
DistilBERT's [0, 2, 4, 7, 9, 11] for 12 → 6 and DistilBART's [0, 6, 11] for 12 → 3; or another checkpoint.
Cost: a forward pass of the teacher per step; no extra memory but the teacher's weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from compress_exp.config.checks import FieldError, check_number
from compress_exp.layers.blocks import with_layers
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Context
from compress_exp.methods.parametrized import bake
from compress_exp.models.families.base import Family, block_sizes, input_widths, layer_counts
from compress_exp.models.loading import Model, read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def kept_layers(depth: int, count: int) -> list[int]:
    """Which of `depth` layers a student of `count` layers starts from: round(linspace(0, depth − 1, count))."""
    return [int(index) for index in np.round(np.linspace(0, depth - 1, count))]


def fewer_layers(model: PreTrainedModel, family: Family, counts: dict[str, int]) -> PreTrainedModel:
    """A copy of the model with fewer layers per stack, every remaining weight equal to the last bit.

    Args:
        model: the teacher, or a pruned parent (marks of pruned weights and uneven shapes are kept).
        family: its architecture.
        counts: layers of each stack of the copy.

    Raises:
        FieldError: the model has fewer layers than that.
    """
    depths = layer_counts(model.config, family)
    for name, count in counts.items():
        if count > depths[name]:
            raise FieldError("layers", f"{count} layers are more than the {depths[name]} of the {name}")
    return with_layers(model, family, {name: kept_layers(depths[name], count) for name, count in counts.items()})


@dataclass(frozen=True, kw_only=True)
class Student(Method):
    """Train a student with fewer layers, or another checkpoint.

    Attributes:
        student: null for the parent's own layers, a directory of weights, or `+model@method.distill.student=…`.
        layers: layers of the student, of every stack; null takes half.
        encoder_layers: the encoder's, where it is to differ.
        decoder_layers: the decoder's, where it is to differ.
    """

    origin: ClassVar[str] = "distill/student"

    student: Model | str | None = None
    layers: int | None = None
    encoder_layers: int | None = None
    decoder_layers: int | None = None

    replaces_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers", "encoder_layers", "decoder_layers"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 1)

    @property
    def starts_from(self) -> str:
        """Its parent's layers, or a model of its own."""
        return "parent" if self.student is None else "other"

    @property
    def checkpoint(self) -> Model | None:
        """The student's own checkpoint, if it has one."""
        if isinstance(self.student, str):
            return Model(name=self.student.rstrip("/").rpartition("/")[2], path=self.student)
        return self.student

    def identity(self) -> dict[str, Any]:
        """As every method's; a checkpoint counts by its content."""
        content = super().identity()
        content["student"] = self.checkpoint.identity() if self.checkpoint else None
        return content

    def counts(self, layers: dict[str, int]) -> dict[str, int]:
        """The student's layers per stack, given the parent's."""
        own = {"encoder": self.encoder_layers, "decoder": self.decoder_layers}
        return {name: own[name] or self.layers or max(1, depth // 2) for name, depth in layers.items()}

    def check(self, facts: Facts) -> Facts:
        """The student has at most the parent's layers; its own checkpoint must be readable and alone."""
        after = super().check(facts)
        if self.checkpoint is not None:
            if not facts.first:
                raise FieldError("student", "a student of its own replaces what came before; put it first")
            self.checkpoint.check("method.distill.student")
            config = read_config(self.checkpoint, "method.distill.student")
            family = self.checkpoint.family("method.distill.student")
            if family.kind != facts.family.kind:
                raise FieldError("student", f"{self.checkpoint.name} is no {facts.family.kind} as the teacher is")
            if facts.vocabulary not in (None, config.vocab_size):
                raise FieldError(
                    "student",
                    f"{self.checkpoint.name} has {config.vocab_size} tokens and the teacher {facts.vocabulary}; "
                    "take a student with the same tokenizer",
                )
            heads, neurons = block_sizes(config, family)
            after = replace(after, heads=heads, neurons=neurons, widths=input_widths(config, family))
            queries = family.heads.queries(config)
            return replace(after, family=family, layers=layer_counts(config, family), queries=queries)
        counts = self.counts(facts.layers)
        for name in ("encoder", "decoder"):
            if name not in facts.layers and getattr(self, f"{name}_layers") is not None:
                raise FieldError(f"{name}_layers", f"this model has no {name}; use layers")
        for name, count in counts.items():
            if count > facts.layers[name]:
                key = f"{name}_layers" if getattr(self, f"{name}_layers") else "layers"
                raise FieldError(key, f"{count} layers are more than the {facts.layers[name]} of the teacher's {name}")
        return replace(after, layers=counts)

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """The student, untrained."""
        if self.checkpoint is None:
            bake(model)
            layers = layer_counts(model.config, context.family)
            student = fewer_layers(model, context.family, self.counts(layers))
            return student.to(context.device)  # type: ignore[arg-type]
        tokenizer = self.checkpoint.tokenizer(context.task)
        if tokenizer.get_vocab() != context.tokenizer.get_vocab():
            raise FieldError(
                "student",
                f"{self.checkpoint.name} has another vocabulary than the teacher; take a student with the same "
                "tokenizer",
            )
        return self.checkpoint.load(context.task, tokenizer, context.seed).to(context.device)  # type: ignore[arg-type]
