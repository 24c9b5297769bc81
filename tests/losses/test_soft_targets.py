from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from compress_exp.config.checks import FieldError
from compress_exp.losses.soft_targets import SoftTargets, soft_loss
from compress_exp.losses.task import TaskLoss


def logits(seed):
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))


def test_an_equal_teacher_gives_no_loss_and_no_gradient():
    student = logits(0).requires_grad_()
    loss = soft_loss(student, logits(0), 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert float(student.grad.abs().max()) < 1e-7


def test_the_gradient_is_t_times_the_difference_of_the_distributions():
    student, teacher, t = logits(0).requires_grad_(), logits(1), 3.0
    soft_loss(student, teacher, t).backward()
    expected = t * (functional.softmax(student / t, -1) - functional.softmax(teacher / t, -1)) / 7
    assert torch.allclose(student.grad, expected, atol=1e-6)


def test_at_high_temperature_it_is_half_the_mean_square_of_centred_logits():
    student, teacher = logits(0), logits(1)
    centred = [x - x.mean(-1, keepdim=True) for x in (student, teacher)]
    expected = float(((centred[0] - centred[1]) ** 2).sum(-1).mean() / (2 * 5))
    assert float(soft_loss(student, teacher, 100.0)) == pytest.approx(expected, rel=2e-2)


def test_constants_added_to_all_logits_of_a_row_do_not_matter():
    student, teacher = logits(0), logits(1)
    shifted = soft_loss(student + 3.0, teacher - 5.0, 2.0)
    assert float(shifted) == pytest.approx(float(soft_loss(student, teacher, 2.0)), rel=1e-4)


def test_the_loss_does_not_grow_with_the_number_of_positions():
    student, teacher = logits(0), logits(1)
    twice = soft_loss(torch.cat([student, student]), torch.cat([teacher, teacher]), 2.0)
    assert float(twice) == pytest.approx(float(soft_loss(student, teacher, 2.0)), rel=1e-5)


def test_weights_say_what_they_weigh():
    labels = torch.arange(7) % 5
    student, teacher = {"logits": logits(0)}, {"logits": logits(1)}
    terms = SoftTargets(temperature=2.0, weight_hard=0.3, weight_soft=0.7)(student, teacher, labels)
    hard = float(functional.cross_entropy(logits(0), labels))
    assert float(terms["hard"]) == pytest.approx(0.3 * hard, rel=1e-5)
    assert float(terms["soft"]) == pytest.approx(0.7 * float(soft_loss(logits(0), logits(1), 2.0)), rel=1e-5)


def test_a_one_hot_teacher_at_temperature_one_is_cross_entropy():
    labels = torch.arange(7) % 5
    teacher = torch.full((7, 5), -1e4).scatter(1, labels.unsqueeze(1), 1e4)
    assert float(soft_loss(logits(0), teacher, 1.0)) == pytest.approx(
        float(functional.cross_entropy(logits(0), labels)), rel=1e-5
    )


def test_regression_learns_the_teachers_output():
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    terms = SoftTargets()({"logits": student}, {"logits": teacher}, torch.tensor([0.0, 2.0]))
    assert float(terms["soft"]) == pytest.approx(0.5 * 2.0)
    assert float(terms["hard"]) == pytest.approx(0.5 * 0.5)


def test_the_task_loss_is_cross_entropy_or_mean_squared_error():
    labels = torch.arange(7) % 5
    assert torch.equal(
        TaskLoss()({"logits": logits(0)}, {}, labels)["hard"], functional.cross_entropy(logits(0), labels)
    )
    regression = TaskLoss()({"logits": torch.tensor([[1.0], [2.0]])}, {}, torch.tensor([0.0, 4.0]))
    assert float(regression["hard"]) == pytest.approx(2.5)


def test_settings_are_checked_and_decide_the_identity():
    with pytest.raises(FieldError):
        SoftTargets(temperature=0.0)
    assert SoftTargets(temperature=2.0).identity() != SoftTargets(temperature=4.0).identity()
    assert SoftTargets().identity() == {
        "origin": "soft_targets",
        "version": 1,
        "temperature": 2.0,
        "weight_hard": 0.5,
        "weight_soft": 0.5,
    }
