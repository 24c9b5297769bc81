"""What length buckets save over padding every row to 128 tokens, in training, on real sentence lengths.

    python benchmarks/length_buckets.py [DATA_DIR] [--column sentence] [--model DIRECTORY] [--rounds 5] [--threads 1]

DATA_DIR holds train.jsonl (SST-2, say); without it the embedded reviews are taken. Both take the same number of rows
of the same seeded epoch; examples per second of forward, backward and optimiser step are compared round by round, in
turns. `--smallest` is a tiny model on a few of the reviews.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.optim import AdamW
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from compress_exp.models.families.base import family_of
from compress_exp.models.tokenizers import train_tokenizer
from compress_exp.tasks.embedded.reviews import rows
from compress_exp.training.data import epoch_order

BATCH, LONGEST, STEPS = 32, 128, 6
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SMALLEST = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--column", default="sentence")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smallest", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    texts = read(arguments.data, arguments.column)[: BATCH * STEPS if arguments.smallest else None]
    ids = encode(texts, arguments.model)
    lengths = [len(row) for row in ids]
    model = load(arguments.model, SMALLEST if arguments.smallest else MINILM)
    optimizer = AdamW(model.parameters(), lr=1e-5, fused=True)
    order = epoch_order(lengths, BATCH, 0, 0, True)
    print(f"{len(ids)} rows, {statistics.mean(lengths):.1f} tokens on average, {max(lengths)} at most")
    ratios = []
    for turn in range(1 if arguments.smallest else arguments.rounds):
        chosen = order[turn * STEPS : (turn + 1) * STEPS]
        batches = [[ids[row] for row in batch] for batch in chosen]
        padded = rate(model, optimizer, batches, LONGEST)
        bucketed = rate(model, optimizer, batches, None)
        ratios.append(bucketed / padded)
        print(f"  padded to {LONGEST}: {padded:7.1f} examples/s   buckets: {bucketed:7.1f} examples/s")
    print(f"ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


def read(data: Path | None, column: str) -> list[str]:
    if data is None:
        return [str(row["text"]) for row in rows("train")]
    return [json.loads(line)[column] for line in (data / "train.jsonl").open()]


def encode(texts: list[str], model: Path | None) -> list[list[int]]:
    if model is not None:
        tokenizer = AutoTokenizer.from_pretrained(model)
        return tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
    trained: Tokenizer = train_tokenizer(family_of("bert").text, 8000, iter(texts), LONGEST).backend_tokenizer
    return [encoding.ids[:LONGEST] for encoding in trained.encode_batch(texts)]


def load(model: Path | None, sizes: dict[str, int]) -> BertForSequenceClassification:
    if model is not None:
        return BertForSequenceClassification.from_pretrained(model, num_labels=2).train()
    return BertForSequenceClassification(BertConfig(**sizes)).train()


def rate(
    model: BertForSequenceClassification, optimizer: AdamW, batches: list[list[list[int]]], length: int | None
) -> float:
    """Examples per second; every row is padded to `length`, or to its batch's longest."""
    started = time.perf_counter()
    for batch in batches:
        width = length or max(map(len, batch))
        inputs = torch.tensor([row + [0] * (width - len(row)) for row in batch])
        model(
            input_ids=inputs, attention_mask=inputs.ne(0).long(), labels=torch.zeros(len(batch), dtype=torch.long)
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return sum(map(len, batches)) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
