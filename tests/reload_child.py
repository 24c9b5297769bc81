"""Loads artifacts through transformers' own Auto classes and compares logits; run by test_contract.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers

import compress_exp.hf  # noqa: F401
from compress_exp.training.forward import forward_logits

torch.set_num_threads(1)
AUTO = {
    "BertForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "AlbertForSequenceClassification": transformers.AutoModelForSequenceClassification,
    "GPT2LMHeadModel": transformers.AutoModelForCausalLM,
}
differences = {}
for file in sorted(Path(sys.argv[1]).glob("*.json")):
    entry = json.loads(file.read_text())
    architecture = json.loads((Path(entry["path"]) / "config.json").read_text())["architectures"][0]
    model = AUTO.get(architecture, transformers.AutoModelForSeq2SeqLM).from_pretrained(entry["path"])
    ids = torch.arange(1, 25).view(2, 12) * 7 % (model.config.vocab_size - 5) + 5
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.flip(1)}
    with torch.no_grad():
        logits = forward_logits(model.eval(), batch).float()
    differences[file.name] = float((logits - torch.tensor(entry["logits"])).abs().max())
print(json.dumps(differences))
