"""Vocabulary pruning: drop the entries that the task's training text never uses, with their rows of the embedding.

So Abdaoui, Pradel & Sigel (2020, arXiv:2010.05609) cut multilingual models to a few languages: row i of the embedding
stays if token i occurs at least `minimum_count` times, by default once.
The tokenizer goes along. A text that needs only kept entries is split as before, so that the model's outputs are the
same to the last bit (for a model that predicts tokens: over fewer of them); other words fall into smaller pieces,
single characters at worst. Cost: tokenizing the training rows twice; nothing trains unless a budget is given.
The embedded models gain nothing: their tokenizers are trained on that very text.
A model that predicts tokens has another perplexity afterwards, over fewer entries and perhaps other pieces.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from compress_exp.config.checks import check_number
from compress_exp.methods.base import Facts, Method
from compress_exp.methods.context import Context
from compress_exp.methods.parametrized import bake
from compress_exp.models.vocabulary import counts, shrink, smaller_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("compress_exp")


@dataclass(frozen=True, kw_only=True)
class VocabularyPruning(Method):
    """Keep what the training rows use.

    Attributes:
        minimum_count: occurrences below which an entry is dropped.
    """

    origin: ClassVar[str] = "prune/vocabulary"

    minimum_count: int = 1

    replaces_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("minimum_count", self.minimum_count, 1)

    def check(self, facts: Facts) -> Facts:
        """How many entries are left is not known before the text is read."""
        return replace(super().check(facts), vocabulary=None)

    def retokenize(
        self, tokenizer: PreTrainedTokenizerBase, features: Sequence[dict[str, Any]]
    ) -> PreTrainedTokenizerBase:
        """The smaller tokenizer."""
        used = counts(features)
        return smaller_tokenizer(tokenizer, (index for index, count in used.items() if count >= self.minimum_count))

    def insert(self, model: PreTrainedModel, spec: dict[str, Any], context: Context) -> PreTrainedModel:
        """Drop the rows."""
        before, after = len(context.parent_tokenizer.get_vocab()), len(context.tokenizer.get_vocab())
        log.info("%s: %d of %d entries are kept", self.name, after, before)
        bake(model)
        shrink(model, context.parent_tokenizer, context.tokenizer)
        return model
