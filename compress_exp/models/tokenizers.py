"""Tokenizers for the embedded models, trained on the task's text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from compress_exp.models.families.base import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def train_tokenizer(text: Text, vocabulary: int, texts: Iterator[str], max_length: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the special tokens of an architecture.

    Args:
        text: of its family: special tokens, and which of them frame a text.
        vocabulary: the largest number of entries.
        texts: training text; the same text gives the same tokenizer.
        max_length: tokens, stored as the tokenizer's own limit.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = text.special
    names = list(dict.fromkeys(special.values()))

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if text.closes is not None:
        last = special[text.closes]
        first = special[text.opens] if text.opens is not None else None
        begin = f"{first} " if first else ""
        types = ":1" if text.opens is not None else ""
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin}$A {last}",
            pair=f"{begin}$A {last} $B{types} {last}{types}",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in (first, last) if name is not None],
        )
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if text.segments else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=inputs,
        clean_up_tokenization_spaces=False,
        **special,
    )
