from __future__ import annotations

from dataclasses import replace

import pytest

from compress_exp.config.checks import UserError
from compress_exp.losses.soft_targets import SoftTargets
from compress_exp.losses.task import TaskLoss
from compress_exp.methods.prune.lottery_ticket import LotteryTicket
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.methods.prune.once_for_all import OnceForAll
from compress_exp.methods.quant.fake import FakeQuantInput
from compress_exp.methods.quant.int8 import Int8
from compress_exp.methods.rate import rate_factor
from compress_exp.parallel.seeds import derived
from compress_exp.training.flows import DistillationModule, PruneFinetuneModule, QATModule
from compress_exp.training.module import CompressionModule
from compress_exp.training.teacher import SameTokens


def test_the_rate_rises_and_falls_linearly():
    factors = [rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert [rate_factor(step, 4, 0.0) for step in range(4)] == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_step_seeds_depend_on_all_their_arguments():
    seeds = {derived(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(2)}
    assert len(seeds) == 300


def test_progress_ends_at_exactly_one_and_is_held_through_a_round(tiny, context, budget):
    single = CompressionModule(tiny("bert"), replace(context("bert"), steps=7), {"task": TaskLoss()}, (), budget)
    assert [single.progress(step) for step in range(7)][-1] == 1.0
    method = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5, schedule="cubic", rounds=3)
    rounds = PruneFinetuneModule(
        tiny("bert"), replace(context("bert"), steps=4), {"task": TaskLoss()}, (method,), budget
    )
    assert rounds.total_steps == 12
    assert [rounds.progress(step) for step in range(12)] == pytest.approx([1 / 3] * 4 + [2 / 3] * 4 + [1.0] * 4)
    assert rounds.progress(11) == 1.0


def test_progress_over_several_trainings(tiny, context, budget):
    def progress(method):
        module = PruneFinetuneModule(
            tiny("bert"), replace(context("bert"), steps=4), {"task": TaskLoss()}, (method,), budget
        )
        return [module.progress(step) for step in range(module.total_steps)]

    ticket = LotteryTicket(name="prune/lottery_ticket", train=budget, sparsity=0.5, rounds=2)
    assert progress(ticket) == [0.0] * 4 + [0.5] * 4 + [1.0] * 4
    twice = OnceForAll(name="prune/once_for_all", train=budget, sparsity=0.5, schedule="cubic", end=0.5)
    assert progress(twice) == [0.25, 0.5, 0.75, 1.0] + [1.0] * 4
    assert [twice.own_progress(value) for value in progress(twice)[:4]] == [0.5, 1.0, 1.0, 1.0]


def test_a_loss_that_needs_a_teacher_says_so(tiny, context, budget):
    with pytest.raises(UserError, match="needs a teacher"):
        CompressionModule(tiny("bert"), replace(context("bert"), steps=7), {"soft_targets": SoftTargets()}, (), budget)


def test_the_teacher_is_frozen_and_in_no_state(tiny, context, budget):
    own, teacher = replace(context("bert"), steps=7), tiny("bert")
    asked = SameTokens(teacher, own.task)
    module = DistillationModule(tiny("bert"), own, {"soft_targets": SoftTargets()}, (), budget, asked)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert len(module.state_dict()) == len(tiny("bert").state_dict())


def test_named_modules_refuse_what_they_are_not_for(tiny, context, budget):
    prune = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5, schedule="cubic")
    losses = {"task": TaskLoss()}
    PruneFinetuneModule(tiny("bert"), replace(context("bert"), steps=1), losses, (prune,), budget).on_fit_start()
    for module in (QATModule, DistillationModule):
        with pytest.raises(UserError, match=f"{module.__name__} is for methods of family .* has prune/magnitude"):
            module(tiny("bert"), replace(context("bert"), steps=1), losses, (prune,), budget).on_fit_start()


@pytest.mark.parametrize("others", [(), ("prune",)])
def test_an_input_range_that_saw_no_data_is_refused_whatever_it_is_trained_with(tiny, context, budget, others):
    prune = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.5, schedule="cubic")
    methods = (*(prune for _ in others), Int8(name="quant/int8", train=budget))
    module = CompressionModule(tiny("bert"), replace(context("bert"), steps=1), {"task": TaskLoss()}, methods, budget)
    module.on_fit_start()
    module.model.classifier.add_module("input_quantizer", FakeQuantInput(0.9))
    with pytest.raises(UserError, match="quant/int8: some layers saw no data"):
        module.on_fit_start()
