"""What has fewer heads and neurons, unevenly, is an ordinary parent of every later stage."""

from __future__ import annotations

import pytest
import torch

from compress_exp.experiment.build import apply_stage, publish, run_stage
from compress_exp.formats.artifact import load
from compress_exp.layers.heads import attentions
from compress_exp.layers.neurons import feed_forwards
from compress_exp.models.families.base import family_of
from tests.experiments import planned
from tests.forward import forward_logits

LATER = {
    "finetune": ["method=[prune/structured,finetune]"],
    "quant": ["method=[prune/structured,quant]"],
    "bf16": ["method=[prune/structured,quant/bf16]"],
    "distill": ["method=[prune/structured,distill]"],
    "magnitude": ["method=prune/structured", "+method@method.prune2=prune/magnitude"],
    "wanda": ["method=prune/structured", "+method@method.prune2=prune/wanda"],
    "sparsegpt": ["method=prune/structured", "+method@method.prune2=prune/sparsegpt"],
    "n_m": ["method=prune/structured", "+method@method.prune2=prune/n_m"],
    "neurons": ["method=prune/structured", "+method@method.prune2=prune/neurons"],
    "layers": ["method=prune/structured", "+method@method.prune2=prune/layers", "method.prune2.keep=last"],
}


def sizes(model, family):
    return [part.count for part in attentions(model, family)], [part.count for part in feed_forwards(model, family)]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
@pytest.mark.parametrize("later", LATER)
def test_every_later_stage_takes_uneven_heads(later, family, data, dense, store, tmp_path):
    plan = planned(family, data, *LATER[later], "method.prune.heads=0.5", "method.prune.sparsity=0.4")
    base = dense(plan)
    parent = store.get(plan.stage_recipe(0), lambda place, check: run_stage(plan, 0, base, base, place), "structured")
    built = apply_stage(plan, 1, parent, base, tmp_path)
    publish(built, tmp_path)
    ids = torch.arange(1, 25).view(2, 12) * 7 % 300 + 5
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.flip(1)}
    again = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(forward_logits(again, batch), forward_logits(built.model, batch))
    (heads, neurons), (own_heads, own_neurons) = (sizes(model, family_of(family)) for model in (load(parent), again))
    assert len(set(heads)) > 1
    if later in ("finetune", "quant", "bf16", "magnitude", "wanda", "sparsegpt", "n_m"):
        assert (own_heads, own_neurons) == (heads, neurons)
    elif later == "neurons":
        assert own_heads == heads and own_neurons == [count // 2 // 8 * 8 for count in neurons]
    else:
        assert len(own_neurons) == len(neurons) // 2
    if later == "layers" and family in ("bert", "gpt2"):
        assert own_heads == heads[len(heads) // 2 :]
