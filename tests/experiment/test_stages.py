from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.utils import parametrize

from compress_exp.config.checks import UserError
from compress_exp.experiment.build import apply_stage, convert, publish, run_stage, train_stage
from compress_exp.formats.artifact import load
from compress_exp.layers.int8 import Int8Linear
from compress_exp.layers.low_rank import LowRank
from compress_exp.layers.sharing import shared_blocks
from compress_exp.layers.surgery import is_pruned, pruned_modules
from compress_exp.models.families.base import blocks, family_of, is_conv1d, is_linear
from tests.experiments import planned
from tests.forward import forward_logits
from tests.variants import FAMILIES, LATE, MASKING, SHRINKING, chosen, fixed_batch, trained

BOTH = "method=[prune,quant]"
ONE_OF_EACH_KIND = ("prune/gradual", "prune/movement", "prune/l0", "prune/n_m")
BEFORE_QUANTIZATION = [
    ("prune/gradual", "bert"),
    ("prune/movement", "gpt2"),
    ("prune/l0", "t5"),
    ("prune/wanda", "bart"),
    ("prune/heads", "bert"),
    ("prune/layers", "bart"),
    ("prune/vocabulary", "t5"),
    ("prune/cofi", "gpt2"),
]


def test_every_method_has_its_own_stage_unless_stages_says_otherwise(data):
    assert [stage.label for stage in planned("bert", data, BOTH).stages] == ["prune/gradual", "quant/int8"]
    joint = planned("bert", data, "method=[prune,quant,finetune]", "stages=[[prune,quant]]", "~method.finetune")
    assert [stage.label for stage in joint.stages] == ["prune/gradual+quant/int8"]
    order = planned("bert", data, "method=[quant,prune]", "stages=[[prune],[quant]]")
    assert [stage.label for stage in order.stages] == ["prune/gradual", "quant/int8"]


def test_at_once_is_another_result_than_one_after_the_other(data):
    apart, joint = planned("bert", data, BOTH), planned("bert", data, BOTH, "stages=[[prune,quant]]")
    assert len({apart.run_id, joint.run_id, planned("bert", data, BOTH, "stages=[[prune],[quant]]").run_id}) == 2
    assert apart.baseline_key == joint.baseline_key


def test_methods_at_once_have_no_order(data):
    written = ("stages=[[prune,quant]]", "stages=[[quant,prune]]")
    one, other = (planned("bert", data, BOTH, stages) for stages in written)
    assert one.recipes == other.recipes
    late = planned("bert", data, "method=[prune,distill]", "stages=[[prune,distill]]")
    assert [method.family for method in late.stages[0].methods] == ["distill", "prune"]


def test_a_mask_of_calibration_rows_trains_on_with_what_trains(data, dense, tmp_path):
    plan = planned("bert", data, "method=[prune/wanda,quant]", "stages=[[prune,quant]]")
    base = dense(plan)
    built = train_stage(plan, 0, base, base, tmp_path)
    assert built.steps == 3
    query = built.model.bert.encoder.layer[0].attention.self.query.weight
    assert int((query == 0).sum()) >= query.numel() // 2
    idle = planned("bert", data, "method=[prune/wanda,quant/static]", "stages=[[prune,quant]]")
    assert not idle.stages[0].trains


