"""Loads artifacts through transformers' own Auto classes and compares logits; run by test_contract.py.

Ordinary architectures first, as long as nothing of ours is imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

torch.set_num_threads(1)
AUTO = {
    "ForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "LMHeadModel": transformers.AutoModelForCausalLM,
    "ForCausalLM": transformers.AutoModelForCausalLM,
    "ForConditionalGeneration": transformers.AutoModelForSeq2SeqLM,
}


def reloaded(directory: Path) -> tuple[Any, dict[str, Tensor]]:
    """The model, and the batch that its logits are wanted for."""
    architecture = json.loads((directory / "config.json").read_text())["architectures"][0]
    auto = next(auto for ending, auto in AUTO.items() if architecture.endswith(ending))
    model = auto.from_pretrained(directory)
    ids = torch.arange(1, 25).view(2, 12) * 7 % (model.config.vocab_size - 5) + 5
    return model.eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.flip(1)}


def difference(logits: Tensor, entry: dict[str, Any]) -> float:
    """The largest."""
    return float((logits.float() - torch.tensor(entry["logits"])).abs().max())


entries = {file.name: json.loads(file.read_text()) for file in sorted(Path(sys.argv[1]).glob("*.json"))}
differences = {}
for name, entry in entries.items():
    if entry["plain"]:
        model, batch = reloaded(Path(entry["path"]))
        if not model.config.is_encoder_decoder:
            del batch["labels"]
        with torch.no_grad():
            differences[name] = difference(model(**batch).logits, entry)
assert not [name for name in sys.modules if name.partition(".")[0] == "compress_exp"]

import compress_exp.hf  # noqa: E402, F401
from compress_exp.models.forward import forward_logits  # noqa: E402

for name, entry in entries.items():
    if not entry["plain"]:
        model, batch = reloaded(Path(entry["path"]))
        with torch.no_grad():
            differences[name] = difference(forward_logits(model, batch), entry)
print(json.dumps(differences))
