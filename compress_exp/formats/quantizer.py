"""Our storage format in transformers: import this module once, then `from_pretrained` reads every artifact.

Students and other plain architectures need no import; pruned, quantized and unevenly slimmed artifacts name this format
in the `quantization_config` of their config.json.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from compress_exp.config.checks import UserError
from compress_exp.formats import layout
from compress_exp.formats.codecs import bitmask, n_m
from compress_exp.layers.int8 import Int8Embedding, Int8Linear
from compress_exp.layers.shapes import restore
from compress_exp.layers.surgery import mark_pruned, replace_module
from compress_exp.models.families.base import family_of, is_conv1d, is_linear


@register_quantization_config("compress_exp")
class CompressExpConfig(QuantizationConfigMixin):
    """How an artifact's tensors are stored (written by `compress_exp.formats.artifact.save`).

    Attributes:
        largest_code: the largest |code| among the weights of all int8 Linears; None where there is none, or in an
            artifact that was written before it was told.
    """

    def __init__(
        self,
        format: int,
        int8_linear: list[str],
        int8_embedding: list[str],
        pruned: list[str],
        tied: dict[str, str],
        heads: dict[str, int | list[int]] | None = None,
        neurons: dict[str, int] | None = None,
        largest_code: int | None = None,
        quant_method: str = "compress_exp",
    ) -> None:
        if format != 1:
            raise UserError(f"artifact: format {format} is newer than this release of compress_exp reads (1)")
        self.quant_method = quant_method  # type: ignore[assignment]
        self.format = format
        self.int8_linear = int8_linear
        self.int8_embedding = int8_embedding
        self.pruned = pruned
        self.tied = tied
        self.heads = heads or {}
        self.neurons = neurons or {}
        self.largest_code = largest_code


class Unpack(ConversionOps):
    """A bitmask, or the patterns of groups, and values back to the dense tensor of the parameter."""

    def __init__(self, quantizer: CompressExpQuantizer) -> None:
        self.quantizer = quantizer

    def __deepcopy__(self, memo: dict[int, Any]) -> Unpack:
        # transformers copies its converter for each tensor; what they find is for the one quantizer.
        return self

    def convert(  # type: ignore[override]
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str] | None = None,
        target_patterns: list[str] | None = None,
        full_layer_name: str = "",
        model: nn.Module | None = None,
        config: Any = None,
        missing_keys: Any = None,
    ) -> dict[str, Tensor]:
        """Decode one tensor; transformers hands over the pieces by their suffix."""
        assert model is not None
        pieces = {name: value[0] if isinstance(value, list) else value for name, value in input_dict.items()}
        owner, _, name = full_layer_name.rpartition(".")
        module = model.get_submodule(owner)
        shape, values = getattr(module, name).shape, pieces["weight_values"].cpu()
        try:
            if "weight_bitmask" in pieces:
                return {"weight": bitmask.decode(pieces["weight_bitmask"].cpu(), values, shape)}
            turned = is_conv1d(module)
            rows = n_m.decode(pieces["weight_patterns"].cpu(), values, torch.Size(reversed(shape)) if turned else shape)
            return {"weight": rows.T.contiguous() if turned else rows}
        except ValueError as error:
            # Raised here, transformers would print it with its stack and go on to the next tensor.
            self.quantizer.broken.append(f"{full_layer_name} {error}")
            return {"weight": torch.zeros(shape, dtype=values.dtype)}


@register_quantizer("compress_exp")
class CompressExpQuantizer(HfQuantizer):
    """Gives modules their shapes and swaps int8 ones in before the weights are read, ties and marks after."""

    quantization_config: CompressExpConfig
    serialized_names = {"weight": ["weight_bitmask", "weight_patterns", "weight_values"]}

    def get_load_operations(self) -> dict[str, type[ConversionOps]]:
        """How transformers turns stored tensors into parameters."""
        return {"deserialize": Unpack}

    def __init__(self, quantization_config: CompressExpConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.broken: list[str] = []
        self.files: list[str] = []

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        self.files = checkpoint_files or []
        told = self.quantization_config
        self._refuse(
            self.shape(model) or layout.differences(layout.kinds_in(self.files), model, told.pruned, told.tied)
        )

    def shape(self, model: PreTrainedModel) -> list[str]:
        """Give an ordinary model on the meta device the modules and shapes of the artifact.

        Returns:
            A phrase for each module that the model does not have as the description says; it is left as it was then.
        """
        told = self.quantization_config
        if wrong := list(_misnamed(told, model)):
            return wrong
        with torch.device("meta"):
            restore(model, family_of(model.config.model_type), {"heads": told.heads, "neurons": told.neurons})
            for name in told.int8_linear:
                replace_module(model, name, _int8_linear(model.get_submodule(name)))
            for name in told.int8_embedding:
                replace_module(model, name, _int8_embedding(model.get_submodule(name)))
        missing = set(model._keys_to_ignore_on_load_missing or ())
        for name in told.tied:
            # transformers ties Parameters only; ours are tied after loading.
            model.all_tied_weights_keys.pop(f"{name}.weight", None)
            missing.add(rf"^{re.escape(name)}\.weight(_scale)?$")
        model._keys_to_ignore_on_load_missing = missing
        return []

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        self._refuse(self.broken)
        for name, source in self.quantization_config.tied.items():
            holder, owner = model.get_submodule(name), model.get_submodule(source)
            holder.weight, holder.weight_scale = owner.weight, owner.weight_scale
        for name in self.quantization_config.pruned:
            mark_pruned(model.get_submodule(name))
        return model

    def _refuse(self, found: list[str]) -> None:
        layout.refuse(found, ", ".join(map(str, self.files)))

    def is_serializable(self) -> bool:
        """`save_pretrained` would write another layout; `compress_exp.formats.artifact.save` writes ours."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Masks and fake quantizers are gone: an artifact is trained further as a stage's parent only."""
        return False


