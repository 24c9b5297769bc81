"""What CompressionModule costs over a bare PyTorch loop, and masks over none: the same model and batches, in turns.

    python benchmarks/training_step.py [--model DIRECTORY] [--length 32] [--rounds 7] [--threads 1]

Prints milliseconds per step of each, wall and CPU time, and the median of the ratios of both, round by round: on a
machine that does other work, the one of CPU times is the steadier. Masks are held (a cut, at most a hundred times in a
training, ranks all weights once: its milliseconds are printed apart). Without a directory, a random encoder of
MiniLM's size is built (the arithmetic is the same); `--smallest` builds a tiny one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW
from transformers import BertConfig, BertForSequenceClassification

from compress_exp.config.train import TrainConfig
from compress_exp.losses.task import TaskLoss
from compress_exp.methods.context import Context, Work
from compress_exp.methods.parametrized import take
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.rate import rate_factor
from compress_exp.methods.select import targets
from compress_exp.models.families.base import family_of
from compress_exp.tasks.classification import Classification
from compress_exp.training.data import Batches
from compress_exp.training.module import CompressionModule
from compress_exp.training.trainer import fit

STEPS, ROWS = 8, 16
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SMALLEST = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 1000}


@dataclass(frozen=True)
class Moment:
    """Wall and CPU seconds, of a moment or of what took them."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: Moment, steps: int = 1) -> Moment:
        """What each of the steps from one moment to this one took."""
        return Moment((self.wall - start.wall) / steps, (self.cpu - start.cpu) / steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--length", type=int, default=32, help="tokens a row; what masks cost does not grow with it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smallest", action="store_true")
    arguments = parser.parse_args()
    sizes, rounds = (SMALLEST, 1) if arguments.smallest else (MINILM, arguments.rounds)
    torch.set_num_threads(arguments.threads)
    budget = TrainConfig(epochs=1, learning_rate=5e-5, batch_size=ROWS, max_steps=STEPS, threads=arguments.threads)
    generator = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.randint(5, 1000, (ROWS, arguments.length), generator=generator),
        "attention_mask": torch.ones(ROWS, arguments.length, dtype=torch.long),
        "labels": torch.randint(0, 2, (ROWS,), generator=generator),
    }
    method = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5)
    bare, ours, masked, cuts = [], [], [], []
    for _ in range(rounds):
        bare.append(bare_loop(load(arguments.model, sizes), batch, budget))
        ours.append(module_loop(load(arguments.model, sizes), batch, budget, None))
        masked.append(module_loop(mask(load(arguments.model, sizes), method), batch, budget, method))
        cuts.append(cut(mask(load(arguments.model, sizes), method), method))
    for name, taken in (("bare loop", bare), ("CompressionModule", ours), ("with masks", masked), ("a cut", cuts)):
        wall, cpu = (1e3 * statistics.median(getattr(one, kind) for one in taken) for kind in ("wall", "cpu"))
        print(f"{name:18}{wall:8.1f} ms, CPU {cpu:8.1f} ms")
    for name, slow, fast in (("CompressionModule / bare loop", ours, bare), ("with masks / without", masked, ours)):
        print(f"{name}: {ratios(slow, fast, 'wall')}, of CPU times {ratios(slow, fast, 'cpu')}")
    print(f"load {os.getloadavg()[0]:.1f}")


def ratios(slow: list[Moment], fast: list[Moment], kind: str) -> str:
    found = [getattr(one, kind) / getattr(other, kind) for one, other in zip(slow, fast, strict=True)]
    return f"{statistics.median(found):.3f} (from {min(found):.3f} to {max(found):.3f})"


def mask(model: BertForSequenceClassification, method: MagnitudePruning) -> BertForSequenceClassification:
    """Give every projection a mask."""
    take(targets(model, family_of("bert"), method.select), method.name)
    return model


def cut(model: BertForSequenceClassification, method: MagnitudePruning) -> Moment:
    """What pruning to half takes."""
    started = Moment.now()
    with torch.no_grad():
        method.step(Work(model, Context(family_of("bert"), None, None, None)))  # type: ignore[arg-type]
    return Moment.now().since(started)


def load(directory: Path | None, sizes: dict[str, int]) -> BertForSequenceClassification:
    if directory is not None:
        return BertForSequenceClassification.from_pretrained(directory, num_labels=2)
    return BertForSequenceClassification(BertConfig(**sizes))


def bare_loop(model: BertForSequenceClassification, batch: dict[str, torch.Tensor], budget: TrainConfig) -> Moment:
    """A step of the least loop that does the same: clipping, schedule, fused AdamW, one warm-up step."""
    model.train()
    optimizer = AdamW(model.parameters(), lr=budget.learning_rate, weight_decay=budget.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, STEPS, budget.warmup))
    started = Moment.now()
    for step in range(STEPS):
        if step == 1:
            started = Moment.now()
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), budget.gradient_clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return Moment.now().since(started, STEPS - 1)


class Timed(CompressionModule):
    """Notes when each step ends (asking for batches says little: Lightning fetches one ahead)."""

    def on_train_batch_end(self, outputs: Any, batch: dict[str, torch.Tensor], batch_index: int) -> None:
        self.__dict__.setdefault("ends", []).append(Moment.now())


def module_loop(
    model: BertForSequenceClassification,
    batch: dict[str, torch.Tensor],
    budget: TrainConfig,
    method: MagnitudePruning | None,
) -> Moment:
    """A step of CompressionModule under Lightning, from the end of the first step to that of the last."""
    columns = {"text": "text", "text_pair": None, "label": "label"}
    task = Classification(
        name="benchmark", columns=columns, max_length=batch["input_ids"].shape[1], epochs=1, batch_size=ROWS
    )
    rows = [{"input_ids": row.tolist()} for row in batch["input_ids"]] * STEPS
    batches = Batches(rows, lambda _: dict(batch), ROWS, 0, True, STEPS)
    context = Context(family_of("bert"), task, None, None, steps=STEPS)  # type: ignore[arg-type]
    module = Timed(model, context, {"task": TaskLoss()}, () if method is None else (method,), budget)
    with tempfile.TemporaryDirectory() as directory:
        fit(module, batches, budget, Path(directory), "benchmark")
    ends: list[Moment] = module.__dict__["ends"]
    return ends[-1].since(ends[0], STEPS - 1)


if __name__ == "__main__":
    main()
