"""Weights that go in groups (blocks, rows, columns): as near to the amount as whole groups add up to."""

from __future__ import annotations

import pytest
import torch

from compress_exp.methods.parametrized import bake, lock, mark_masked, owned
from compress_exp.methods.prune.common.ranking import ranked_groups
from compress_exp.methods.prune.group_lasso import GroupLassoPruning
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.prune.movement import MovementGate, MovementPruning
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import family_of
from tests.moments import at


def outputs_of(model):
    """Every pruned weight as output × input."""
    found = targets(model, family_of(model.config.model_type), Select())
    weights = [target.modules[0].weight.detach() for target in found]
    return [weight.T if model.config.model_type == "gpt2" else weight for weight in weights]


def pruned_first(model, context, budget):
    """The model as a later stage finds it, half of every tensor gone."""
    method = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5)
    method.step(at(method.prepare(model, context), 1.0))
    mark_masked(model)
    bake(model)
    lock(model)
    return model


def check_amount(weights, groups, sparsity, scope):
    """Altogether within half a group; where tensors are compared on their own each within one, what is carried on.

    Args:
        weights: after pruning.
        groups: of each tensor, how many weights could go with each of its groups.
    """
    zeros = [int((weight == 0).sum()) for weight in weights]
    largest = float(torch.cat(groups).max())
    assert abs(sum(zeros) - sparsity * sum(weight.numel() for weight in weights)) <= largest / 2
    if scope == "tensor":
        for count, weight in zip(zeros, weights, strict=True):
            assert abs(count - sparsity * weight.numel()) <= largest


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("block", [(8, 8), (5, 7), (12, 20)])
@pytest.mark.parametrize("earlier", [False, True])
def test_blocks_land_on_the_amount_within_half_a_block(model_type, scope, block, earlier, tiny, context, budget):
    sparsity = 0.7 if earlier else 0.3
    method = MovementPruning(name="prune/block", train=budget, sparsity=sparsity, scope=scope, block=block)
    model = tiny(model_type)
    if earlier:
        pruned_first(model, context(model_type), budget)
    before = [weight != 0 for weight in outputs_of(model)]
    method.prepare(model, context(model_type))
    generator = torch.Generator().manual_seed(1)
    scores = []
    for _, gate in owned(model, method.name, MovementGate):
        gate.scores.data.copy_(torch.randn(gate.scores.shape, generator=generator))
        scores.append(gate.scores.detach().T if model_type == "gpt2" else gate.scores.detach())
    method.step(at(model, 1.0))
    bake(model)
    weights, counts = outputs_of(model), []
    for weight, old, grid in zip(weights, before, scores, strict=True):
        tiles = [
            (slice(row * block[0], (row + 1) * block[0]), slice(column * block[1], (column + 1) * block[1]))
            for row in range(grid.shape[0])
            for column in range(grid.shape[1])
        ]
        counts.append(torch.tensor([int(old[tile].sum()) for tile in tiles]))
        gone = torch.tensor([not bool((weight[tile] != 0).any()) for tile in tiles])
        whole = [torch.equal(weight[tile] != 0, old[tile]) for tile in tiles]
        assert all(away or untouched for away, untouched in zip(gone.tolist(), whole, strict=True))
        if scope == "tensor":
            flat, cut = grid.flatten(), gone & (counts[-1] > 0)
            assert not bool(cut.any()) or float(flat[cut].max()) < float(flat[~gone].min())
    check_amount(weights, counts, sparsity, scope)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize("scope", ["tensor", "global"])
@pytest.mark.parametrize("group", ["row", "column"])
@pytest.mark.parametrize("earlier", [False, True])
def test_trimmed_rows_and_columns_land_on_the_amount_within_half_a_group(
    model_type, scope, group, earlier, tiny, context, budget
):
    sparsity = 0.7 if earlier else 0.45
    method = GroupLassoPruning(
        name="prune/x", train=budget, strength=0.0, group=group, trim=True, sparsity=sparsity, scope=scope
    )
    model = tiny(model_type)
    axis = 1 if group == "row" else 0
    if scope == "global":
        generator = torch.Generator().manual_seed(2)
        for target in targets(model, family_of(model_type), Select()):
            weight = target.modules[0].weight.data
            along = axis if model_type == "bert" else 1 - axis
            sizes = 0.1 + torch.rand(weight.shape[1 - along], generator=generator)
            weight /= weight.norm(dim=along, keepdim=True) / sizes.unsqueeze(along)
    if earlier:
        pruned_first(model, context(model_type), budget)
    before = outputs_of(model)
    before = [weight.clone() for weight in before]
    method.prepare(model, context(model_type))
    with torch.no_grad():
        method.finish(at(model))
    bake(model)
    weights = outputs_of(model)
    for weight, old in zip(weights, before, strict=True):
        gone = (weight == 0).all(axis)
        assert torch.equal(weight.transpose(0, 1 - axis)[~gone], old.transpose(0, 1 - axis)[~gone])
        if scope == "tensor":
            norms = old.norm(dim=axis)
            assert float(norms[gone].max()) <= float(norms[~gone].min())
    check_amount(weights, [(old != 0).sum(axis) for old in before], sparsity, scope)


def test_among_groups_of_equal_score_the_first_go():
    scores = [torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0])]
    kept = [torch.full((4,), 10), torch.full((2,), 10)]
    for wanted, expected in ((1, "010000"), (2, "110000"), (3, "111000"), (5, "111110")):
        masks = ranked_groups(scores, kept, [40, 20], wanted / 6, "global")
        assert "".join("0" if keep else "1" for keep in torch.cat(masks).tolist()) == expected
    (mask,) = ranked_groups([torch.zeros(7)], [torch.full((7,), 3)], [21], 4 / 7, "tensor")
    assert mask.tolist() == [False] * 4 + [True] * 3


def test_a_group_that_is_empty_stays_away_and_what_it_lost_counts():
    scores, kept = [torch.tensor([9.0, 1.0, 2.0, 3.0])], [torch.tensor([0, 10, 10, 10])]
    for scope in ("global", "tensor"):
        (mask,) = ranked_groups(scores, kept, [40], 0.5, scope)
        assert mask.tolist() == [False, False, True, True]
        (mask,) = ranked_groups(scores, kept, [40], 0.0, scope)
        assert mask.tolist() == [False, True, True, True]


def test_what_one_tensor_misses_by_rounding_the_next_makes_up_for():
    kept = [torch.full((3,), 10)] * 4
    masks = ranked_groups([torch.arange(3.0)] * 4, kept, [30] * 4, 0.45, "tensor")
    # 13.5 weights are wanted of each: 10, then 17 of which 20 go, then 10.5, then 14.
    assert [int((~mask).sum()) for mask in masks] == [1, 2, 1, 1]


def test_a_tensor_that_lost_more_than_its_share_before_leaves_the_others_at_theirs():
    kept = [torch.tensor([10, 0, 0, 0, 0]), torch.full((5,), 10), torch.full((5,), 10)]
    masks = ranked_groups([torch.arange(5.0)] * 3, kept, [50] * 3, 0.4, "tensor")
    assert [int((~mask).sum()) for mask in masks] == [4, 2, 2]