def skeleton(architecture: type[PreTrainedModel], config: dict[str, Any]) -> tuple[PreTrainedModel, list[str]]:
    """The model that `from_pretrained` builds of a config.json before it reads weights, on the meta device.

    Returns:
        The model, and a phrase for each module that it does not have as the description says.
    """
    with torch.device("meta"):
        model: PreTrainedModel = architecture._from_config(architecture.config_class.from_dict(config))  # type: ignore[union-attr]
    if "quantization_config" not in config:
        return model, []
    return model, CompressExpQuantizer(CompressExpConfig(**config["quantization_config"])).shape(model)


def _misnamed(told: CompressExpConfig, model: nn.Module) -> Iterator[str]:
    """Modules that a description names and that the model does not have, or has as something else."""
    modules = dict(model.named_modules())
    for name in (*told.int8_linear, *told.int8_embedding, *told.pruned, *told.heads, *told.neurons):
        if name not in modules:
            yield f"{name} is no module of {type(model).__name__}"
    for name in told.int8_linear:
        if name in modules and not is_linear(modules[name]):
            yield f"{name} is {type(modules[name]).__name__} and no Linear"
    for name in told.int8_embedding:
        if name in modules and not isinstance(modules[name], nn.Embedding):
            yield f"{name} is {type(modules[name]).__name__} and no Embedding"
    integer = {*told.int8_linear, *told.int8_embedding}
    for names in told.tied.items():
        shapes = {getattr(modules.get(name), "weight", torch.empty(0)).shape for name in names}
        if not integer.issuperset(names) or len(shapes) > 1:
            yield f"{names[0]} cannot share the weight of {names[1]}"


def _int8_linear(module: nn.Module) -> Int8Linear:
    if is_conv1d(module):
        return Int8Linear(module.nx, module.nf, bias=True)  # type: ignore[arg-type]
    assert isinstance(module, nn.Linear)
    return Int8Linear(module.in_features, module.out_features, bias=module.bias is not None)


def _int8_embedding(module: nn.Module) -> Int8Embedding:
    assert isinstance(module, nn.Embedding)
    scale = float(getattr(module, "embed_scale", 1.0))
    return Int8Embedding(module.num_embeddings, module.embedding_dim, module.padding_idx, scale)
