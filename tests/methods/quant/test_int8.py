from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parametrize

from compress_exp.config.checks import FieldError, UserError
from compress_exp.experiment.build import convert, run_stage, train_stage
from compress_exp.formats.artifact import load
from compress_exp.layers.int8 import Int8Embedding, Int8Linear
from compress_exp.methods.parametrized import attached, bake, lock, mark_masked
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.quant.fake import FakeQuantInput, FakeQuantWeight, input_grid, row_scale
from compress_exp.methods.quant.int8 import Int8
from tests.conftest import ARCHITECTURES
from tests.experiments import planned
from tests.forward import forward_logits
from tests.moments import at

FAMILIES = tuple(ARCHITECTURES)


@pytest.fixture
def method(no_budget):
    return Int8(name="quant/static", train=no_budget)


def test_fake_quantized_weights_are_idempotent_near_and_keep_zero():
    torch.manual_seed(0)
    weight = torch.randn(8, 33)
    weight[0, :5] = 0.0
    weight[3] = 0.0
    quantizer = FakeQuantWeight(0, 127)
    rounded = quantizer(weight)
    step = row_scale(weight, 0, 127).unsqueeze(1)
    assert torch.equal(quantizer(rounded), rounded)
    assert bool(((weight - rounded).abs() <= step / 2 * (1 + 1e-5)).all())
    assert bool((rounded[weight == 0] == 0).all())
    assert all(len(row.unique()) <= 255 for row in rounded)


def test_gradients_pass_straight_through():
    weight = torch.randn(4, 6, requires_grad=True)
    FakeQuantWeight(0, 63)(weight).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_gradients_stop_outside_the_input_range():
    quantizer = FakeQuantInput(0.9)
    quantizer.low.fill_(-1.0)
    quantizer.high.fill_(1.0)
    quantizer.observing.fill_(False)
    inputs = torch.tensor([-3.0, -0.5, 0.5, 3.0], requires_grad=True)
    quantizer(inputs).sum().backward()
    assert inputs.grad.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-2.0, -0.5), (0.0, 0.0)])
def test_the_input_grid_holds_zero_and_the_range(low, high):
    scale, zero_point = input_grid(torch.tensor(low), torch.tensor(high))
    values = float(scale) * (torch.arange(256) - int(zero_point))
    assert 0.0 in values.tolist()
    assert float(values[0]) <= min(low, 0.0) + float(scale) / 2 + 1e-6
    assert float(values[-1]) >= max(high, 0.0) - float(scale) / 2 - 1e-6


def test_ranges_are_the_mean_at_first_and_a_moving_average_after():
    quantizer = FakeQuantInput(0.9)
    highs = [1.0, 2.0, 4.0]
    for high in highs:
        quantizer(torch.tensor([-1.0, high]))
    assert float(quantizer.high) == pytest.approx(sum(highs) / 3)
    for _ in range(7):
        quantizer(torch.tensor([-1.0, 1.0]))
    before = float(quantizer.high)
    quantizer(torch.tensor([-1.0, 11.0]))
    assert float(quantizer.high) == pytest.approx(0.9 * before + 0.1 * 11.0)
    quantizer.observing.fill_(False)
    quantizer(torch.tensor([-1.0, 99.0]))
    assert float(quantizer.high) == pytest.approx(0.9 * before + 0.1 * 11.0)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_packed_models_compute_what_the_fake_quantized_ones_did(model_type, tiny, context, method, batch):
    model = method.prepare(tiny(model_type), context(model_type))
    method.step(at(model, 1.0))
    with torch.no_grad(), parametrize.cached():
        fake = forward_logits(model, batch)
    model = method.convert(at(model))
    bake(model)
    with torch.no_grad():
        packed = forward_logits(model, batch)
    assert float((fake - packed).abs().max()) <= 1e-4 * float(fake.abs().max())


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_projection_and_table_is_int8(model_type, tiny, context, method):
    model = method.prepare(tiny(model_type), context(model_type))
    family = context(model_type).family
    names = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Module) and n and family.role(n, m)}
    model = method.convert(at(model))
    for name in names:
        module, stack = model.get_submodule(name), family.stack_of(name)
        if stack is not None and family.role(name, torch.nn.Linear(1, 1)) is not None:
            assert isinstance(module, Int8Linear) or type(module) is torch.nn.Embedding, name
    assert isinstance(model.get_input_embeddings(), Int8Embedding)


@pytest.mark.parametrize("model_type", ["gpt2", "t5", "bart"])
def test_tied_heads_share_their_packed_table(model_type, tiny, context, method):
    model = method.convert(at(method.prepare(tiny(model_type), context(model_type))))
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(head, Int8Linear)
    assert head.weight.data_ptr() == table.weight.data_ptr()
    assert head.weight_scale is table.weight_scale


