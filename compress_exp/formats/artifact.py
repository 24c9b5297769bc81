"""The artifact on disk: safetensors at their real width, a configuration that says how to read them.

Modules that are not the architecture's, shapes that its configuration cannot say, blocks that share their tensors and
tensors in a codec's form are told under `quantization_config` (`description.py`); of tied tensors one is stored. A
model without any of them is an ordinary checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress_exp.config.checks import UserError
from compress_exp.formats import checksum, description, layout
from compress_exp.formats.codecs import codecs, smallest
from compress_exp.formats.description import Description
from compress_exp.layers.blueprint import Blueprint, describe
from compress_exp.layers.stored import Stored

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write weights, configuration, generation configuration and tokenizer.

    Args:
        model: ordinary modules and modules of `layers/` only; nothing parametrized.
        tokenizer: goes along, so that the directory is loadable on its own.
        directory: an existing directory.

    Raises:
        UserError: the model would not come back as it is; nothing was written.
    """
    blueprint = describe(model)
    tensors, packed = _tensors(model, blueprint)
    told = Description(blueprint, packed)
    config = json.loads(model.config.to_json_string(use_diff=True))
    for name in ("quantization_config", "_name_or_path"):
        config.pop(name, None)
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(next(p.dtype for p in model.parameters() if p.is_floating_point())).removeprefix("torch.")
    if (node := description.write(told)) is not None:
        config["quantization_config"] = node
    _check_promise(model, config, tensors, told)
    (directory / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    checksum.write(tensors, directory / "model.safetensors")


def _check_promise(
    model: PreTrainedModel, config: dict[str, Any], tensors: dict[str, Tensor], told: Description
) -> None:
    """Compare the model, and what is to be written of it, with what will be built of its configuration."""
    from compress_exp.formats.quantizer import skeleton

    stored = {name: layout.kind_of(tensor) for name, tensor in tensors.items()}
    promised, found = skeleton(type(model), config)
    if not found:
        found = layout.other_modules(model, promised)
        found += layout.differences(stored, promised, told.tensors, told.blueprint.absent(promised))
    if found:
        raise UserError(
            f"artifact: the model is not what its configuration and description promise ({layout.listed(found)}); a "
            "method may leave modules of the architecture and of compress_exp.layers only, nothing parametrized, and "
            "numbers in model.config for what else it changes"
        )


def _tensors(model: nn.Module, blueprint: Blueprint) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store, and the codecs of those that have one, by the names of the tensors that they stand for."""
    sparse = {f"{name}.weight" for name in blueprint.pruned}
    absent = blueprint.absent(model)
    stored: dict[str, Tensor] = {}
    packed: dict[str, str] = {}
    seen: set[tuple[int, torch.Size, torch.dtype]] = set()
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if name in absent or (tensor.numel() and place in seen):
            continue
        seen.add(place)
        tensor = tensor.detach().cpu().contiguous()
        owner, _, part = name.rpartition(".")
        module = model.get_submodule(owner)
        entropy = module.entropy if isinstance(module, Stored) else ()
        inputs = layout.input_axis(module)
        codec = smallest(tensor, inputs) if name in sparse or part in entropy else None
        if codec is None:
            stored[name] = tensor
        else:
            packed[name] = codec
            stored |= {f"{name}_{piece}": value for piece, value in codecs()[codec].encode(tensor, inputs).items()}
    return stored, packed


def load(path: Path | str) -> PreTrainedModel:
    """Load an artifact, or an ordinary checkpoint, in evaluation mode, exactly as `from_pretrained` does.

    Raises:
        UserError: the directory holds no artifact, files that are not loaded (pickles), or tensors that are not those
            of the model.
    """
    import transformers

    directory = Path(path)
    architecture, config = _read(directory)
    transformers.utils.logging.disable_progress_bar()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()  # what it would report in a table is refused
    try:
        loaded: Any = architecture.from_pretrained(
            directory, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
    model: PreTrainedModel
    model, info = loaded
    layout.refuse(_misread(model, info, _files(directory)), str(directory))
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        checksum.verify(_files(directory))
    elif not quantizer.told.blueprint.modules:
        quantizer.remove_quantization_config(model)
    return model.eval()


def check(path: Path | str) -> None:
    """Refuse what `load` refuses, without unpacking weights: all but sparse values that their mask does not count.

    Raises:
        UserError: as `load` does.
    """
    from compress_exp.formats.quantizer import skeleton

    directory = Path(path)
    architecture, config = _read(directory)
    if (node := config.get("quantization_config")) is None:
        load(directory)
        return
    told = description.read(node)
    model, found = skeleton(architecture, config)
    stored = layout.kinds_in(_files(directory))
    found = found or layout.differences(stored, model, told.tensors, told.blueprint.absent(model))
    layout.refuse(found, str(directory))


def _read(directory: Path) -> tuple[type[PreTrainedModel], dict[str, Any]]:
    """The class and the configuration of what lies in a directory."""
    import transformers

    import compress_exp.formats.quantizer  # noqa: F401
    from compress_exp.models.checkpoint import check_weights

    check_weights(directory, "artifact")
    config = json.loads((directory / "config.json").read_text())
    architecture = (config.get("architectures") or [""])[0]
    cls = getattr(transformers, architecture, None)
    if cls is None or not issubclass(cls, transformers.PreTrainedModel):
        raise UserError(f"artifact: {architecture!r} in {directory}/config.json is no architecture of transformers")
    method = (config.get("quantization_config") or {}).get("quant_method", description.METHOD)
    if method != description.METHOD:
        raise UserError(
            f"artifact: the weights in {directory} are stored as {method!r}; give dense ones, or an artifact"
        )
    return cls, config


def _files(directory: Path) -> list[Path]:
    whole = directory / "model.safetensors"
    return [whole] if whole.is_file() else sorted(directory.glob("model-*.safetensors"))


def _misread(model: PreTrainedModel, info: dict[str, Any], files: list[Path]) -> list[str]:
    """What transformers found wrong with tensors, and those that it cast to another dtype."""
    own = {name: layout.kind_of(tensor)[0] for name, tensor in model.state_dict().items()}
    dtype = layout.kind_of(torch.empty(0, dtype=model.dtype))[0]
    found = {name: "is missing" for name in info["missing_keys"]}
    found |= {name: "is not expected" for name in info["unexpected_keys"]}
    found |= {name: f"is {list(there)} and not {list(shape)}" for name, there, shape in info["mismatched_keys"]}
    for name, (stored, _) in layout.kinds_in(files).items():
        if stored not in (dtype, own.get(name, stored)):
            found[name] = f"is {stored} and not {own[name]}"
    return [f"{name} {found[name]}" for name in sorted(found)]
