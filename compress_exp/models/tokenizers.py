"""Tokenizers for the embedded models, trained on the task's text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def train_tokenizer(model_type: str, vocabulary: int, texts: Iterator[str], max_length: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the special tokens of an architecture.

    Args:
        model_type: "bert" and "albert" frame texts with [CLS] and [SEP], "bart" with <s> and </s>, "t5" ends them
            with </s>, "gpt2" adds nothing.
        vocabulary: the largest number of entries.
        texts: training text; the same text gives the same tokenizer.
        max_length: tokens, stored as the tokenizer's own limit.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = {
        "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<pad>"},
        "t5": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        "bart": {
            "bos_token": "<s>",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "cls_token": "<s>",
            "sep_token": "</s>",
        },
    }.get(model_type, {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"})
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
    if model_type == "t5":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
        )
    elif model_type != "gpt2":
        first, last = special["cls_token"], special["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in (first, last)],
        )
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if model_type in ("bert", "albert") else [])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=inputs,
        clean_up_tokenization_spaces=False,
        **special,
    )
