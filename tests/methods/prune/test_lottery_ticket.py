from __future__ import annotations

import pytest
import torch

from compress_exp.config.checks import FieldError
from compress_exp.experiment.build import apply_stage
from compress_exp.methods.parametrized import trained
from compress_exp.methods.prune.lottery_ticket import LotteryTicket
from compress_exp.training.module import CompressionModule
from tests.experiments import planned

ROUNDS, SHARE = 2, 0.75  # half of what is left, twice


@pytest.fixture
def watched(monkeypatch):
    """What the network is at the start of every training, and the masks then; taken from outside of the flow."""
    seen = []
    step = CompressionModule.training_step

    def watching(self, batch, index):
        if self.methods and (self.global_step % self.steps == 0 or self.global_step == 1):  # not the baseline's
            weights = {name: weight.detach().clone() for name, weight in trained(self.model).items()}
            masks = {name: m.mask.clone() for name, m in self.model.named_modules() if hasattr(m, "owner")}
            state = {id(p): dict(values) for p, values in self.optimizers().optimizer.state.items()}
            seen.append((self.global_step, weights, masks, state))
        return step(self, batch, index)

    monkeypatch.setattr(CompressionModule, "training_step", watching)
    return seen


def run(family, data, dense, directory, *settings):
    overrides = [f"method.prune.{item}" for item in ("rounds=2", "sparsity=0.75", "scope=tensor", *settings)]
    plan = planned(family, data, "method=prune/lottery_ticket", *overrides)
    base = dense(plan)
    directory.mkdir()
    return apply_stage(plan, 0, base, base, directory), plan


def zeros(masks):
    return [int((~mask).sum()) / mask.numel() for mask in masks.values()]


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_each_round_starts_from_the_pretrained_weights_with_half_of_what_was_left(
    family, data, dense, tmp_path, watched
):
    built, plan = run(family, data, dense, tmp_path / "a")
    assert built.steps == 9
    starts = [entry for entry in watched if entry[0] % 3 == 0]
    pretrained = plan.model.load(plan.task, built.context.tokenizer, plan.seed).state_dict()
    for number, (_, weights, masks, state) in enumerate(starts):
        assert all(torch.equal(weight, pretrained[name]) for name, weight in weights.items())
        assert zeros(masks) == pytest.approx([1 - 0.5**number] * len(masks), abs=1e-3)
        assert not state
    for before, after in zip(starts, starts[1:], strict=False):
        assert all(bool((after[2][name] <= mask).all()) for name, mask in before[2].items())


def test_weights_are_rewound_to_an_early_step(data, dense, tmp_path, watched):
    run("bert", data, dense, tmp_path / "a", "rewind=0.34")
    early = next(weights for step, weights, _, _ in watched if step == 1)
    first = watched[0][1]
    for step, weights, _, _ in watched:
        if step in (3, 6):
            assert all(torch.equal(weight, early[name]) for name, weight in weights.items())
    assert not all(torch.equal(weight, first[name]) for name, weight in early.items())


@pytest.mark.parametrize("control", ["random_mask", "reinitialized", "shuffled"])
def test_a_control_changes_only_what_it_is_named_for_and_only_before_the_last_training(
    control, data, dense, tmp_path, watched
):
    run("bert", data, dense, tmp_path / "ticket")
    ticket = [entry for entry in watched if entry[0] % 3 == 0]
    watched.clear()
    run("bert", data, dense, tmp_path / "control", f"control={control}")
    other = [entry for entry in watched if entry[0] % 3 == 0]
    for number in range(ROUNDS):
        for kind in (1, 2):
            assert all(torch.equal(t, other[number][kind][name]) for name, t in ticket[number][kind].items())
    (_, weights, masks, _), (_, own, own_masks, _) = ticket[-1], other[-1]
    assert zeros(own_masks) == zeros(masks)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    moved = {key for key, mask in masks.items() if not torch.equal(mask, own_masks[key])}
    assert moved == (set(masks) if control == "random_mask" else set())
    assert torch.equal(weights[name], own[name]) == (control == "random_mask")
    if control == "shuffled":
        for key, weight in weights.items():
            assert torch.equal(weight.flatten().sort().values, own[key].flatten().sort().values)
    if control == "reinitialized":
        assert not torch.equal(weights[name].flatten().sort().values, own[name].flatten().sort().values)
        assert own[name].std().item() == pytest.approx(weights[name].std().item(), rel=0.1)


def test_settings_that_cannot_be_are_refused(budget, no_budget):
    common = {"name": "prune/lottery_ticket", "sparsity": 0.5}
    with pytest.raises(FieldError, match="prune/iterative does not rewind"):
        LotteryTicket(train=budget, rewind=None, **common)
    with pytest.raises(FieldError, match="random_mask"):
        LotteryTicket(train=budget, control="coin", **common)
    with pytest.raises(FieldError, match="rewinding needs training"):
        LotteryTicket(train=no_budget, **common)
    with pytest.raises(FieldError, match="rewind"):
        LotteryTicket(train=budget, rewind=1.0, **common)