def test_a_student_is_pruned_while_it_learns(data, dense, tmp_path):
    plan = planned("bert", data, "method=[distill,prune]", "stages=[[distill,prune]]")
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    assert built.model.config.num_hidden_layers == 2
    assert {"soft", "hard", "sparsity"} <= set(built.history[0])
    query = built.model.bert.encoder.layer[0].attention.self.query.weight
    assert int((query == 0).sum()) == query.numel() // 2


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([BOTH, "stages=[prune,quant]"], r"stages: \['prune', 'quant'\] is not allowed; null or a list of lists is"),
        ([BOTH, "stages=[[prune,quantize]]"], "stages: 'quantize' is no key of method; did you mean quant"),
        ([BOTH, "stages=[[prune]]"], "stages: quant is to appear once, not 0 times"),
        ([BOTH, "stages=[[prune,quant],[prune]]"], "stages: prune is to appear once, not 2 times"),
        (["method=[prune,quant/static]", "stages=[[prune,quant]]"], "stages: quant packs weights without"),
        (
            ["method=[distill,prune/heads]", "stages=[[distill,prune]]"],
            "stages: one method at once may replace the model, and distill, prune has more",
        ),
        (
            ["method=prune", "+method@method.more=prune/random", "stages=[[prune,more]]"],
            "stages: one method of a family at once, and prune, more has two",
        ),
    ],
)
def test_what_cannot_be_arranged_is_one_sentence(overrides, sentence, data):
    with pytest.raises(UserError, match=sentence) as caught:
        planned("bert", data, *overrides)
    assert "\n" not in str(caught.value)


def published(built, directory):
    """The model as another process would load it, once its logits are those of the one that was written."""
    publish(built, directory)
    again = load(directory)
    with torch.no_grad():
        batch = fixed_batch(again)
        assert torch.equal(forward_logits(again, batch), forward_logits(built.model, batch))
    return again


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", [*SHRINKING, *LATE])
def test_smaller_models_are_quantized_at_once(variant, family, data, dense, tmp_path):
    plan = planned(family, data, f"method=[{variant},quant]", "stages=[[prune,quant]]")
    base = dense(plan)
    model = published(apply_stage(plan, 0, base, base, tmp_path), tmp_path)
    dense_ones, packed = (
        [module for block in blocks(each, family_of(family)).values() for _, module in block.values()]
        for each in (load(base), model)
    )
    assert packed and all(isinstance(module, Int8Linear) for module in packed)
    assert sum(module.weight.numel() for module in packed) < 0.85 * sum(m.weight.numel() for m in dense_ones)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", ["factorize", "share"])
def test_factors_and_what_layers_share_are_pruned_and_quantized_at_once(variant, family, data, dense, tmp_path):
    plan = planned(family, data, f"method=[quant,prune,{variant}]", f"stages=[[quant,prune,{variant}]]")
    base = dense(plan)
    built = train_stage(plan, 0, base, base, tmp_path)
    model = built.model.train()
    batch = fixed_batch(model)
    with parametrize.cached():
        forward_logits(model, batch).square().mean().backward()
    trained_ones = {name: p for name, p in model.named_parameters() if name.endswith("original")}
    assert len(trained_ones) > 8
    assert not [name for name, p in trained_ones.items() if p.grad is None or not bool((p.grad != 0).any())]
    expected = forward_logits(model.eval(), batch).detach()
    packed = published(replace(built, model=convert(plan.stages[0], built)), tmp_path)
    assert torch.allclose(forward_logits(packed, batch), expected, atol=1e-4)  # in floats, as gradients are wanted
    inside = [module for name, module in packed.named_modules() if family_of(family).stack_of(name) is not None]
    layers = [module for module in inside if isinstance(module, Int8Linear)]
    assert not [module for module in inside if is_linear(module)]
    assert sum(int((m.weight == 0).sum()) for m in layers) >= 0.49 * sum(m.weight.numel() for m in layers)
    assert any(isinstance(module, LowRank) for module in inside) == (variant == "factorize")
    assert bool(shared_blocks(packed, family_of(family))) == (variant == "share")


