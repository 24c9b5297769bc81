from __future__ import annotations

import pytest

from compress_exp.config import UserError
from compress_exp.pipeline import apply_stage
from tests.experiments import planned

BOTH = "method=[prune,quant]"


def test_every_method_has_its_own_stage_unless_stages_says_otherwise(data):
    assert [stage.label for stage in planned("bert", data, BOTH).stages] == ["prune/gradual", "quant/int8"]
    joint = planned("bert", data, "method=[prune,quant,finetune]", "stages=[[prune,quant]]", "~method.finetune")
    assert [stage.label for stage in joint.stages] == ["prune/gradual+quant/int8"]
    order = planned("bert", data, "method=[quant,prune]", "stages=[[prune],[quant]]")
    assert [stage.label for stage in order.stages] == ["prune/gradual", "quant/int8"]


def test_at_once_is_another_result_than_one_after_the_other(data):
    apart, joint = planned("bert", data, BOTH), planned("bert", data, BOTH, "stages=[[prune,quant]]")
    assert len({apart.run_id, joint.run_id, planned("bert", data, BOTH, "stages=[[prune],[quant]]").run_id}) == 2
    assert apart.baseline_key == joint.baseline_key


def test_a_student_is_pruned_while_it_learns(data, dense, tmp_path):
    plan = planned("bert", data, "method=[distill,prune]", "stages=[[distill,prune]]")
    base = dense(plan)
    built = apply_stage(plan, 0, base, base, tmp_path)
    assert built.model.config.num_hidden_layers == 2
    assert {"soft", "hard", "sparsity"} <= set(built.history[0])
    query = built.model.bert.encoder.layer[0].attention.self.query.weight
    assert int((query == 0).sum()) == query.numel() // 2


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([BOTH, "stages=[prune,quant]"], r"stages: \['prune', 'quant'\] is not allowed; null or a list of lists is"),
        ([BOTH, "stages=[[prune,quantize]]"], "stages: 'quantize' is no key of method; did you mean quant"),
        ([BOTH, "stages=[[prune]]"], "stages: quant is to appear once, not 0 times"),
        ([BOTH, "stages=[[prune,quant],[prune]]"], "stages: prune is to appear once, not 2 times"),
        (["method=[prune,quant/static]", "stages=[[prune,quant]]"], "stages: quant has a budget of its own"),
        ([BOTH, "stages=[[quant,prune]]"], "nothing can follow quant/int8"),
        (["method=[prune,distill]", "stages=[[prune,distill]]"], "stages: distill replaces the model; put it first"),
        (
            ["method=prune", "+method@method.more=prune/random", "stages=[[prune,more]]"],
            "stages: one method of a family at once, and prune, more has two",
        ),
    ],
)
def test_what_cannot_be_arranged_is_one_sentence(overrides, sentence, data):
    with pytest.raises(UserError, match=sentence) as caught:
        planned("bert", data, *overrides)
    assert "\n" not in str(caught.value)
