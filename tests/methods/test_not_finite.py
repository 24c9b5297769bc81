"""One weight that is no number, and what every method says of it: where, in one sentence, and with nothing built."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress_exp.config.checks import FieldError, UserError
from compress_exp.experiment.build import apply_stage
from compress_exp.methods.prune.common.ranking import NoOrder, ranked_groups, ranked_masks
from compress_exp.methods.prune.n_m import n_m_mask
from compress_exp.methods.quant.fake import FakeQuantInput
from tests.experiments import planned

NAN, INFINITY = float("nan"), float("inf")
QUERY = r"bert\.encoder\.layer\.1\.attention\.self\.query"
ANY = r"bert\.encoder\.layer\.\d\.\S+"
AT_ONCE = "method.prune.train.max_steps=0"
SAID = {
    ("prune/magnitude", AT_ONCE): rf"method\.prune: {QUERY}: scores",
    ("prune/magnitude", AT_ONCE, "method.prune.scope=global"): rf"method\.prune: {QUERY}: scores",
    ("prune/magnitude", AT_ONCE, "method.prune.scope=row"): rf"method\.prune: {QUERY}: scores",
    ("prune/random", AT_ONCE): r"prune/random: what was built",
    ("prune/gradient", AT_ONCE): rf"method\.prune: {ANY}: what gradients say",
    ("prune/snip", AT_ONCE): rf"method\.prune: {ANY}: what gradients say",
    ("prune/taylor", AT_ONCE): rf"method\.prune: {ANY}: what gradients say",
    ("prune/wanda",): rf"prune/wanda: {QUERY}: scores",
    ("prune/sparsegpt",): rf"prune/sparsegpt: {ANY}: (scores|its inputs)",
    ("prune/n_m",): rf"prune/n_m: {QUERY}: scores",
    ("prune/n_m", "method.prune.criterion=wanda"): rf"prune/n_m: {QUERY}: scores",
    ("prune/heads", AT_ONCE): rf"method\.prune: {ANY} \(heads\): scores",
    ("prune/neurons", AT_ONCE): rf"method\.prune: {ANY} \(neurons\): scores",
    ("prune/structured", AT_ONCE): rf"method\.prune: {ANY} \(heads\): scores",
    (
        "prune/layers",
        AT_ONCE,
        "method.prune.keep=block_influence",
    ): r"method\.prune: what layer 1 of the encoder changes",
    ("prune/layers", AT_ONCE, "method.prune.keep=first"): r"prune/layers: what was built",
    ("prune/movement",): r"train: the loss is not finite at step 0, before anything was learned",
    ("quant/static",): r"method\.quant: the inputs that set the range",
    ("quant/int8",): r"method\.quant: the inputs that set the range",
    ("quant/weight_only",): r"quant/weight_only: what was built",
    ("quant/gptq",): rf"quant/gptq: {ANY}: its inputs",
    ("quant/bf16",): r"quant/bf16: what was built",
    ("distill",): r"train: the loss is not finite at step 0, before anything was learned",
    ("finetune",): r"train: the loss is not finite at step 0, before anything was learned",
}


@pytest.mark.parametrize("value", [NAN, INFINITY])
@pytest.mark.parametrize("overrides", SAID, ids=" ".join)
def test_no_method_builds_anything_of_a_weight_that_is_no_number(overrides, value, dense, data, tmp_path):
    plan = planned("bert", data, f"method={overrides[0]}", *overrides[1:])
    whole, parent, out = dense(plan), tmp_path / "parent", tmp_path / "out"
    shutil.copytree(whole, parent)
    out.mkdir()
    tensors = load_file(parent / "model.safetensors")
    tensors["bert.encoder.layer.1.attention.self.query.weight"][0, 0] = value
    save_file(tensors, parent / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"^{SAID[overrides]}") as caught:
        apply_stage(plan, 0, parent, parent, out)
    assert "\n" not in str(caught.value) and "not finite" in str(caught.value)
    assert not list(out.glob("*.safetensors"))


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_rankings_refuse_what_has_no_order_and_name_the_tensor(value):
    scores = [torch.rand(4, 8), torch.rand(4, 8)]
    kept = [torch.ones(4, 8, dtype=torch.bool)] * 2
    kept[0] = kept[0].clone()
    kept[0][:, 0] = False  # what is gone already counts as the smallest, and is no reason to refuse
    for scope in ("global", "tensor", "row"):
        assert sum(int(mask.sum()) for mask in ranked_masks(scores, kept, 0.5, scope)) == 32
    counts = [torch.full((4,), 8)] * 2
    scores[1][2, 3] = value
    for scope in ("global", "tensor", "row"):
        with pytest.raises(NoOrder, match="1 of 32 entries") as caught:
            ranked_masks(scores, kept, 0.5, scope)
        assert caught.value.index == 1
    for scope in ("global", "tensor"):
        with pytest.raises(NoOrder, match="1 of 4 entries"):
            ranked_groups([score[:, 3] for score in scores], counts, [32, 32], 0.5, scope)
    with pytest.raises(NoOrder, match="1 of 32 entries"):
        n_m_mask(scores[1], kept[1], 2, 4)


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
def test_ranges_are_not_set_by_what_is_not_finite(value):
    quantizer, inputs = FakeQuantInput(0.9), torch.linspace(-1, 1, 12).view(2, 6)
    quantizer(inputs)
    inputs[1, 2] = value
    with pytest.raises(FieldError, match=r"a layer of 6 inputs are not finite, \w+ in 1 of 12 entries"):
        quantizer(inputs)
    assert (float(quantizer.low), float(quantizer.high)) == (-1, 1) and int(quantizer.seen) == 1
