from __future__ import annotations

import pytest
import torch

from compress_exp.config.checks import FieldError, UserError
from compress_exp.experiment.build import apply_stage, run_stage
from compress_exp.methods.distill.on_policy import OnPolicy, answered, continued
from compress_exp.training.module import CompressionModule
from compress_exp.training.trainer import Bar
from tests.experiments import planned


@pytest.fixture
def rows():
    ids = torch.randint(5, 300, (6, 10), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[5, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def test_a_language_model_goes_on_from_the_first_half(tiny, rows):
    torch.manual_seed(0)
    model = tiny("gpt2").eval()
    with torch.no_grad():
        own = continued(model, rows, 0)
    assert torch.equal(own["input_ids"][:, :5], rows["input_ids"][:, :5])
    assert torch.equal(own["input_ids"][5], rows["input_ids"][5])  # it is padded
    assert not torch.equal(own["input_ids"][:5, 5:], rows["input_ids"][:5, 5:])
    assert torch.equal(own["labels"][:5, 5:], own["input_ids"][:5, 5:])


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_samples_follow_the_model_s_own_probabilities(family, tiny):
    """The first sampled token of many equal rows, beside the softmax of a forward pass."""
    model, count = tiny(family).eval(), 4000
    with torch.no_grad():
        (model.lm_head if family == "t5" else model.transformer.wte).weight.mul_(12.0)
    ids = torch.arange(7, 11)[None].expand(count, -1).contiguous()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}
    torch.manual_seed(0)
    with torch.no_grad():
        if family == "t5":
            said = answered(model, batch, 0)["labels"][:, 0]
            start = torch.full((1, 1), model.config.decoder_start_token_id)
            logits = model(input_ids=ids[:1], decoder_input_ids=start).logits[0, 0]
        else:
            said = continued(model, batch, 0)["input_ids"][:, 2]
            logits = model(input_ids=ids[:1, :2]).logits[0, 1]
            logits[model.config.eos_token_id] = -torch.inf  # the length is forced
    expected = logits.softmax(-1)
    found = torch.bincount(said, minlength=len(expected)) / count
    likely = expected.argsort(descending=True)[:5]
    error = 4 * (expected[likely] * (1 - expected[likely]) / count).sqrt()  # four standard errors
    assert bool((found[likely] - expected[likely]).abs().le(error).all())
    assert float(expected[likely[0]]) > 0.02


def test_nothing_counts_behind_the_end_of_an_answer(tiny, rows):
    model = tiny("t5").eval()
    with torch.no_grad():
        model.lm_head.weight[model.config.eos_token_id] += 0.5
    torch.manual_seed(1)
    with torch.no_grad():
        labels = answered(model, rows, 0)["labels"]
    ends = 0
    for row in labels.tolist():
        if model.config.eos_token_id in row:
            ends += 1
            behind = row[row.index(model.config.eos_token_id) + 1 :]
            assert set(behind) <= {-100}
    assert ends


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_a_share_of_the_steps_learns_from_samples_and_resumes_to_the_bit(family, data, dense, tmp_path, monkeypatch):
    settings = ("method=distill/on_policy", "train.max_steps=8", "train.checkpoint_steps=1")
    plan = planned(family, data, *settings)
    base = dense(plan)
    places = [tmp_path / name for name in ("whole", "killed")]
    for place in places:
        place.mkdir()
    seen = []
    inner = OnPolicy.batch

    def watched(self, work, batch):
        own = inner(self, work, batch)
        seen.append(not torch.equal(own["labels"], batch["labels"]) if own is not batch else False)
        assert work.model.training
        return own

    monkeypatch.setattr(OnPolicy, "batch", watched)
    run_stage(plan, 0, base, base, places[0])
    assert len(seen) == 8 and 0 < sum(seen) < 8
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Bar, "on_train_batch_end", _die_at_four)
        run_stage(plan, 0, base, base, places[1])
    run_stage(plan, 0, base, base, places[1])
    for name in ("model.safetensors", "history.csv"):
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes()


def test_sampling_takes_no_gradient_from_masked_weights(data, dense, tmp_path, monkeypatch):
    plan = planned(
        "gpt2", data, "method=[distill/on_policy,prune]", "stages=[[distill,prune]]", "method.distill.share=1.0"
    )
    base, found = dense(plan), []
    before = CompressionModule.on_before_optimizer_step

    def look(self, optimizer):
        weights = [m.parametrizations.weight.original for m in self.model.modules() if hasattr(m, "parametrizations")]
        found.append(all(w.grad is not None and bool((w.grad != 0).any()) for w in weights) and bool(weights))
        return before(self, optimizer)

    monkeypatch.setattr(CompressionModule, "on_before_optimizer_step", look)
    apply_stage(plan, 0, base, base, tmp_path)
    assert found == [True] * 3


@pytest.mark.parametrize(
    ("family", "overrides", "sentence"),
    [
        ("bert", [], "method.distill: an encoder says nothing of its own"),
        (
            "gpt2",
            ["method.distill.loss.soft_targets.weight_hard=0.5"],
            "loss.soft_targets: samples have no labels",
        ),
        ("gpt2", ["method.distill.share=1.5"], "method.distill.share: 1.5 is not allowed"),
        ("gpt2", ["method.distill.loss=null"], "method.distill.loss: it needs losses of its own"),
    ],
)
def test_what_cannot_be_is_refused(family, overrides, sentence, data):
    with pytest.raises((UserError, FieldError), match=sentence):
        planned(family, data, "method=distill/on_policy", *overrides)


def _die_at_four(self, trainer, *rest):
    if trainer.global_step == 4:
        raise InterruptedError
