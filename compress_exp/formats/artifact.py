"""The artifact on disk: safetensors at their real width, a configuration that says how to read them.

Four things leave the dense format: pruned tensors are stored as `<name>_bitmask` and `<name>_values`, or with at most n
of m inputs left as `<name>_patterns` and `<name>_values`, whatever is smallest; int8 modules keep `weight`,
`weight_scale`, `input_scale`, `input_zero_point`, of tied tensors one is stored, and blocks may have fewer heads or
neurons than the architecture's configuration can say. `config.json` lists them under `quantization_config`; a model
without any of them is an ordinary checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compress_exp.config.checks import UserError
from compress_exp.formats import layout
from compress_exp.formats.codecs import bitmask, n_m
from compress_exp.layers.int8 import Int8Embedding, Int8Linear, largest_code
from compress_exp.layers.shapes import uneven
from compress_exp.layers.surgery import pruned_modules
from compress_exp.models.families.base import family_of, is_conv1d

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write weights, configuration, generation configuration and tokenizer.

    Args:
        model: ordinary modules and modules of `layers/` only; nothing parametrized.
        tokenizer: goes along, so that the directory is loadable on its own.
        directory: an existing directory.

    Raises:
        UserError: the model would not come back as it is; nothing was written.
    """
    from safetensors.torch import save_file

    description = describe(model)
    tensors, tied = _tensors(model)
    if tied and description is not None:
        description["tied"] = tied
    config = json.loads(model.config.to_json_string(use_diff=True))
    for name in ("quantization_config", "_name_or_path"):
        config.pop(name, None)
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(next(p.dtype for p in model.parameters() if p.is_floating_point())).removeprefix("torch.")
    if description is not None:
        config["quantization_config"] = description
    _check_promise(model, config, tensors)
    (directory / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _check_promise(model: PreTrainedModel, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Compare the model, and what is to be written of it, with what will be built of its configuration."""
    from compress_exp.formats.quantizer import skeleton

    told = config.get("quantization_config", {"pruned": (), "tied": ()})
    stored = {name: layout.kind_of(tensor) for name, tensor in tensors.items()}
    promised, found = skeleton(type(model), config)
    if not found:
        found = layout.other_modules(model, promised)
        found += layout.differences(stored, promised, told["pruned"], told["tied"])
    if found:
        raise UserError(
            f"artifact: the model is not what its configuration and description promise ({layout.listed(found)}); a "
            "method may leave modules of the architecture and of compress_exp.layers only, nothing parametrized, and "
            "numbers in model.config for what else it changes"
        )


def describe(model: PreTrainedModel) -> dict[str, Any] | None:
    """How the tensors are stored and shaped, for `config.json`; None where everything is plain."""
    linear = [name for name, module in model.named_modules() if isinstance(module, Int8Linear)]
    embedding = [name for name, module in model.named_modules() if isinstance(module, Int8Embedding)]
    pruned = [name for name, _ in pruned_modules(model)]
    shapes = uneven(model, family_of(model.config.model_type))
    if not (linear or embedding or pruned or shapes):
        return None
    codes = (largest_code(model.get_submodule(name).weight) for name in linear)  # type: ignore[arg-type]
    largest = {"largest_code": max(codes)} if linear else {}
    return (
        shapes
        | largest
        | {
            "quant_method": "compress_exp",
            "format": FORMAT,
            "int8_linear": linear,
            "int8_embedding": embedding,
            "pruned": pruned,
            "tied": {},
        }
    )


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store and, for int8 modules, which module shares its weight with which."""
    marked = {f"{name}.weight" for name, _ in pruned_modules(model)}
    stored: dict[str, Tensor] = {}
    first: dict[tuple[int, torch.Size, torch.dtype], str] = {}
    tied: dict[str, str] = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        if tensor.numel() and place in first:
            module = name.rpartition(".")[0]
            if isinstance(model.get_submodule(module), Int8Linear | Int8Embedding):
                tied[module] = first[place].rpartition(".")[0]
            continue
        first[place] = name
        tensor = tensor.detach().cpu().contiguous()
        stored |= _stored(name, tensor, model) if name in marked else {name: tensor}
    return stored, tied


def _stored(name: str, tensor: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """A pruned tensor in its smallest form."""
    rows = tensor.T if is_conv1d(model.get_submodule(name.rpartition(".")[0])) else tensor
    m, size = n_m.smallest_group(rows)
    if m and size < bitmask.bytes_of(tensor):
        codes, values = n_m.encode(rows, m)
        return {f"{name}_patterns": codes, f"{name}_values": values}
    if bitmask.worthwhile(tensor):
        bits, values = bitmask.encode(tensor)
        return {f"{name}_bitmask": bits, f"{name}_values": values}
    return {name: tensor}


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
    if quantizer is not None and not config["quantization_config"]["int8_linear"]:
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
    if (told := config.get("quantization_config")) is None:
        load(directory)
        return
    model, found = skeleton(architecture, config)
    stored = layout.kinds_in(_files(directory))
    layout.refuse(found or layout.differences(stored, model, told["pruned"], told["tied"]), str(directory))


def _read(directory: Path) -> tuple[type[PreTrainedModel], dict[str, Any]]:
    """The class and the configuration of what lies in a directory."""
    import transformers

    import compress_exp.formats.quantizer  # noqa: F401
    from compress_exp.models.loading import check_weights

    check_weights(directory, "artifact")
    config = json.loads((directory / "config.json").read_text())
    architecture = (config.get("architectures") or [""])[0]
    cls = getattr(transformers, architecture, None)
    if cls is None or not issubclass(cls, transformers.PreTrainedModel):
        raise UserError(f"artifact: {architecture!r} in {directory}/config.json is no architecture of transformers")
    method = (config.get("quantization_config") or {}).get("quant_method", "compress_exp")
    if method != "compress_exp":
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
