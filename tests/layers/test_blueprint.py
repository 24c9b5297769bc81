"""A kind of module that nothing but its own class knows is saved, loaded, copied and counted like any other."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Self

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from compress_exp.config.checks import UserError
from compress_exp.formats.artifact import check, load, save
from compress_exp.layers import blueprint
from compress_exp.layers.blocks import with_layers
from compress_exp.layers.stored import Stored, kinds
from compress_exp.measurement.size import weights
from compress_exp.models.families.base import family_of

DENSE = "bert.encoder.layer.1.intermediate.dense"


class Signs(Stored):
    """−1, 0 or 1, with one scale."""

    kind: ClassVar[str] = "signs"
    entropy: ClassVar[tuple[str, ...]] = ("codes",)

    def __init__(self, outputs: int, inputs: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("codes", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.bias = nn.Parameter(torch.zeros(outputs))

    @classmethod
    def build(cls, plain: nn.Module, spec: dict[str, Any]) -> Self:
        if not isinstance(plain, nn.Linear):
            raise ValueError(f"is {type(plain).__name__} and no Linear")
        return cls(*plain.weight.shape, spec["scale"])

    def spec(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def dense(self) -> Tensor:
        return self.codes.float() * self.scale

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.linear(inputs, self.dense(), self.bias)


@pytest.fixture
def model(tiny):
    built = tiny("bert")
    signs = Signs.build(built.get_submodule(DENSE), {"scale": 0.125})
    signs.codes = torch.randint(0, 10, signs.codes.shape, generator=torch.Generator().manual_seed(0)).sub(8).clamp(0)
    signs.codes = signs.codes.to(torch.int8)
    built.set_submodule(DENSE, signs)
    return built.eval()


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(blueprint, "kinds", lambda: {**kinds(), "signs": Signs})


@pytest.fixture
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))


def logits(model) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(5, 21).view(2, 8)).logits


def test_only_files_of_the_package_bring_kinds():
    assert {"int8_linear", "int8_embedding"} <= set(kinds()) and Signs.kind not in kinds()
    assert {module.__module__.rpartition(".")[0] for module in kinds().values()} == {"compress_exp.layers"}


def test_it_comes_back_as_it_was(model, known, tokenizer, tmp_path):
    save(model, tokenizer, tmp_path)
    node = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert node["modules"] == [{"kind": "signs", "names": [DENSE], "spec": {"scale": 0.125}}]
    assert node["tensors"] == {f"{DENSE}.codes": "bitmask"}
    stored = load_file(tmp_path / "model.safetensors")
    count = int((model.get_submodule(DENSE).codes != 0).sum())
    assert stored[f"{DENSE}.codes_values"].shape == (count,) and f"{DENSE}.codes" not in stored
    check(tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded.get_submodule(DENSE).codes, model.get_submodule(DENSE).codes)
    assert torch.equal(logits(loaded), logits(model))


def test_it_is_refused_where_nobody_knows_it(model, tokenizer, tmp_path, monkeypatch):
    sentence = rf"{DENSE} is of kind 'signs', which this release does not know"
    with pytest.raises(UserError, match=sentence):
        save(model, tokenizer, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(blueprint, "kinds", lambda: {**kinds(), "signs": Signs})
        save(model, tokenizer, tmp_path)
    for reader in (load, check):
        with pytest.raises(UserError, match=sentence):
            reader(tmp_path)


def test_it_is_copied_with_its_layer(model, known):
    copied = with_layers(model, family_of("bert"), {"encoder": [1, 0]})
    own = copied.get_submodule(DENSE.replace("1", "0"))
    assert isinstance(own, Signs) and torch.equal(own.codes, model.get_submodule(DENSE).codes)
    assert isinstance(copied.get_submodule(DENSE), nn.Linear)


def test_it_is_counted_as_the_matrix_that_it_stands_for(model, tiny):
    dense, signs = tiny("bert"), model.get_submodule(DENSE)
    assert sum(w.numel() for w in weights(model)) == sum(w.numel() for w in weights(dense))
    lost = sum(int((w == 0).sum()) for w in weights(model)) - sum(int((w == 0).sum()) for w in weights(dense))
    assert lost == int((signs.codes == 0).sum())
