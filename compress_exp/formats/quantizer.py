"""Our storage format in transformers: how `from_pretrained` builds the modules of an artifact and reads its tensors."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from compress_exp.formats import description, layout
from compress_exp.formats.checksum import verify
from compress_exp.formats.codecs import codecs, with_pieces
from compress_exp.layers.blueprint import apply, finish


@register_quantization_config(description.METHOD)
class CompressExpConfig(QuantizationConfigMixin):
    """How an artifact's tensors are stored: the node `quantization_config` of its config.json, of either format."""

    def __init__(
        self,
        format: int,
        modules: list[dict[str, Any]] | None = None,
        tensors: dict[str, str] | None = None,
        tied: dict[str, str] | None = None,
        pruned: list[str] | None = None,
        heads: dict[str, int | list[int]] | None = None,
        neurons: dict[str, int] | None = None,
        shared: dict[str, str] | None = None,
        int8_linear: list[str] | None = None,
        int8_embedding: list[str] | None = None,
        largest_code: int | None = None,
        quant_method: str = description.METHOD,
    ) -> None:
        self.quant_method = quant_method  # type: ignore[assignment]
        told: dict[str, Any] = {"modules": modules, "tensors": tensors, "tied": tied, "pruned": pruned, "heads": heads}
        told |= {"neurons": neurons, "shared": shared, "int8_linear": int8_linear, "int8_embedding": int8_embedding}
        self.node = {"format": format} | {name: value for name, value in told.items() if value is not None}
        self.description = description.read(self.node)

    def to_dict(self) -> dict[str, Any]:
        """The node."""
        return {"quant_method": self.quant_method, **self.node}


class Decode(ConversionOps):
    """The pieces that a codec made of a tensor back to it."""

    def __init__(self, quantizer: CompressExpQuantizer) -> None:
        self.quantizer = quantizer

    def __deepcopy__(self, memo: dict[int, Any]) -> Decode:
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
        """Decode one tensor; transformers hands over the pieces by the ends of their names."""
        assert model is not None
        owner, _, name = full_layer_name.rpartition(".")
        module = model.get_submodule(owner)
        shape = getattr(module, name).shape
        found = {stem: value[0] if isinstance(value, list) else value for stem, value in input_dict.items()}
        pieces = {stem.removeprefix(f"{name}_"): tensor.cpu() for stem, tensor in found.items()}
        codec = with_pieces(pieces)
        assert codec is not None, f"{full_layer_name} in pieces {sorted(pieces)}"
        try:
            return {name: codecs()[codec].decode(pieces, shape, layout.input_axis(module))}
        except ValueError as error:
            # Raised here, transformers would print it with its stack and go on to the next tensor.
            self.quantizer.broken.append(f"{full_layer_name} {error}")
            return {name: torch.zeros(shape, dtype=pieces["values"].dtype)}


@register_quantizer(description.METHOD)
class CompressExpQuantizer(HfQuantizer):
    """Gives modules their shapes and swaps others in before the weights are read, ties and marks after."""

    quantization_config: CompressExpConfig

    def __init__(self, quantization_config: CompressExpConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.told = quantization_config.description
        self.broken: list[str] = []
        self.files: list[str] = []
        pieces = dict.fromkeys(piece for codec in codecs().values() for piece in codec.PIECES)
        names = {name.rpartition(".")[2] for name in self.told.tensors}
        self.serialized_names = {name: [f"{name}_{piece}" for piece in pieces] for name in sorted(names)}

    def get_load_operations(self) -> dict[str, type[ConversionOps]]:
        """How transformers turns stored tensors into parameters."""
        return {"deserialize": Decode}

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **kwargs: Any
    ) -> None:
        self.files = checkpoint_files or []
        told, stored = self.told, layout.kinds_in(self.files)
        found = self.shape(model)
        found = found or layout.differences(stored, model, told.tensors, told.blueprint.absent(model))
        self._refuse(found)
        verify(self.files)

    def shape(self, model: PreTrainedModel) -> list[str]:
        """Give an ordinary model on the meta device the modules and shapes of the artifact.

        Returns:
            A phrase for each module that the model does not have as the description says.
        """
        blueprint = self.told.blueprint
        with torch.device("meta"):
            if wrong := apply(model, blueprint):
                return wrong
        missing = set(model._keys_to_ignore_on_load_missing or ())
        # transformers ties Parameters only; ours are tied after loading.
        for name in [name for name in model.all_tied_weights_keys if name.rpartition(".")[0] in blueprint.modules]:
            del model.all_tied_weights_keys[name]
        missing |= {rf"^{re.escape(name)}$" for name in blueprint.absent(model)}
        model._keys_to_ignore_on_load_missing = missing
        for name in blueprint.shared:
            for module in model.get_submodule(name).modules():
                module._is_hf_initialized = True  # type: ignore[assignment]  # what is shared needs no first values
        return []

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        self._refuse(self.broken)
        finish(model, self.told.blueprint)
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
