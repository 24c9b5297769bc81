from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from compress_exp.config.checks import FieldError, UserError
from compress_exp.models.checkpoint import directory_digest
from compress_exp.models.families.base import family_of, roles
from compress_exp.models.loading import Model
from compress_exp.models.tokenizers import train_tokenizer
from tests.tasks.helpers import task

TEXTS = ["the quick brown fox jumps over the lazy dog", "a stitch in time saves nine"] * 20


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"a": torch.zeros(100)}, tmp_path / "model.safetensors")
    return tmp_path


def model(directory):
    return Model(name="x", path=str(directory))


def test_a_whole_directory_is_accepted(directory):
    model(directory).check()


def test_each_missing_part_is_named(directory):
    (directory / "tokenizer.json").rename(directory / "elsewhere")
    with pytest.raises(UserError, match="has no tokenizer"):
        model(directory).check()
    (directory / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.path: .* has no weights"):
        model(directory).check()
    with pytest.raises(UserError, match=r"model\.path: .*no directory"):
        model(directory / "nowhere").check()
    (directory / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        model(directory).check()


def test_pickles_and_damaged_weights_are_refused(directory):
    weights = directory / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="truncated"):
        model(directory).check()
    torch.save({"a": torch.zeros(3)}, weights)
    with pytest.raises(UserError, match="no safetensors file"):
        model(directory).check()
    weights.rename(directory / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin.*pickle"):
        model(directory).check()


def test_unsupported_architectures_are_named(directory):
    (directory / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UserError, match="'mamba' are not supported"):
        model(directory).check()
    (directory / "config.json").write_text(json.dumps({"model_type": "../evil"}))
    with pytest.raises(UserError, match="'../evil' are not supported"):
        model(directory).check()


def test_a_model_from_nowhere_is_refused():
    with pytest.raises(UserError, match=r"model\.path: set a directory"):
        Model(name="x").check()
    with pytest.raises(UserError, match="no baseline"):
        Model(name="x", architecture={"model_type": "bert"}, finetuned=True).check()
    with pytest.raises(FieldError):
        Model(name="x", learning_rate=-1.0)


def test_the_digest_is_of_content_not_of_place_or_time(directory, tmp_path_factory):
    other = tmp_path_factory.mktemp("copy")
    for file in directory.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    assert directory_digest(directory) == directory_digest(other)
    (other / "config.json").write_text("{}")
    assert directory_digest(directory) != directory_digest(other)


@pytest.mark.parametrize("model_type", ["bert", "albert", "gpt2", "t5", "bart"])
def test_trained_tokenizers_are_the_same_each_time_and_frame_as_the_family_does(model_type):
    first = train_tokenizer(family_of(model_type).text, 350, iter(TEXTS), 32)
    second = train_tokenizer(family_of(model_type).text, 350, iter(TEXTS), 32)
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    ids = first(TEXTS[0])["input_ids"]
    assert first.decode(ids, skip_special_tokens=True).strip() == TEXTS[0]
    if model_type == "gpt2":
        assert first.pad_token_id != first.eos_token_id
    elif model_type == "t5":
        assert ids[-1] == first.eos_token_id
    else:
        assert (ids[0], ids[-1]) == (first.cls_token_id, first.sep_token_id)
    assert ("token_type_ids" in first(TEXTS[0])) == (model_type in ("bert", "albert"))


@pytest.mark.parametrize(
    ("model_type", "count"),
    [
        ("bert", 4 * 6),
        ("roberta", 4 * 6),
        ("distilbert", 4 * 6),
        ("albert", 6),
        ("gpt2", 4 * 4),
        ("t5", 2 * 6 + 2 * 10),
        ("bart", 32),
    ],
)
def test_roles_cover_every_matrix_of_every_block(model_type, count, tiny):
    network, family = tiny(model_type), family_of(model_type)
    found = roles(network, family)
    inside = [name for name in found if family.stack_of(name) and found[name][0] != "relative_bias"]
    assert len(inside) == count
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() == 2:
            assert name in found, name


@pytest.mark.parametrize(("value", "told"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_a_checkpoint_with_one_weight_that_is_no_number_is_refused(value, told, tiny, tmp_path):
    whole = tiny("bert")
    whole.save_pretrained(tmp_path / "whole")
    whole.bert.encoder.layer[1].output.dense.weight.data[3, 4] = value
    whole.save_pretrained(tmp_path / "damaged")
    read = task("classification", classes=["LABEL_0", "LABEL_1"])
    for finetuned in (True, False):
        Model(name="x", path=str(tmp_path / "whole"), finetuned=finetuned).load(read, None, 0)
        with pytest.raises(UserError) as caught:
            Model(name="x", path=str(tmp_path / "damaged"), finetuned=finetuned).load(read, None, 0)
        where = rf"bert.encoder.layer.1.output.dense.weight ({told} in 1 of 2048 entries)"
        assert str(caught.value).startswith("model.path: ") and where in str(caught.value)
