"""What capturing costs a training step: the same model and batch, forward and backward, in turns.

    python -m benchmarks.capture_cost [--model bert] [--length 128] [--rounds 9] [--threads 1]

Prints milliseconds per step of each set of captures, wall and CPU time, and the median of the ratios to the plain step
of the same round, with the smallest and the largest. A captured tensor takes part in the loss, so that gradients flow
through it. Models are random, of MiniLM's size (of 6 layers in each stack); `--smallest` builds a tiny one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from compress_exp.models.forward import forward_outputs

ROWS, STEPS = 16, 3
MINILM, SMALLEST = (384, 6, 12, 1536), (32, 1, 2, 64)
NAMES = {
    "bert": ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    "gpt2": ("n_embd", "n_layer", "n_head", "n_inner"),
    "t5": ("d_model", "num_layers", "num_heads", "d_ff"),
}
AUTO = {"bert": AutoModelForSequenceClassification, "gpt2": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}
CAPTURES = {
    "plain": (),
    "hidden": ("hidden",),
    "query, key, value": ("query", "key", "value"),
    "scores": ("attention_scores",),
    "probabilities": ("attention_probs",),
    "everything": ("hidden", "query", "key", "value", "attention_scores", "attention_probs"),
}


@dataclass(frozen=True)
class Moment:
    """Wall and CPU seconds."""

    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=NAMES, default="bert")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smallest", action="store_true")
    arguments = parser.parse_args()
    rounds, sizes = (2, SMALLEST) if arguments.smallest else (arguments.rounds, MINILM)
    length = 16 if arguments.smallest else arguments.length
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    settings = dict(zip(NAMES[arguments.model], sizes, strict=True)) | {"vocab_size": 1000, "pad_token_id": 0}
    settings |= {"d_kv": sizes[0] // sizes[2], "decoder_start_token_id": 0} if arguments.model == "t5" else {}
    model = AUTO[arguments.model].from_config(AutoConfig.for_model(arguments.model, **settings)).train()
    ids = torch.randint(5, 1000, (ROWS, length))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    taken: dict[str, list[Moment]] = {name: [] for name in CAPTURES}
    for turn in range(rounds + 1):  # the first warms up
        for name, needs in CAPTURES.items():
            moment = step(model, batch, needs)
            if turn:
                taken[name].append(moment)
    for name, moments in taken.items():
        wall, cpu = (1e3 * statistics.median(getattr(one, kind) for one in moments) for kind in ("wall", "cpu"))
        told = f"{name:18}{wall:8.1f} ms, CPU {cpu:8.1f} ms"
        if name != "plain":
            told += f"; over plain: {ratios(moments, taken['plain'], 'wall')}"
            told += f", of CPU times {ratios(moments, taken['plain'], 'cpu')}"
        print(told)
    print(f"{arguments.model}, {ROWS} x {length}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")


def ratios(slow: list[Moment], fast: list[Moment], kind: str) -> str:
    found = [getattr(one, kind) / getattr(other, kind) for one, other in zip(slow, fast, strict=True)]
    return f"{statistics.median(found):.3f} (from {min(found):.3f} to {max(found):.3f})"


def step(model: torch.nn.Module, batch: dict[str, Tensor], needs: tuple[str, ...]) -> Moment:
    """What a forward and backward pass takes, the mean of a few."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        outputs = forward_outputs(model, batch, {"logits", *needs})
        loss = outputs["logits"].square().mean()
        for name in needs:
            loss = loss + sum(tensor.square().mean() for tensors in outputs[name].values() for tensor in tensors)
        loss.backward()
        model.zero_grad()
    return Moment((time.perf_counter() - wall) / STEPS, (time.process_time() - cpu) / STEPS)


if __name__ == "__main__":
    main()
