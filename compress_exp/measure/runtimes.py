"""Loaded models in a runtime: one class per runtime, all of them predictors for `Task.evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress_exp.export.openvino import PRECISIONS, compile_graph, executed

Ids = NDArray[np.int64]
Call = Callable[[], Any]


def random_ids(vocabulary: int, special: list[int], batch: int, length: int) -> Ids:
    """Seeded token ids without special ones: (batch, length)."""
    ordinary = np.setdiff1d(np.arange(vocabulary, dtype=np.int64), np.array(special, dtype=np.int64))
    return np.random.default_rng(0).choice(ordinary, size=(batch, length))


class OpenVINOPredictor:
    """An exported encoder, compiled for the CPU. Importing or timing it needs no torch.

    Args:
        directory: where `model.xml` and `model.bin` are.
        config: the transformers configuration of the model, for the task.
        precision: f32 or bf16.
        threads: inference threads.
    """

    def __init__(self, directory: Path, config: Any, precision: str, threads: int) -> None:
        self.config, self.directory = config, directory
        self.compiled = compile_graph(directory, precision, threads)
        self._names = [port.get_any_name() for port in self.compiled.inputs]
        self._request = self.compiled.create_infer_request()

    def logits(self, batch: dict[str, Any]) -> Any:
        """The model's output for a collated batch."""
        import torch

        shape = tuple(batch["input_ids"].shape)
        arrays = [batch[n].numpy() if n in batch else np.zeros(shape, dtype=np.int64) for n in self._names]
        return torch.from_numpy(self._request.infer(arrays)[0].copy())

    def generate(self, batch: dict[str, Any], max_new_tokens: int, num_beams: int) -> Any:
        """Refused: encoders do not generate."""
        raise TypeError("this runtime serves encoders, which do not generate")

    def forward_call(self, ids: Ids) -> Call:
        """A call that runs one prepared batch."""
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        arrays = [values.get(name, np.zeros_like(ids)) for name in self._names]
        request = self.compiled.create_infer_request()
        return lambda: request.infer(arrays)

    def precision(self) -> str:
        """The floating precision that the compiled graph says it uses."""
        return str(self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())

    def executed(self) -> dict[str, int]:
        """Fully connected layers by the precision they run in."""
        return executed(self.compiled)


class EagerPredictor:
    """A model in eager PyTorch; on a GPU that has them 2:4 weights in half precision use sparse tensor cores.

    Args:
        model: a loaded model in evaluation mode.
        device: "cpu" or "cuda".
    """

    def __init__(self, model: Any, device: str = "cpu") -> None:
        from compress_exp.layers.semi_structured import kernels_available, use_sparse_kernels

        self.model, self.device, self.config = model.to(device), device, model.config
        self.sparse = use_sparse_kernels(self.model) if device == "cuda" and kernels_available() else 0

    def logits(self, batch: dict[str, Any]) -> Any:
        """The model's output for a collated batch; the labels shape the decoder's input and nothing else."""
        import torch

        inputs = {name: tensor.to(self.device) for name, tensor in batch.items() if name != "labels"}
        if self.config.is_encoder_decoder and "decoder_input_ids" not in inputs:
            labels = batch["labels"].to(self.device)
            inputs["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels)
        if self.model.can_generate():
            inputs["use_cache"] = False
        with torch.inference_mode():
            return self.model(**inputs, return_dict=True).logits.float().cpu()

    def generate(self, batch: dict[str, Any], max_new_tokens: int, num_beams: int) -> Any:
        """Generated token ids."""
        import torch

        inputs = {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            options = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "do_sample": False}
            return self.model.generate(**inputs, **options, pad_token_id=self._pad()).cpu()

    def forward_call(self, ids: Ids) -> Call:
        """A call that runs one prepared batch."""
        import torch

        inputs = self._prepared(ids)
        if int(getattr(self.config, "type_vocab_size", 0) or 0) > 1:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])

        def call() -> Any:
            with torch.inference_mode():
                self.model(**inputs)
                self._wait()

        return call

    def generate_call(self, ids: Ids, new_tokens: int) -> Call:
        """A call that generates exactly `new_tokens` for one prepared batch, greedily."""
        import torch

        inputs = self._prepared(ids)
        options: dict[str, Any] = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        options |= {"num_beams": 1, "do_sample": False, "pad_token_id": self._pad()}

        def call() -> Any:
            with torch.inference_mode():
                output = self.model.generate(**inputs, **options)
                self._wait()
            return output

        prompt = 1 if self.config.is_encoder_decoder else ids.shape[1]
        if (length := call().shape[1] - prompt) != new_tokens:
            raise RuntimeError(f"{length} tokens were generated where {new_tokens} were forced")
        return call

    def precision(self) -> str:
        """The type of the floating parameters."""
        name = str(self.model.dtype).removeprefix("torch.")
        return PRECISIONS.get(name, name)

    def executed(self) -> dict[str, int]:
        """Linear layers by the precision they run in; "bf16 2:4" are those on sparse tensor cores."""
        from compress_exp.layers.int8 import Int8Linear, kernels_available
        from compress_exp.models.families.base import is_linear

        integer = sum(isinstance(module, Int8Linear) for module in self.model.modules())
        floating = sum(is_linear(module) for module in self.model.modules())
        name = "u8" if self.device == "cpu" and kernels_available() else self.precision()
        counts = {self.precision(): floating - self.sparse, f"{self.precision()} 2:4": self.sparse}
        counts[name] = counts.get(name, 0) + integer
        return {name: count for name, count in counts.items() if count}

    def _prepared(self, ids: Ids) -> dict[str, Any]:
        import torch

        tensor = torch.from_numpy(ids).to(self.device)
        return {"input_ids": tensor, "attention_mask": torch.ones_like(tensor)}

    def _pad(self) -> int | None:
        end = self.config.eos_token_id
        return self.config.pad_token_id if self.config.pad_token_id is not None else end

    def _wait(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
