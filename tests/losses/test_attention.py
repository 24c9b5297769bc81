from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from compress_exp.config.checks import FieldError, UserError
from compress_exp.experiment.build import run_stage
from compress_exp.experiment.teaching import Known, check_models
from compress_exp.losses.attention import AttentionScores, attention_loss, valid_pairs
from compress_exp.losses.criteria import Criteria
from compress_exp.models.forward import forward_outputs
from tests.experiments import planned
from tests.losses.test_hidden import batch

LOSSES = "loss=[task,attention]"


def scores(model, model_type):
    return forward_outputs(model.eval(), batch(model_type), ("logits", "attention_scores"))


def test_pairs_without_padding_count_and_heads_are_averaged():
    student, teacher = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    teacher[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 50.0]])
    teacher[0, 1] = torch.tensor([[0.0, 4.0], [5.0, 60.0]])
    valid = torch.tensor([[True, True]])
    bidirectional = (1 + 4 + 9 + 2500) / 2 + (16 + 25 + 3600) / 2
    assert float(attention_loss(student, teacher, valid_pairs(valid, False))) == pytest.approx(bidirectional)
    causal = (1 + 9 + 2500) / 2 + (25 + 3600) / 2
    assert float(attention_loss(student, teacher, valid_pairs(valid, True))) == pytest.approx(causal)
    shorter = valid_pairs(torch.tensor([[True, False]]), False)
    assert float(attention_loss(student, teacher, shorter)) == pytest.approx(1 / 2)


@pytest.mark.parametrize(("model_type", "stacks"), [("bert", 1), ("gpt2", 1), ("llama", 1), ("t5", 2), ("bart", 2)])
def test_it_is_the_mean_over_layers_heads_and_pairs(tiny, model_type, stacks):
    teacher, student = tiny(model_type), tiny(model_type)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    own, other = scores(student, model_type), scores(teacher, model_type)
    criteria = Criteria({"attention": AttentionScores(weight=3.0)}, student, teacher, 0)
    assert not list(criteria.parameters())
    found = float(criteria(own, other, batch(model_type)["labels"])["attention"].detach())
    expected, count = 0.0, 0
    for stack, layers in own["attention_scores"].items():
        valid = batch(model_type)["attention_mask" if stack != "decoder" or stacks == 1 else "labels"]
        seen = (valid != 0) & (valid != -100)
        for layer, target in zip(layers, other["attention_scores"][stack], strict=True):
            for row in range(len(seen)):
                for query in seen[row].nonzero().flatten().tolist():
                    for key in seen[row].nonzero().flatten().tolist():
                        if stack == "decoder" and key > query:
                            continue
                        difference = layer[row, :, query, key] - target[row, :, query, key]
                        expected += float(difference.detach().square().mean())
                        count += 1
    assert len(own["attention_scores"]) == stacks and found == pytest.approx(3.0 * expected / count, rel=1e-4)


def test_layers_are_mapped_evenly_and_the_last_looks_at_the_last(tiny):
    teacher, student = tiny("bert"), tiny("bert")
    other = scores(teacher, "bert")
    own = other | {"attention_scores": {"encoder": [other["attention_scores"]["encoder"][index] for index in (1, 3)]}}
    criteria = Criteria({"attention": AttentionScores()}, student, teacher, 0)
    assert float(criteria(own, other, torch.zeros(3))["attention"].detach()) == 0
    swapped = own | {"attention_scores": {"encoder": own["attention_scores"]["encoder"][::-1]}}
    assert float(criteria(swapped, other, torch.zeros(3))["attention"].detach()) > 0


def test_other_numbers_of_heads_are_refused_in_the_plan_and_at_the_first_step(data, tiny, facts):
    loss, known = AttentionScores(), replace(facts("bert"), heads={"encoder": 2})
    loss.check(known, known)
    loss.check(known, replace(known, heads=None))
    loss.check(replace(known, heads={"encoder": 1}, queries=2), known)
    with pytest.raises(FieldError, match="the student's encoder has 4 attention heads and the teacher's 2; take"):
        loss.check(replace(known, heads={"encoder": 4}), known)
    own, other = scores(tiny("bert"), "bert"), scores(tiny("bert"), "bert")
    own["attention_scores"]["encoder"][2] = own["attention_scores"]["encoder"][2][:, :1]
    criteria = Criteria({"attention": loss}, tiny("bert"), tiny("bert"), 0)
    with pytest.raises(UserError, match="the student's encoder has 1 attention heads and the teacher's 2 in layer 3"):
        criteria(own, other, torch.zeros(3))


def test_a_teacher_of_other_heads_is_refused_before_anything_trains(data, dense, tmp_path):
    teacher = dense(planned("bert", data, "method=finetune", "model.architecture.num_attention_heads=4"))
    sentence = r"^loss\.attention: the student's encoder has 2 attention heads and the teacher's 4; take a "
    with pytest.raises(UserError, match=sentence):
        planned("bert", data, "method=finetune", LOSSES, f"teacher={teacher}")


def test_attention_of_a_family_that_does_not_give_it_is_refused(data):
    plan = planned("bert", data, "method=finetune", LOSSES)
    mute = replace(plan.facts, family=replace(plan.facts.family, attention=()))
    dense = Known("baseline", plan.facts)
    check_models(plan.stages[0], plan.facts, dense)
    for who, pair in (("student", (mute, dense)), ("teacher", (plan.facts, Known("baseline", mute)))):
        sentence = rf"^loss\.attention: it needs 'attention_scores' of the {who}, whose family does not give it; .*"
        with pytest.raises(UserError, match=sentence + r"allowed: hidden, logits$"):
            check_models(plan.stages[0], *pair)
    own = planned("bert", data, "method=distill", "+loss@method.distill.loss.attention=attention")
    with pytest.raises(UserError, match=r"^method\.distill\.loss\.attention: it needs"):
        check_models(own.stages[0], mute, dense)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_two_processes_learn_what_one_learns_and_the_configuration_stays(data, dense, tmp_path, family):
    """Rows of different lengths: each rank has another number of pairs. One step, so that Adam blows nothing up."""
    settings = ["method=finetune", LOSSES, "train.max_steps=1", "train.warmup=0", "train.batch_size=7"]
    settings += [f"+model.architecture.{name}_pdrop=0.0" for name in ("resid", "embd", "attn")] * (family == "gpt2")
    made = []
    for devices in (1, 2):
        plan = planned(family, data, *settings, f"train.devices={devices}")
        directory = tmp_path / str(devices)
        directory.mkdir()
        run_stage(plan, 0, dense(plan), dense(plan), directory)
        made.append(load_file(directory / "model.safetensors"))
        written = json.loads((directory / "config.json").read_text())
        assert written == json.loads((dense(plan) / "config.json").read_text())
    assert made[0].keys() == made[1].keys()
    for name, weight in made[0].items():
        assert float((weight - made[1][name]).abs().max()) <= 2e-5, name


def test_a_student_comes_closer_to_its_teachers_attention(data, dense, tmp_path):
    settings = ["method=distill", "+loss@method.distill.loss.attention=attention", "train.max_steps=40"]
    plan = planned("bert", data, *settings)
    run_stage(plan, 0, dense(plan), dense(plan), tmp_path)
    header, *rows = [line.split(",") for line in (tmp_path / "history.csv").read_text().splitlines()]
    curve = [float(row[header.index("attention_attention")]) for row in rows]
    assert curve[-1] < 0.8 * curve[0]
