"""A word tokenizer, files, and predictors that need no training."""

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from compress_exp.config.build import build
from compress_exp.config.schema import CONF

CONFIGS = sorted((CONF / "task").glob("*.yaml"))


def task(name: str, /, **overrides: Any) -> Any:
    config = OmegaConf.to_container(OmegaConf.load(CONF / "task" / f"{name}.yaml"))
    return build(config | overrides, "task")


def write_jsonl(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def word_tokenizer(texts: list[str], framed: bool = True) -> PreTrainedTokenizerFast:
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    types = ["token_type_ids"] if framed else []
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        model_input_names=["input_ids", *types, "attention_mask"],
    )


class ModelPredictor:
    """A transformers model in evaluation mode."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model.eval(), model.config

    @torch.no_grad()
    def outputs(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inputs = {name: value for name, value in batch.items() if not name.startswith("labels")}
        return {name: value.float() for name, value in self.model(**inputs, use_cache=False).items()}


class UniformPredictor:
    """Equal logits for every token of a vocabulary."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.config = BertConfig(vocab_size=vocabulary, max_position_embeddings=512)

    def outputs(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": torch.zeros(*batch["input_ids"].shape, self.vocabulary)}
