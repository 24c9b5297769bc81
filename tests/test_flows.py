"""The house as data flows: gradients reach what trains, and what is exported computes what was trained."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parametrize

from compress_exp.experiment.build import convert, train_stage
from compress_exp.layers.weights import original
from compress_exp.training.module import CompressionModule
from tests.experiments import planned
from tests.forward import forward_logits
from tests.variants import FIRST, LATE, SHRINKING, TRAINED, chosen, fixed_batch

LOSSES = ("task", "soft_targets", "hidden", "[soft_targets,hidden]")
BEGIN = (*FIRST, *SHRINKING, *(name for name in TRAINED if name.startswith(("distill", "factorize", "share"))))
PAIRS = [
    (one, other)
    for one in TRAINED
    for other in TRAINED
    if one.partition("/")[0] < other.partition("/")[0]  # methods at once have no order
    if not one.startswith("finetune") and not other.startswith("finetune")
    if not (one in BEGIN and other in BEGIN)  # one at once may replace the model
    if not (one in LATE and other.startswith("share"))  # heads and neurons do not go from layers that share
    if not (one in ("distill/hard", "distill/hidden") and other == "prune/once_for_all")  # losses of their own
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_what_is_exported_computes_what_was_trained(one, other, data, dense, tmp_path):
    keys = [name.partition("/")[0] for name in (one, other)]
    settings = [*chosen(one)[1:], *chosen(other)[1:]]
    plan = planned("bert", data, f"method=[{one},{other}]", f"stages=[[{','.join(keys)}]]", *settings)
    base = dense(plan)
    built = train_stage(plan, 0, base, base, tmp_path)
    batch = fixed_batch(built.model.eval())
    with torch.no_grad():
        trained = forward_logits(built.model, batch)
        exported = forward_logits(convert(plan.stages[0], built), batch)
    assert trained.std() > 0
    # Scales of int8 are read off what was rounded once, which moves the last bit of some.
    assert torch.allclose(trained, exported, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("variant", [name for name in TRAINED if not name.startswith("distill")])
def test_every_parametrized_weight_gets_a_gradient(variant, loss, data, dense, tmp_path, monkeypatch):
    seen = {}

    def look(self, optimizer):
        for name, module in self.model.named_modules():
            if parametrize.is_parametrized(module, "weight") and original(module).requires_grad:
                gradient = original(module).grad
                seen.setdefault(name, []).append(gradient is not None and bool((gradient != 0).any()))
        for name, parameter in self.model.named_parameters():
            if "encoder" in name and "parametrizations" not in name:
                seen.setdefault(name, []).append(parameter.grad is not None and bool((parameter.grad != 0).any()))
        return before(self, optimizer)

    plan = planned("bert", data, *chosen(variant), f"loss={loss}")
    base = dense(plan)
    before = CompressionModule.on_before_optimizer_step
    monkeypatch.setattr(CompressionModule, "on_before_optimizer_step", look)
    train_stage(plan, 0, base, base, tmp_path)
    assert seen
    # At first a model is its own teacher. A key's bias shifts all scores of a query alike, so that nothing comes of it.
    assert {name for name, found in seen.items() if not any(found)} <= {n for n in seen if n.endswith("key.bias")}
