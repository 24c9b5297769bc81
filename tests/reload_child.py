"""Loads artifacts through transformers' own Auto classes and compares outputs; run by test_contract.py.

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
    "ForQuestionAnswering": transformers.AutoModelForQuestionAnswering,
}


def reloaded(directory: Path) -> tuple[Any, dict[str, Tensor]]:
    """The model, and the batch that its outputs are wanted for."""
    architecture = json.loads((directory / "config.json").read_text())["architectures"][0]
    auto = next(auto for ending, auto in AUTO.items() if architecture.endswith(ending))
    model = auto.from_pretrained(directory)
    ids = torch.arange(1, 25).view(2, 12) * 7 % (model.config.vocab_size - 5) + 5
    return model.eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.flip(1)}


def difference(outputs: dict[str, Tensor], entry: dict[str, Any]) -> float:
    """The largest."""
    wanted = entry["outputs"].items()
    return max(float((outputs[name].float() - torch.tensor(values)).abs().max()) for name, values in wanted)


entries = {file.name: json.loads(file.read_text()) for file in sorted(Path(sys.argv[1]).glob("*.json"))}
differences = {}
for name, entry in entries.items():
    if entry["plain"]:
        model, batch = reloaded(Path(entry["path"]))
        if not model.config.is_encoder_decoder:
            del batch["labels"]
        with torch.no_grad():
            differences[name] = difference(model(**batch), entry)
assert not [name for name in sys.modules if name.partition(".")[0] == "compress_exp"]

import compress_exp.hf  # noqa: E402, F401
from compress_exp.models.forward import forward_outputs  # noqa: E402

for name, entry in entries.items():
    if not entry["plain"]:
        model, batch = reloaded(Path(entry["path"]))
        with torch.no_grad():
            differences[name] = difference(forward_outputs(model, batch, entry["outputs"]), entry)
print(json.dumps(differences))
