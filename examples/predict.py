"""Classify texts with the artifact of the run that came last: python examples/predict.py OUTPUTS TEXT …

An artifact is a directory under OUTPUTS/artifacts; the record of a run names it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer

import compress_exp

if __name__ == "__main__":
    outputs, texts = Path(sys.argv[1]), sys.argv[2:]
    record = max(outputs.glob("runs/*/record.json"), key=lambda file: file.stat().st_mtime)
    artifact = outputs / "artifacts" / json.loads(record.read_text())["origin"]["artifact"]
    model, tokenizer = compress_exp.load(artifact), AutoTokenizer.from_pretrained(artifact)
    with torch.inference_mode():
        scores = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    for text, row in zip(texts, scores, strict=True):
        print(f"{model.config.id2label[int(row.argmax())]:<12}{float(row.max()):.3f}  {text}")
