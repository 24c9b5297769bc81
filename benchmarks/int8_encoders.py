"""Int8 encoders on this CPU: ours in OpenVINO and ONNX Runtime beside their own quantization, in turns.

    python benchmarks/int8_encoders.py [--width minilm bert] [--shapes 1x32 1x128 8x128] [--rounds 20] [--threads 1]

One dense model with random weights, made int8 by method=quant, by NNCF's post-training quantization for OpenVINO (left
out where nncf is not installed) and by ONNX Runtime's dynamic quantization. Prints, for every shape (batch x length),
how many times faster each is than the dense model in eager PyTorch: medians of neighbours' ratios. `--smallest` is a
tiny model, to see that everything runs.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import io
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from compress_exp.config.train import TrainConfig
from compress_exp.measurement.cpu import cpu_flags
from compress_exp.measurement.latency import in_turns
from compress_exp.methods.context import Context, Work
from compress_exp.methods.quant.int8 import Int8
from compress_exp.models.families.base import family_of
from compress_exp.runtimes import openvino
from compress_exp.runtimes.base import random_ids, runtime
from compress_exp.runtimes.eager import EagerPredictor

WIDTHS = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert": {},
    "smallest": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 100},
}
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
CALIBRATION = (16, 64)  # rows, tokens
CAP = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", nargs="+", choices=("minilm", "bert"), default=["minilm"])
    parser.add_argument("--shapes", nargs="+", default=["1x32", "1x128", "8x128"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smallest", action="store_true")
    arguments = parser.parse_args()
    if arguments.smallest:
        arguments.width, arguments.shapes, arguments.rounds = ["smallest"], ["1x8"], 2
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads; CPU: {' '.join(flag for flag in FLAGS if flag in cpu_flags())}")
    for width in arguments.width:
        with tempfile.TemporaryDirectory() as directory:
            predictors = built(dense(WIDTHS[width]), Path(directory), arguments.threads)
            print(f"\n{width}; matrix products: ", end="")
            print("; ".join(f"{name} {predictor.executed()}" for name, predictor in predictors.items()))
            print(f"{'shape':>8} {'eager ms':>9}" + "".join(f"{name:>20}" for name in predictors if name != "eager"))
            for shape in arguments.shapes:
                batch, length = map(int, shape.split("x"))
                print(row(predictors, batch, length, arguments.rounds), flush=True)


def row(predictors: dict[str, Any], batch: int, length: int, rounds: int) -> str:
    """One shape: the ratios, and the machine's load."""
    ids = random_ids(predictors["eager"].config.vocab_size, [], batch, length)
    turns = in_turns({name: model.forward_call(ids) for name, model in predictors.items()}, rounds, CAP, 2)
    eager = 1e3 * float(np.median(turns.seconds["eager"]))
    ratios = "".join(f"{turns.ratio('eager', name)[0]:>20.2f}" for name in predictors if name != "eager")
    return f"{batch:>4}x{length:<3} {eager:>9.1f}{ratios}   load {os.getloadavg()[0]:.1f}"


def dense(sizes: dict[str, int]) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**sizes)).eval()


def calibration(vocabulary: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary, CALIBRATION, generator=generator)
    return [{"input_ids": rows, "attention_mask": torch.ones_like(rows)} for rows in ids.split(1)]


def int8(model: BertForSequenceClassification) -> Any:
    """What method=quant makes of a model without training."""
    batches = calibration(model.config.vocab_size)
    context = Context(
        family=family_of("bert"),
        task=None,  # type: ignore[arg-type]
        tokenizer=None,  # type: ignore[arg-type]
        parent_tokenizer=None,  # type: ignore[arg-type]
        calibration=lambda count: batches[:count],
    )
    budget = TrainConfig(epochs=1, learning_rate=1e-5, batch_size=1, max_steps=0)
    method = Int8(name="quant", train=budget)
    return method.convert(Work(method.prepare(model, context), context)).eval()


def built(model: BertForSequenceClassification, directory: Path, threads: int) -> dict[str, Any]:
    """Every model in its runtime, by the name of its column."""
    predictors: dict[str, Any] = {"eager": EagerPredictor(model)}
    config = model.config
    ours = int8(copy.deepcopy(model))
    for name, made in (("f32", model), ("ours", ours)):
        runtime("openvino").export(made, directory / f"OpenVINO {name}")
        runtime("onnxruntime").export(made, directory / f"ONNX Runtime {name}")
    names = ["OpenVINO f32", "OpenVINO ours"]
    if importlib.util.find_spec("nncf"):
        post_training(directory / "OpenVINO f32", directory / "OpenVINO NNCF", config.vocab_size)
        names.append("OpenVINO NNCF")
    else:
        print("nncf is not installed: its quantization is left out")
    predictors |= {name: runtime("openvino").open(directory / name, config, "f32", threads, "cpu") for name in names}
    dynamic(directory / "ONNX Runtime f32", directory / "ONNX Runtime dyn.")
    for name in ("ONNX Runtime f32", "ONNX Runtime dyn.", "ONNX Runtime ours"):
        predictors[name] = runtime("onnxruntime").open(directory / name, config, "f32", threads, "cpu")
    return predictors


def post_training(source: Path, target: Path, vocabulary: int) -> None:
    """NNCF's quantization of an OpenVINO export."""
    package = openvino.package()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import nncf

        nncf.set_log_level(logging.ERROR)
        rows = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in calibration(vocabulary)]
        rows = [{**batch, "token_type_ids": np.zeros_like(batch["input_ids"])} for batch in rows]
        quantized = nncf.quantize(
            package.Core().read_model(source / "model.xml"),
            nncf.Dataset(rows),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(rows),
        )
    target.mkdir()
    package.save_model(quantized, target / "model.xml", compress_to_fp16=False)


def dynamic(source: Path, target: Path) -> None:
    """ONNX Runtime's dynamic quantization of an ONNX export, one scale a channel."""
    import onnxruntime as package
    from onnxruntime.quantization import quantize_dynamic

    target.mkdir()
    options = package.SessionOptions()
    options.log_severity_level = 3
    # It quantizes constants only: basic optimization makes some of the transposed weights.
    options.graph_optimization_level = package.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target / "folded.onnx")
    package.InferenceSession(str(source / "model.onnx"), options, providers=["CPUExecutionProvider"])
    logging.disable(logging.WARNING)
    quantize_dynamic(target / "folded.onnx", target / "model.onnx", per_channel=True)
    logging.disable(logging.NOTSET)


if __name__ == "__main__":
    main()
