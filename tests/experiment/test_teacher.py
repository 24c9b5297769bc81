"""Who may teach whom, and that training follows the teachers it was given."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from compress_exp.config.checks import UserError
from compress_exp.experiment.build import apply_stage, run_stage
from tests.experiments import planned

SOFT = ("method=finetune", "loss=soft_targets")


@pytest.fixture(scope="module")
def other(data, dense):
    """A classifier with a smaller tokenizer of its own."""
    return dense(planned("bert", data, "method=finetune", "model.vocabulary=300"))


def trained(plan, dense, directory):
    directory.mkdir()
    run_stage(plan, 0, dense(plan), dense(plan), directory)
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("wrong", ["[]", "[baseline,3]", "3", "null", "{a:1}"])
def test_what_names_no_teacher_is_refused(wrong, data):
    with pytest.raises(UserError, match=r"^teacher: .* is not allowed; baseline, a directory or a list of them is$"):
        planned("bert", data, *SOFT, f"teacher={wrong}")


def test_a_teacher_is_named_once(data):
    with pytest.raises(UserError, match=r"^teacher: 'baseline' is named twice; name each teacher once$"):
        planned("bert", data, *SOFT, "teacher=[baseline,baseline]")


def test_keys_know_teachers_in_no_order(data, other):
    alone, listed = (planned("bert", data, *SOFT, f"teacher={given}") for given in ("baseline", "[baseline]"))
    assert alone.recipes == listed.recipes
    assert alone.stage_recipe(0)["teacher"] == {"of": alone.baseline_key}
    orders = f"[{other},baseline]", f"[baseline,{other}]"
    one, turned = (planned("bert", data, *SOFT, f"teacher={order}") for order in orders)
    assert one.recipes == turned.recipes
    of = one.stage_recipe(0)["teacher"]["of"]
    assert len(of) == 2 and one.baseline_key in of
    assert one.artifact_key != alone.artifact_key
    without = planned("bert", data, "method=finetune", f"teacher=[baseline,{other}]")
    assert without.recipes == planned("bert", data, "method=finetune").recipes  # nobody asks them


def test_training_follows_the_teachers(data, dense, tmp_path, other):
    made = {
        given: trained(planned("bert", data, *SOFT, f"teacher={given}"), dense, tmp_path / str(number))
        for number, given in enumerate(("baseline", str(other), f"[baseline,{other}]", f"[{other},baseline]"))
    }
    alone, own, both, turned = made.values()
    assert all(torch.equal(both[name], turned[name]) for name in both)
    for one, another in ((alone, own), (alone, both), (own, both)):
        assert any(not torch.equal(one[name], another[name]) for name in one)


def test_several_teachers_have_no_hidden_states(data, other):
    sentence = r"^loss\.hidden: it needs 'hidden', which 2 teachers have no mean of; name one teacher, or take "
    with pytest.raises(UserError, match=sentence):
        planned("bert", data, "method=finetune", "loss=[soft_targets,hidden]", f"teacher=[baseline,{other}]")


@pytest.mark.parametrize("loss", ["hidden", "attention"])
def test_other_tokens_have_other_hidden_states(loss, data, dense, tmp_path, other):
    sentence = r"^teacher: '.*' reads with another tokenizer, so its '.*' is not that of the student's tokens; take "
    plan = planned("bert", data, "method=finetune", f"loss={loss}", f"teacher={other}")
    with pytest.raises(UserError, match=sentence):  # the student's tokenizer is known once its baseline is there
        apply_stage(plan, 0, dense(plan), dense(plan), tmp_path)
    given = ("model.finetuned=true", f"model.path={dense(plan)}")
    with pytest.raises(UserError, match=sentence):
        planned("bert", data, "method=finetune", f"loss={loss}", f"teacher={other}", *given)


@pytest.mark.parametrize("family", ["gpt2", "t5", "answers"])
def test_where_every_token_has_an_answer_a_teacher_reads_the_same_tokens(family, data, dense, tmp_path):
    stranger = dense(planned(family, data, "method=finetune", "model.vocabulary=300"))
    plan = planned(family, data, *SOFT, f"teacher={stranger}")
    sentence = r"^teacher: '.*' reads with another tokenizer, and task=\S+ has an answer for every token; take a "
    with pytest.raises(UserError, match=sentence):
        apply_stage(plan, 0, dense(plan), dense(plan), tmp_path)
    with pytest.raises(UserError, match=sentence):
        given = ("model.finetuned=true", f"model.path={dense(plan)}")
        planned(family, data, *SOFT, f"teacher={stranger}", *given)


def test_a_teacher_that_means_other_labels_is_refused(data, dense, tmp_path):
    turned = tmp_path / "turned"
    shutil.copytree(dense(planned("bert", data, "method=finetune")), turned)
    config = json.loads((turned / "config.json").read_text())
    (turned / "config.json").write_text(json.dumps(config | {"id2label": {"0": "bad", "1": "good"}}))
    sentence = r"^teacher: label 0 is 'bad' in the checkpoint and 'good' in the task; set task\.classes"
    with pytest.raises(UserError, match=sentence):
        planned("bert", data, *SOFT, f"teacher={turned}", "task.classes=[good,bad]")


def test_a_teacher_that_reads_less_is_refused(data, dense, tmp_path):
    short = dense(planned("bert", data, "method=finetune", "model.architecture.max_position_embeddings=16"))
    plan = planned("bert", data, *SOFT, f"teacher={short}")
    sentence = r"^teacher: '.*' reads 16 tokens and the student more; set task\.max_length=16$"
    with pytest.raises(UserError, match=sentence):
        apply_stage(plan, 0, dense(plan), dense(plan), tmp_path)
