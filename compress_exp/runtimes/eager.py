"""Eager PyTorch: the artifact itself, loaded as a user loads it; every kind of model, CPU and GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compress_exp.runtimes.base import PRECISIONS, Call, Deployed, Ids, Runtime

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


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

    def outputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The model's outputs for a collated batch; the labels shape the decoder's input and nothing else."""
        import torch

        from compress_exp.models.forward import LABELS, tensors

        inputs = {name: tensor.to(self.device) for name, tensor in batch.items() if not name.startswith(LABELS)}
        if self.config.is_encoder_decoder and "decoder_input_ids" not in inputs:
            labels = batch["labels"].to(self.device)
            inputs["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels)
        if self.model.can_generate():
            inputs["use_cache"] = False
        with torch.inference_mode():
            found = tensors(self.model(**inputs, return_dict=True))
        return {name: tensor.float().cpu() for name, tensor in found.items()}

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
        from compress_exp.layers.stored import Stored
        from compress_exp.models.families.base import is_linear

        floating, modules = self.precision(), list(self.model.modules())
        stored = [module.runs_in(self.device, floating) for module in modules if isinstance(module, Stored)]
        counts = Counter(precision for precision in stored if precision is not None)
        counts[floating] += sum(map(is_linear, modules)) - self.sparse
        counts[f"{floating} 2:4"] += self.sparse
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


class Eager(Runtime):
    """PyTorch without compilation."""

    name: ClassVar[str] = "eager"
    package: ClassVar[str] = "torch"
    files: ClassVar[tuple[str, ...]] = ("model.safetensors", "config.json")
    preference: ClassVar[int] = 9

    def serves(self, kind: str, device: str, precision: str) -> bool:
        """Everything."""
        return True

    def export(self, model: PreTrainedModel, directory: Path) -> None:
        """Nothing: it loads the artifact."""

    def open(self, directory: Path, config: Any, precision: str, threads: int, device: str) -> Deployed:
        """Load an artifact; its own configuration and precision count."""
        import torch

        from compress_exp.formats.artifact import load

        torch.set_num_threads(threads)
        return EagerPredictor(load(directory), device)

    def multiply(self, layer: nn.Module, inputs: Tensor) -> Tensor:
        """Call the layer."""
        import torch

        with torch.inference_mode():
            result: Tensor = layer(inputs)
        return result


RUNTIME = Eager()