def test_quantizing_after_pruning_keeps_every_zero(tiny, context, method, budget):
    prune = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.7, schedule="one_shot")
    model = prune.prepare(tiny("bert"), context("bert"))
    prune.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    zeros = {n: m.weight == 0 for n, m in model.named_modules() if n.endswith("dense") and "layer" in n}
    lock(model)
    model = method.prepare(model, context("bert"))
    mark_masked(model)
    model = method.convert(at(model))
    for name, mask in zeros.items():
        packed = model.get_submodule(name)
        assert isinstance(packed, Int8Linear)
        assert bool((packed.weight[mask] == 0).all())


def test_nothing_follows_packed_weights(facts, method, budget):
    after = method.check(facts("bert"))
    with pytest.raises(FieldError, match="nothing can follow quant/static"):
        MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5).check(after)


def largest_codes(model):
    return {
        name: int(module.weight.int().abs().max())
        for name, module in model.named_modules()
        if isinstance(module, Int8Linear | Int8Embedding)
    }


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("safe", [True, False])
def test_what_is_multiplied_stays_where_no_cpu_overflows(model_type, safe, tiny, context, no_budget):
    method = Int8(name="quant/static", train=no_budget, overflow_safe=safe)
    model = method.prepare(tiny(model_type), context(model_type))
    grids = {id(m): attached(m, FakeQuantWeight).limit for m in model.modules() if attached(m, FakeQuantWeight)}
    assert set(grids.values()) <= ({63, 127} if safe else {127})
    model = method.convert(at(model))
    tied = model.get_output_embeddings() is not None and model_type in ("gpt2", "t5", "bart")
    for name, largest in largest_codes(model).items():
        module = model.get_submodule(name)
        shared = tied and module.weight is model.get_output_embeddings().weight
        assert largest == (63 if safe and (isinstance(module, Int8Linear) or shared) else 127), name
    assert method.largest_code == (63 if safe else 127)
    assert 2 * 255 * 63 <= 2**15 - 1 < 2 * 255 * 127


FFN, ATTENTION = "[ffn_in,ffn_out]", "[query,key,value,attention_output]"


def test_two_quantizers_share_a_model_by_roles(data, dense, store, tmp_path):
    """Calibrated int8 of half of the model, then of the other half, which sees the first half's rounding."""
    first, second = "quant/static", "quant2"
    plan = planned(
        "bert",
        data,
        f"method={first}",
        f"+method@method.{second}={first}",
        f"method.quant.select.roles={FFN}",
        f"method.{second}.select.roles={ATTENTION}",
        f"method.{second}.embeddings=false",
    )
    base = dense(plan)
    half = store.get(plan.stage_recipe(0), lambda d, check: run_stage(plan, 0, base, base, d), "half")
    run_stage(plan, 1, half, base, tmp_path)
    model, before = load(tmp_path), load(half)
    assert sum(isinstance(module, Int8Linear) for module in before.modules()) == 4 * 2
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 4 * 6
    name = "bert.encoder.layer.0.intermediate.dense"
    one, other = before.get_submodule(name), model.get_submodule(name)
    assert torch.equal(one.weight, other.weight) and torch.equal(one.weight_scale, other.weight_scale)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "method.quant2.select: every weight that it takes was packed by quant/static; give the two"),
        ([f"method.quant.select.roles={FFN}", f"method.quant2.select.roles={FFN}"], "every weight that it takes"),
        ([f"method.quant.select.roles={FFN}", "method.quant2.train.max_steps=3"], "method.quant2: nothing can follow"),
    ],
)
def test_what_is_packed_is_not_packed_again(overrides, sentence, data):
    with pytest.raises(UserError, match=sentence):
        planned("bert", data, "method=quant/static", "+method@method.quant2=quant/static", *overrides)


@pytest.mark.parametrize("follower", ["finetune", "prune", "prune/heads"])
def test_rounded_weights_train_in_float32_and_are_rounded_again(follower, data, dense, store, tmp_path):
    plan = planned("bert", data, f"method=[quant/bf16,{follower}]", "train.learning_rate=1e-4")
    base = dense(plan)
    rounded = store.get(plan.stage_recipe(0), lambda d, check: run_stage(plan, 0, base, base, d), "rounded")
    built = train_stage(plan, 1, rounded, base, tmp_path)
    assert {p.dtype for p in built.model.parameters()} == {torch.float32}
    trained = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    model = convert(plan.stages[1], built)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.classifier.weight, trained["classifier.weight"].bfloat16())
    assert not torch.equal(trained["classifier.weight"], model.classifier.weight.float())
    if follower == "prune":
        query = model.bert.encoder.layer[0].attention.self.query.weight
        assert int((query == 0).sum()) >= query.numel() // 2


def test_integers_do_not_follow_what_rounded_every_weight(data):
    with pytest.raises(UserError, match="method.static: quant/bf16 before it rounded every weight; leave"):
        planned("bert", data, "method=quant/bf16", "+method@method.static=quant/static")
