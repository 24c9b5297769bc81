from __future__ import annotations

import pytest
import torch

from compress_exp.config.checks import FieldError
from compress_exp.layers.surgery import pruned_modules
from compress_exp.methods.distill.student import Student, fewer_layers, kept_layers
from compress_exp.methods.parametrized import bake, lock, mark_masked
from compress_exp.methods.prune.magnitude import MagnitudePruning
from compress_exp.models.families.base import family_of, layer_counts
from tests.conftest import ARCHITECTURES
from tests.forward import forward_logits
from tests.moments import at


@pytest.mark.parametrize(
    ("depth", "count", "layers"),
    [(12, 6, [0, 2, 4, 7, 9, 11]), (12, 3, [0, 6, 11]), (12, 1, [0]), (6, 3, [0, 2, 5]), (4, 4, [0, 1, 2, 3])],
)
def test_layers_are_those_of_distilbert_and_distilbart(depth, count, layers):
    assert kept_layers(depth, count) == layers


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_student_of_all_layers_is_the_teacher(model_type, tiny, batch):
    teacher, family = tiny(model_type), family_of(model_type)
    student = fewer_layers(teacher, family, layer_counts(teacher.config, family)).eval()
    with torch.no_grad():
        assert torch.equal(forward_logits(student, batch), forward_logits(teacher, batch))


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "t5", "bart"])
def test_copied_layers_are_equal_to_the_last_bit(model_type, tiny):
    teacher, family = tiny(model_type), family_of(model_type)
    counts = {stack.name: 1 if stack.name == "decoder" and len(family.stacks) > 1 else 2 for stack in family.stacks}
    student = fewer_layers(teacher, family, counts)
    assert layer_counts(student.config, family) == counts
    assert student.num_parameters() < teacher.num_parameters()
    source = teacher.state_dict()
    last = {"bert": "bert.encoder.layer.{}.output.dense.weight", "gpt2": "transformer.h.{}.mlp.c_fc.weight"}
    last |= {"t5": "encoder.block.{}.layer.0.SelfAttention.q.weight", "bart": "model.encoder.layers.{}.fc1.weight"}
    depth = getattr(teacher.config, family.stacks[0].count)
    for own, theirs in zip(range(2), kept_layers(depth, 2), strict=True):
        name = last[model_type]
        assert torch.equal(student.state_dict()[name.format(own)], source[name.format(theirs)])


def test_fewer_albert_layers_keep_the_one_block(tiny):
    teacher, family = tiny("albert"), family_of("albert")
    student = fewer_layers(teacher, family, {"encoder": 2})
    assert student.num_parameters() == teacher.num_parameters()
    assert student.config.num_hidden_layers == 2


def test_half_is_the_default_and_each_stack_can_differ(budget):
    assert Student(name="distill/hard", train=budget).counts({"encoder": 12}) == {"encoder": 6}
    apart = Student(name="distill/hard", train=budget, decoder_layers=3)
    assert apart.counts({"encoder": 12, "decoder": 12}) == {"encoder": 6, "decoder": 3}


def test_more_layers_than_the_teacher_has_are_refused(facts, budget):
    with pytest.raises(FieldError, match=r"layers: 5 layers are more than the 4"):
        Student(name="distill/hard", train=budget, layers=5).check(facts("bert"))
    with pytest.raises(FieldError, match="no decoder"):
        Student(name="distill/hard", train=budget, decoder_layers=1).check(facts("bert"))


def test_a_student_of_a_pruned_parent_keeps_zeros_and_marks(tiny, context, budget):
    prune = MagnitudePruning(name="prune/magnitude", train=budget, sparsity=0.7, schedule="one_shot")
    model = prune.prepare(tiny("bert"), context("bert"))
    prune.step(at(model, 1.0))
    mark_masked(model)
    bake(model)
    lock(model)
    student = Student(name="distill/hard", train=budget).prepare(model, context("bert"))
    assert len(list(pruned_modules(student))) == 2 * 6
    assert all(float((m.weight == 0).float().mean()) > 0.69 for _, m in pruned_modules(student))
