from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from compress_exp.config.checks import FieldError
from compress_exp.losses.criteria import Criteria
from compress_exp.losses.soft_targets import SoftTargets, soft_loss
from compress_exp.losses.task import TaskLoss


def logits(seed):
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))


def test_an_equal_teacher_gives_no_loss_and_no_gradient():
    student = logits(0).requires_grad_()
    loss = soft_loss(student, logits(0), 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert float(student.grad.abs().max()) < 7e-7


def test_the_gradient_is_t_times_the_difference_of_the_distributions():
    student, teacher, t = logits(0).requires_grad_(), logits(1), 3.0
    soft_loss(student, teacher, t).backward()
    expected = t * (functional.softmax(student / t, -1) - functional.softmax(teacher / t, -1))
    assert torch.allclose(student.grad, expected, atol=1e-6)


def test_at_high_temperature_it_is_half_the_mean_square_of_centred_logits():
    student, teacher = logits(0), logits(1)
    centred = [x - x.mean(-1, keepdim=True) for x in (student, teacher)]
    expected = float(((centred[0] - centred[1]) ** 2).sum() / (2 * 5))
    assert float(soft_loss(student, teacher, 100.0)) == pytest.approx(expected, rel=2e-2)


def test_constants_added_to_all_logits_of_a_row_do_not_matter():
    student, teacher = logits(0), logits(1)
    shifted = soft_loss(student + 3.0, teacher - 5.0, 2.0)
    assert float(shifted) == pytest.approx(float(soft_loss(student, teacher, 2.0)), rel=1e-4)


def terms(loss, student, teacher, labels):
    return Criteria({"only": loss}, None, None, 0)({"logits": student}, {"logits": teacher}, labels)


def test_the_loss_does_not_grow_with_the_number_of_positions():
    student, teacher, labels = logits(0), logits(1), torch.arange(7) % 5
    once = terms(SoftTargets(), student, teacher, labels)
    twice = terms(SoftTargets(), torch.cat([student] * 2), torch.cat([teacher] * 2), torch.cat([labels] * 2))
    assert {name: float(value) for name, value in twice.items()} == pytest.approx(
        {name: float(value) for name, value in once.items()}, rel=1e-5
    )


def test_weights_say_what_they_weigh():
    labels = torch.arange(7) % 5
    loss = SoftTargets(weight=2.0, temperature=2.0, weight_hard=0.3, weight_soft=0.7)
    found = terms(loss, logits(0), logits(1), labels)
    hard = float(functional.cross_entropy(logits(0), labels))
    assert float(found["hard"]) == pytest.approx(2 * 0.3 * hard, rel=1e-5)
    assert float(found["soft"]) == pytest.approx(2 * 0.7 * float(soft_loss(logits(0), logits(1), 2.0)) / 7, rel=1e-5)


def test_several_losses_add_up_under_their_names():
    labels = torch.arange(7) % 5
    losses = {"task": TaskLoss(weight=0.5), "soft_targets": SoftTargets()}
    found = Criteria(losses, None, None, 0)({"logits": logits(0)}, {"logits": logits(1)}, labels)
    assert list(found) == ["task_hard", "soft_targets_hard", "soft_targets_soft"]
    assert torch.equal(found["task_hard"], found["soft_targets_hard"])  # half of it in both


def test_a_one_hot_teacher_at_temperature_one_is_cross_entropy():
    labels = torch.arange(7) % 5
    teacher = torch.full((7, 5), -1e4).scatter(1, labels.unsqueeze(1), 1e4)
    assert float(soft_loss(logits(0), teacher, 1.0)) == pytest.approx(
        float(functional.cross_entropy(logits(0), labels, reduction="sum")), rel=1e-5
    )


def test_regression_learns_the_teachers_output():
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    found = terms(SoftTargets(), student, teacher, torch.tensor([0.0, 2.0]))
    assert float(found["soft"]) == pytest.approx(0.5 * 2.0)
    assert float(found["hard"]) == pytest.approx(0.5 * 0.5)


def test_the_task_loss_is_cross_entropy_or_mean_squared_error():
    labels = torch.arange(7) % 5
    expected = functional.cross_entropy(logits(0), labels)
    assert float(terms(TaskLoss(), logits(0), None, labels)["hard"]) == pytest.approx(float(expected), rel=1e-6)
    regression = terms(TaskLoss(), torch.tensor([[1.0], [2.0]]), None, torch.tensor([0.0, 4.0]))
    assert float(regression["hard"]) == pytest.approx(2.5)


def test_no_position_is_no_loss_and_no_nan():
    nothing = torch.zeros(0, 5, requires_grad=True)
    found = terms(SoftTargets(), nothing, torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    assert {name: float(value) for name, value in found.items()} == {"hard": 0.0, "soft": 0.0}
    sum(found.values()).backward()


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
