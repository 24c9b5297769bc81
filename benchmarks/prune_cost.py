"""What Wanda and SparseGPT cost on a randomly initialised BERT of width 768: seconds, and memory by number of layers.

    python benchmarks/prune_cost.py [--layers 3 6 12] [--threads 2]

Calibrates on 128 rows of 128 tokens, each model in a process of its own. Prints seconds and, in 10⁶ bytes, the weights
and masks of the model (they grow with the layers) and the most that was in memory beyond them (it does not).
`--smallest` is one layer of width 32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from compress_exp.config.train import TrainConfig
from compress_exp.methods.context import Context
from compress_exp.methods.parametrized import Mask
from compress_exp.methods.prune.common.calibrated import CalibratedPruning
from compress_exp.methods.prune.sparsegpt import SparseGPTPruning
from compress_exp.methods.prune.wanda import WandaPruning
from compress_exp.models.families.base import family_of

BATCHES, ROWS, LENGTH = 4, 32, 128
SMALLEST = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 1000}
METHODS: dict[str, type[CalibratedPruning]] = {"wanda": WandaPruning, "sparsegpt": SparseGPTPruning}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 6, 12])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smallest", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "LAYERS"), help="one measurement, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(measured(arguments.one[0], int(arguments.one[1]), SMALLEST if arguments.smallest else {})))
        return
    print(f"{'method':<10} {'layers':>6} {'seconds':>8} {'cpu s':>7} {'weights':>8} {'masks':>6} {'beyond':>7}   load")
    for method in METHODS:
        for layers in [1] if arguments.smallest else arguments.layers:
            command = [sys.executable, __file__, "--threads", str(arguments.threads), "--one", method, str(layers)]
            command += ["--smallest"] if arguments.smallest else []
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "262144"}  # what is freed leaves the process
            answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            row = json.loads(answer.splitlines()[-1])
            print(
                f"{method:<10} {layers:>6} {row['seconds']:>8.1f} {row['cpu_seconds']:>7.1f} {row['weights']:>8.0f} "
                f"{row['masks']:>6.0f} {row['beyond']:>7.0f}   {os.getloadavg()[0]:.1f}",
                flush=True,
            )


def measured(name: str, layers: int, sizes: dict[str, int]) -> dict[str, float]:
    """Prune one model here, of BERT's sizes or those given."""
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (BATCHES, ROWS, LENGTH), generator=generator)
    batches = [{"input_ids": rows, "attention_mask": torch.ones_like(rows)} for rows in ids]
    context = Context(
        family=family_of("bert"),
        task=None,  # type: ignore[arg-type]
        tokenizer=None,  # type: ignore[arg-type]
        parent_tokenizer=None,  # type: ignore[arg-type]
        calibration=lambda count: batches[:count],
    )
    budget = TrainConfig(epochs=1, learning_rate=1e-5, batch_size=ROWS, max_steps=0)
    method = METHODS[name](name=f"prune/{name}", train=budget, sparsity=0.5)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    started, cpu = time.perf_counter(), time.process_time()
    method.fit(model, context)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    masks = sum(module.mask.numel() for module in model.modules() if isinstance(module, Mask)) / 1e6
    weights = sum(parameter.numel() * 4 for parameter in model.parameters()) / 1e6
    beyond = memory("VmHWM") - before - masks
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "weights": weights, "masks": masks, "beyond": beyond}


def memory(field: str) -> float:
    """Resident memory of this process in 10⁶ bytes, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
