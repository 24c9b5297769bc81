from __future__ import annotations

import pytest
import torch

from compress_exp.config.checks import FieldError
from compress_exp.losses.criteria import Criteria
from compress_exp.losses.hidden import HiddenStates, hidden_loss, layer_map
from compress_exp.models.forward import forward_outputs


def batch(model_type):
    ids = torch.randint(5, 100, (3, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    labels = ids.clone()
    labels[1, 3:] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def states(model, model_type):
    return forward_outputs(model.eval(), batch(model_type), ("logits", "hidden"))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(3, 6, [0, 2, 4, 6]), (2, 2, [0, 1, 2]), (4, 12, [0, 3, 6, 9, 12]), (2, 5, [0, 2, 5]), (1, 12, [0, 12])],
)
def test_layers_are_mapped_evenly_first_to_first_and_last_to_last(student, teacher, expected):
    assert layer_map(student, teacher) == list(enumerate(expected))


def test_padding_does_not_count_and_the_width_is_averaged():
    student, teacher = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 3.0], [2.0, 0.0], [50.0, 50.0]]])
    valid = torch.tensor([[True, True, False]])
    assert float(hidden_loss(student, teacher, valid)) == pytest.approx((1 + 9) / 2 + 4 / 2)


@pytest.mark.parametrize(("model_type", "stacks"), [("bert", 1), ("gpt2", 1), ("t5", 2), ("bart", 2)])
def test_it_is_the_mean_over_layers_and_valid_tokens(tiny, model_type, stacks):
    teacher, student = tiny(model_type), tiny(model_type)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    own, other = states(student, model_type), states(teacher, model_type)
    criteria = Criteria({"hidden": HiddenStates(weight=3.0)}, student, teacher, 0)
    assert not list(criteria.parameters())
    found = float(criteria(own, other, batch(model_type)["labels"])["states"].detach())
    expected, count = 0.0, 0
    for stack, layers in own["hidden"].items():
        valid = batch(model_type)["attention_mask" if stack != "decoder" or stacks == 1 else "labels"]
        for layer, target in zip(layers, other["hidden"][stack], strict=True):
            for row, column in ((valid != 0) & (valid != -100)).nonzero().tolist():
                expected += float((layer[row, column] - target[row, column]).square().mean().detach())
                count += 1
    assert len(own["hidden"]) == stacks and found == pytest.approx(3.0 * expected / count, rel=1e-4)


def test_a_narrower_student_is_projected_and_learns_its_projection(tiny):
    teacher = tiny("bert")
    config = type(teacher.config)(**{**teacher.config.to_dict(), "hidden_size": 16, "num_attention_heads": 2})
    torch.manual_seed(0)
    student = type(teacher)(config)
    first, second, other = (Criteria({"hidden": HiddenStates()}, student, teacher, seed) for seed in (1, 1, 2))
    weights = [next(made.parameters()) for made in (first, second, other)]
    assert weights[0].shape == (teacher.config.hidden_size, 16)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    first(states(student, "bert"), states(teacher, "bert"), torch.zeros(3))["states"].backward()
    assert float(weights[0].grad.abs().max()) > 0
    assert float(student.bert.encoder.layer[0].output.dense.weight.grad.abs().max()) > 0


def test_the_last_layer_alone_ignores_the_others(tiny):
    teacher, student = tiny("bert"), tiny("bert")
    own, other = states(student, "bert"), states(teacher, "bert")
    own["hidden"]["encoder"] = (own["hidden"]["encoder"][0] + 5, *own["hidden"]["encoder"][1:])
    labels = torch.zeros(3)
    with torch.no_grad():
        last, every = (Criteria({"h": HiddenStates(layers=which)}, student, teacher, 0) for which in ("last", "all"))
        assert float(last(own, other, labels)["states"]) == 0
        assert float(every(own, other, labels)["states"]) > 1
    with pytest.raises(FieldError, match="layers"):
        HiddenStates(layers="first")