@pytest.mark.parametrize(
    ("first", "second", "family"),
    [
        ("factorize", "prune/n_m", "gpt2"),
        ("factorize", "prune/cofi", "bert"),  # fewer neurons than the rank of their factors
        ("factorize", "prune/structured", "t5"),
        ("factorize", "share", "bart"),
        ("share", "factorize", "t5"),
        ("share", "prune/sparsegpt", "bert"),
        ("share", "distill", "gpt2"),
        ("share", "prune/vocabulary", "t5"),
    ],
)
def test_later_stages_take_factors_and_shared_layers(first, second, family, data, dense, store, tmp_path):
    plan = planned(family, data, f"method=[{first},{second}]", *chosen(second)[1:])
    base = dense(plan)
    parent = store.get(plan.stage_recipe(0), lambda place, check: run_stage(plan, 0, base, base, place), first)
    model = published(apply_stage(plan, 1, parent, base, tmp_path), tmp_path)
    factored = any(isinstance(module, LowRank) for module in model.modules())
    assert factored == ("factorize" in (first, second))
    copies = second == "distill"  # of layers that had different sets of weights
    assert bool(shared_blocks(model, family_of(family))) == ("share" in (first, second) and not copies)
    sizes = [(place / "model.safetensors").stat().st_size for place in (tmp_path, parent)]
    assert sizes[0] == sizes[1] if copies else sizes[0] < sizes[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_smaller_vocabulary_is_quantized_at_once(family, data, dense, tmp_path):
    plan = planned(
        family, data, "method=[prune/vocabulary,quant]", *trained("prune/vocabulary")[1:], "stages=[[prune,quant]]"
    )
    base = dense(plan)
    model = published(apply_stage(plan, 0, base, base, tmp_path), tmp_path)
    assert model.config.vocab_size < load(base).config.vocab_size
    inside = [module for block in blocks(model, family_of(family)).values() for _, module in block.values()]
    assert all(isinstance(module, Int8Linear) for module in inside)


@pytest.mark.parametrize(
    ("variant", "family"), [(v, f) for v in MASKING for f in FAMILIES if f == "bert" or v in ONE_OF_EACH_KIND]
)
def test_pruning_and_quantization_at_once_leave_int8_weights_with_the_zeros(variant, family, data, dense, tmp_path):
    plan = planned(family, data, f"method=[{variant},quant]", *trained(variant)[1:], "stages=[[prune,quant]]")
    base = dense(plan)
    model = published(apply_stage(plan, 0, base, base, tmp_path), tmp_path)
    pruned = [module for _, module in pruned_modules(model)]
    inside = [module for block in blocks(model, family_of(family)).values() for _, module in block.values()]
    assert {id(module) for module in pruned} == {id(module) for module in inside}
    assert all(isinstance(module, Int8Linear) for module in pruned)
    zeros = sum(int((module.weight == 0).sum()) for module in pruned)
    assert zeros >= 0.49 * sum(module.weight.numel() for module in pruned)


@pytest.mark.parametrize(("variant", "family"), BEFORE_QUANTIZATION)
def test_what_is_pruned_is_quantized_afterwards(variant, family, data, dense, store, tmp_path):
    rate = 1e-3
    settings = (*chosen(variant)[1:], f"method.quant.train.learning_rate={rate}")
    plan = planned(family, data, f"method=[{variant},quant]", *settings)
    base = dense(plan)
    parent = store.get(plan.stage_recipe(0), lambda place, check: run_stage(plan, 0, base, base, place), variant)
    model = published(apply_stage(plan, 1, parent, base, tmp_path), tmp_path)
    before = load(parent)
    assert bool(list(pruned_modules(before))) == (variant in MASKING)
    assert {name for name, _ in pruned_modules(model)} == {name for name, _ in pruned_modules(before)}
    for block in blocks(model, family_of(family)).values():
        for name, module in block.values():
            assert isinstance(module, Int8Linear)
            old = before.get_submodule(name)
            weight, scale = old.weight.T if is_conv1d(old) else old.weight, module.weight_scale.unsqueeze(1)
            assert bool(((module.weight * scale - weight).abs() <= scale / 2 + 4 * rate).all()), name
            if is_pruned(old):
                assert bool((module.weight == 0)[weight == 0].all()), name
                assert int((weight == 0).sum()) > 0.25 * weight.numel()
