from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.linalg import matrix_norm, svdvals

from compress_exp.config.checks import FieldError
from compress_exp.layers.low_rank import LowRank, factors
from compress_exp.methods.factorize.svd import SVD, rank_of_energy, rank_of_share, ranks_of_budget
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import family_of, is_conv1d
from tests.forward import forward_logits
from tests.slimming import build

FAMILIES = ("bert", "roberta", "distilbert", "albert", "gpt2", "t5", "t5_gated", "bart")


@pytest.fixture
def method(no_budget):
    return lambda **values: SVD(name="factorize/svd", train=no_budget, **{"multiple": 1} | values)


def low_rank(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, LowRank)}


def rows(module):
    return module.weight.T if is_conv1d(module) else module.weight


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
def test_factors_are_the_nearest_of_their_rank_and_balanced(shape):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = svdvals(matrix)
    for rank in range(1, 12):
        first, second = factors(matrix, rank)
        error = matrix - second @ first
        assert matrix_norm(error).item() == pytest.approx(values[rank:].square().sum().sqrt().item(), abs=1e-12)
        assert matrix_norm(error, 2).item() == pytest.approx(values[rank].item(), abs=1e-12)
        assert torch.allclose(second.T @ second, first @ first.T, atol=1e-12)
        assert torch.allclose((second.T @ second).diag(), values[:rank], atol=1e-12)
    first, second = factors(matrix, min(shape))
    assert torch.allclose(second @ first, matrix, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_projection_becomes_its_nearest_product(family, batch, context, method):
    model, dense = build(family), build(family)
    kind = family.removesuffix("_gated")
    model = method(share=0.5).prepare(model, context(kind))
    found = low_rank(model)
    chosen = targets(dense, family_of(kind), Select())
    assert set(found) == {name for target in chosen for name in target.names}
    for name, module in found.items():
        plain = dense.get_submodule(name)
        matrix = rows(plain).detach().double()
        out, inputs = matrix.shape
        rank = module.spec()["rank"]
        assert rank * (out + inputs) <= 0.5 * out * inputs < (rank + 1) * (out + inputs)
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        nearest = left[:, :rank] * values[:rank] @ right[:rank]
        assert torch.allclose(module.dense().double(), nearest, atol=1e-5)
        assert (module.bias is None) == (plain.bias is None)
        if plain.bias is not None:
            assert torch.equal(module.bias, plain.bias)
        plain.weight.data = (nearest.T if is_conv1d(plain) else nearest).float()
    with torch.no_grad():
        assert torch.allclose(forward_logits(model.eval(), batch), forward_logits(dense, batch), atol=1e-4)


def test_a_share_gives_the_largest_rank_that_it_pays():
    assert rank_of_share(0.5, 768, 768) == 192 and rank_of_share(0.5, 768, 3072) == 307
    assert rank_of_share(0.001, 16, 16) == 1


def test_energy_gives_the_smallest_rank_that_keeps_it():
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1, 0
    wanted = {9 / 14 - 0.01: 1, 9 / 14 + 0.01: 2, 13 / 14 + 0.01: 3, 1.0: 3}
    assert {energy: rank_of_energy(energy, values) for energy in wanted} == wanted


def test_a_budget_is_dealt_out_by_energy_for_each_weight():
    generator = torch.Generator().manual_seed(3)
    shapes = [(12, 20), (8, 8), (20, 12)]
    spectra = [
        svdvals(torch.randn(shape, generator=generator) * scale) for shape, scale in zip(shapes, (1, 3, 2), strict=True)
    ]
    ranks = ranks_of_budget(0.6, spectra, shapes)
    used = sum(min(rank * sum(shape), shape[0] * shape[1]) for rank, shape in zip(ranks, shapes, strict=True))
    total = sum(out * inputs for out, inputs in shapes)
    assert 0.6 * total - max(map(sum, shapes)) < used <= 0.6 * total
    gains = [
        (float(value) ** 2 / sum(shape), number, index)
        for number, (values, shape) in enumerate(zip(spectra, shapes, strict=True))
        for index, value in enumerate(values)
        if index
    ]
    taken = {(number, index) for number, rank in enumerate(ranks) for index in range(1, rank)}
    assert taken == {item[1:] for item in sorted(gains, reverse=True)[: len(taken)]}
    assert len(set(ranks)) > 1
    with pytest.raises(FieldError, match=r"share: 0.1 is less than rank 1 everywhere takes; at least"):
        ranks_of_budget(0.1, spectra, shapes)


def test_a_global_scope_meets_the_share_and_ranks_differ(context, method):
    dense = build("bert")
    model = method(share=0.5, scope="global").prepare(build("bert"), context("bert"))
    names = [name for target in targets(dense, family_of("bert"), Select()) for name in target.names]
    whole = sum(dense.get_submodule(name).weight.numel() for name in names)
    left = 0
    for name in names:
        module = model.get_submodule(name)
        parts = (module.first, module.second) if isinstance(module, LowRank) else (module,)
        left += sum(part.weight.numel() for part in parts)
    assert 0.49 * whole < left <= 0.5 * whole
    assert len({module.spec()["rank"] for module in low_rank(model).values()}) > 2


def test_ranks_are_multiples(context, method):
    ranks = {}
    for values in ({"share": 0.6}, {"share": 0.6, "multiple": 8}, {"energy": 0.7}, {"energy": 0.7, "multiple": 4}):
        model = method(**values).prepare(build("bert"), context("bert"))
        ranks[str(values)] = {name: module.spec()["rank"] for name, module in low_rank(model).items()}
    share, down, energy, up = ranks.values()
    assert {*share.values()} == {9, 12} and {*down.values()} == {8}
    assert energy and all(up.get(name, 0) == -(-rank // 4) * 4 for name, rank in energy.items() if name in up)
    assert up and {rank % 4 for rank in energy.values()} != {0}


def test_what_would_not_become_smaller_stays_as_it_is(context, method):
    model = method(rank=18).prepare(build("bert"), context("bert"))  # 32 × 32: below 16 only, 32 × 64: below 21.3
    assert low_rank(model) and all(".dense" in name and "attention" not in name for name in low_rank(model))
    with pytest.raises(FieldError, match="no matrix becomes smaller"):
        method(energy=1.0).prepare(build("bert"), context("bert"))


def test_a_selection_by_role_takes_the_factors_along(context, method):
    model = method(share=0.5).prepare(build("t5"), context("t5"))
    found = targets(model, family_of("t5"), Select(roles=("cross.query",)))
    assert {target.role for target in found} == {"cross.query.first", "cross.query.second"}
    assert all(isinstance(target.modules[0], nn.Linear) for target in found)
    assert {target.role.rpartition(".")[2] for target in targets(model, family_of("t5"), Select())} == {
        "first",
        "second",
    }


def test_settings_and_parents_that_cannot_be_are_refused(method, facts, context):
    with pytest.raises(FieldError, match="exactly one of share, rank, energy is to be set; none"):
        method()
    with pytest.raises(FieldError, match="rank: exactly one of .*; share and rank are set"):
        method(share=0.5, rank=3)
    with pytest.raises(FieldError, match="scope: global deals out a share"):
        method(rank=3, scope="global")
    with pytest.raises(FieldError, match="'embedding' is a table"):
        method(share=0.5, select=Select(roles=("embedding",))).check(facts("bert"))
    with pytest.raises(FieldError, match="would undo the pruning before it"):
        method(share=0.5).check(replace(facts("bert"), pruned=True))
    with pytest.raises(FieldError, match="factorize/svd factored every projection"):
        method(share=0.5).check(method(share=0.5).check(facts("bert")))
    shaped = replace(facts("bert"), skeleton=lambda: build("bert"))
    with pytest.raises(FieldError, match="rank: 22 makes no selected matrix smaller; at most 21 does"):
        method(rank=22).check(shaped)
    with pytest.raises(FieldError, match=r"lm_head, transformer.wte is a table|transformer.wte, lm_head is a table"):
        method(share=0.5, select=Select(roles=("head",))).prepare(build("gpt2"), context("gpt2"))
    once = method(share=0.5, select=Select(roles=("query",))).prepare(build("bert"), context("bert"))
    with pytest.raises(FieldError, match="query.first is a factor already; exclude it"):
        method(share=0.5).prepare(once, context("bert"))
