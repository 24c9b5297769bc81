"""What CompressionModule costs over a bare PyTorch loop, and masks over none: the same model and batches, in turns.

    python benchmarks/training_step.py [--model DIRECTORY] [--rounds 7] [--threads 1]

Prints milliseconds per step of each and the median of their ratios, round by round. Masks are held (a cut, at most a
hundred times in a training, ranks all weights once: its milliseconds are printed apart). Without a directory, a random
encoder of MiniLM's size is built (the arithmetic is the same).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from transformers import BertConfig, BertForSequenceClassification

from compress_exp.config import TrainConfig
from compress_exp.losses.task import TaskLoss
from compress_exp.methods.parametrized import Mask, attach
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.select import targets
from compress_exp.models.families.base import family_of
from compress_exp.tasks.classification import Classification
from compress_exp.training.data import Batches
from compress_exp.training.module import CompressionModule
from compress_exp.training.rate import rate_factor
from compress_exp.training.trainer import fit

STEPS, ROWS, LENGTH = 8, 16, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    budget = TrainConfig(epochs=1, learning_rate=5e-5, batch_size=ROWS, max_steps=STEPS, threads=arguments.threads)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.randint(5, 1000, (ROWS, LENGTH), generator=generator),
        "attention_mask": torch.ones(ROWS, LENGTH, dtype=torch.long),
        "labels": torch.randint(0, 2, (ROWS,), generator=generator),
    }
    method = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5)
    bare, ours, masked, cuts = [], [], [], []
    for _ in range(arguments.rounds):
        bare.append(bare_loop(load(arguments.model), batch, budget))
        ours.append(module_loop(load(arguments.model), batch, budget, None))
        masked.append(module_loop(mask(load(arguments.model), method), batch, budget, method))
        cuts.append(cut(mask(load(arguments.model), method), method))
    for name, seconds in (("bare loop", bare), ("CompressionModule", ours), ("with masks", masked), ("a cut", cuts)):
        print(f"{name:18}{1e3 * statistics.median(seconds):8.1f} ms")
    for name, slow, fast in (("CompressionModule / bare loop", ours, bare), ("with masks / without", masked, ours)):
        ratios = [one / other for one, other in zip(slow, fast, strict=True)]
        print(f"{name}: {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


def mask(model: BertForSequenceClassification, method: MagnitudePruning) -> BertForSequenceClassification:
    """Give every projection a mask."""
    for target in targets(model, family_of("bert"), method.select):
        own = Mask(target.weight)
        own.owner = method.name
        attach(target, own)
    return model


def cut(model: BertForSequenceClassification, method: MagnitudePruning) -> float:
    """Seconds of pruning to half."""
    started = time.perf_counter()
    with torch.no_grad():
        method.step(model, 1.0)
    return time.perf_counter() - started


def load(directory: Path | None) -> BertForSequenceClassification:
    if directory is not None:
        return BertForSequenceClassification.from_pretrained(directory, num_labels=2)
    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    return BertForSequenceClassification(config)


def bare_loop(model: BertForSequenceClassification, batch: dict[str, torch.Tensor], budget: TrainConfig) -> float:
    """Seconds per step of the least loop that does the same: clipping, schedule, fused AdamW, one warm-up step."""
    model.train()
    optimizer = AdamW(model.parameters(), lr=budget.learning_rate, weight_decay=budget.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, STEPS, budget.warmup))
    started = 0.0
    for step in range(STEPS):
        if step == 1:
            started = time.perf_counter()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), budget.gradient_clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return (time.perf_counter() - started) / (STEPS - 1)


class Timed(CompressionModule):
    """Notes when each step ends (asking for batches says little: Lightning fetches one ahead)."""

    def on_train_batch_end(self, outputs: Any, batch: dict[str, torch.Tensor], batch_index: int) -> None:
        self.__dict__.setdefault("ends", []).append(time.perf_counter())


def module_loop(
    model: BertForSequenceClassification,
    batch: dict[str, torch.Tensor],
    budget: TrainConfig,
    method: MagnitudePruning | None,
) -> float:
    """Seconds per step of CompressionModule under Lightning, from the end of the first step to that of the last."""
    columns = {"text": "text", "text_pair": None, "label": "label"}
    task = Classification(name="benchmark", columns=columns, max_length=LENGTH, epochs=1, batch_size=ROWS)
    rows = [{"input_ids": row.tolist()} for row in batch["input_ids"]] * STEPS
    batches = Batches(rows, lambda _: dict(batch), ROWS, 0, True, STEPS)
    module = Timed(model, task, TaskLoss(), () if method is None else (method,), budget, STEPS, 0)
    with tempfile.TemporaryDirectory() as directory:
        fit(module, batches, budget, Path(directory), "benchmark")
    ends: list[float] = module.__dict__["ends"]
    return (ends[-1] - ends[0]) / (STEPS - 1)


if __name__ == "__main__":
    main()
