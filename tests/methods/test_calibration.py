from __future__ import annotations

import gc

import pytest
import torch
from torch.nn.utils import parametrize
from transformers import BertConfig, BertForSequenceClassification

from compress_exp.layers.weights import original
from compress_exp.methods.calibration import stream
from compress_exp.methods.select import Select, targets
from compress_exp.models.families.base import family_of
from tests.conftest import ARCHITECTURES
from tests.forward import forward_logits

FAMILIES = tuple(name for name in ARCHITECTURES if name != "albert")


class Kept:
    """Keeps what it is shown."""

    def __init__(self):
        self.calls = []

    def add(self, tokens):
        self.calls.append(tokens.clone())


def padded(seed, rows=3):
    """Rows of different lengths, padded on the right, with targets of other lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 300, (rows, 9), generator=generator)
    labels = torch.randint(5, 300, (rows, 7), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, 9 - row :] = 0
        labels[row, 5 - row :] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def halve(target):
    """A stand-in for pruning that later blocks notice."""
    original(target.modules[0]).data.mul_(0.5)


def valid_positions(model, batch, target):
    if not model.config.is_encoder_decoder or "encoder." in target.names[0]:
        return batch["attention_mask"].bool()
    return (batch["attention_mask"] if target.role in ("cross.key", "cross.value") else batch["labels"] + 100).bool()


def seen_in_a_full_forward(model, target, batches):
    """What a target's module is given where nothing is stubbed, padding left out."""
    calls = []
    positions = [None]
    handle = target.modules[0].register_forward_pre_hook(
        lambda m, inputs: calls.append(inputs[0][positions[0]].clone())
    )
    with torch.no_grad():
        for batch in batches:
            positions[0] = valid_positions(model, batch, target)
            forward_logits(model, batch)
    handle.remove()
    return calls


def block_of(name):
    """The name up to the first number."""
    parts = name.split(".")
    return ".".join(parts[: next(i for i, part in enumerate(parts) if part.isdigit()) + 1])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_each_block_sees_what_a_full_forward_with_the_earlier_blocks_pruned_gives(model_type, tiny):
    model, family, batches = tiny(model_type), family_of(model_type), [padded(1), padded(2)]
    chosen = targets(model, family, Select())
    reference = tiny(model_type)
    twins = dict(zip([t.names[0] for t in chosen], targets(reference, family, Select()), strict=True))
    visited, waiting = [], []

    def compress(target, statistic):
        if waiting and block_of(waiting[-1].names[0]) != block_of(target.names[0]):
            for earlier in waiting:
                halve(twins[earlier.names[0]])
            waiting.clear()
        expected = seen_in_a_full_forward(reference, twins[target.names[0]], batches)
        assert len(statistic.calls) == len(expected) == 2
        for ours, theirs in zip(statistic.calls, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        halve(target)
        waiting.append(target)
        visited.append(target.names)

    stream(model, family, batches, chosen, lambda target: Kept(), compress)
    assert sorted(visited) == sorted(target.names for target in chosen)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_in_sequence_every_weight_sees_what_all_before_it_leave(model_type, tiny):
    model, family, batches = tiny(model_type), family_of(model_type), [padded(1), padded(2)]
    chosen = targets(model, family, Select())
    reference = tiny(model_type)
    twins = dict(zip([t.names[0] for t in chosen], targets(reference, family, Select()), strict=True))
    statistics = []
    waiting = []

    def compress(target, statistic):
        if statistic not in statistics:  # a new group: all weights before it are compressed
            for earlier in waiting:
                halve(twins[earlier.names[0]])
            waiting.clear()
            statistics.append(statistic)
        expected = seen_in_a_full_forward(reference, twins[target.names[0]], batches)
        for ours, theirs in zip(statistic.calls, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        halve(target)
        waiting.append(target)

    stream(model, family, batches, chosen, lambda target: Kept(), compress, sequential=True)
    assert len(statistics) <= len(chosen) - (model_type != "gpt2")  # which reads every tensor once


def test_weights_that_read_one_tensor_share_one_statistic(tiny):
    counts = {"bert": {3, 1}, "gpt2": {1}, "t5": {3, 2, 1}}
    for model_type, expected in counts.items():
        model, shared = tiny(model_type), {}
        chosen = targets(model, family_of(model_type), Select())
        stream(
            model,
            family_of(model_type),
            [padded(1)],
            chosen,
            lambda target: Kept(),
            lambda target, statistic, shared=shared: shared.setdefault(id(statistic), []).append((target, statistic)),
        )
        assert {len(group) for group in shared.values()} == expected
        roles = {tuple(target.role for target, _ in group) for group in shared.values() if len(group) == 3}
        assert roles <= {("query", "key", "value")}


def test_albert_s_one_block_is_visited_once_with_all_its_calls(tiny):
    model, family, batches = tiny("albert"), family_of("albert"), [padded(1), padded(2)]
    chosen = targets(model, family, Select())
    expected = {target.names: seen_in_a_full_forward(model, target, batches) for target in chosen}
    seen = {}
    stream(model, family, batches, chosen, lambda target: Kept(), lambda t, s: seen.setdefault(t.names, s.calls))
    assert seen.keys() == expected.keys()
    for name, calls in seen.items():
        assert len(calls) == 4 * 2
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(calls, expected[name], strict=True))


@pytest.mark.parametrize("model_type", [*FAMILIES, "albert"])
def test_the_model_comes_back_as_it_was_even_after_an_error(model_type, tiny):
    model, family = tiny(model_type).train(), family_of(model_type)
    names = [name for name, _ in model.named_modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    list(model.modules())[-1].eval()
    modes = [module.training for module in model.modules()]
    chosen = targets(model, family, Select())

    def fail(target, statistic):
        if target is chosen[-1]:
            raise RuntimeError("stop")

    for compress in (lambda target, statistic: None, fail):
        try:
            stream(model, family, [padded(1)], chosen, lambda target: Kept(), compress)
        except RuntimeError as error:
            assert compress is fail and str(error) == "stop"
        assert [name for name, _ in model.named_modules()] == names
        assert [module.training for module in model.modules()] == modes
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_later_layer_alone_sees_its_inputs(tiny):
    model, family, batches = tiny("bart"), family_of("bart"), [padded(1)]
    chosen = targets(model, family, Select(include=("*decoder.layers.1.fc2",)))
    expected = seen_in_a_full_forward(model, chosen[0], batches)
    seen = []
    stream(
        model, family, batches, chosen, lambda target: Kept(), lambda target, statistic: seen.extend(statistic.calls)
    )
    torch.testing.assert_close(seen[0], expected[0], rtol=1e-5, atol=1e-6)


class Nothing:
    def add(self, tokens):
        pass


def peak_elements(layers, batches):
    """The most elements of floating-point tensors beyond parameters that were alive at any input of a layer."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": 400}
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **sizes)).eval()
    known = {id(tensor) for tensor in gc.get_objects() if isinstance(tensor, torch.Tensor)}
    peak, calls = 0, 0

    class Counting:
        def add(self, tokens):
            nonlocal peak, calls
            alive = (t for t in gc.get_objects() if type(t) is torch.Tensor and id(t) not in known)
            peak, calls = max(peak, sum(t.numel() for t in alive if t.is_floating_point())), calls + 1

    chosen = targets(model, family_of("bert"), Select(roles=("ffn_out",)))
    stream(model, family_of("bert"), batches, chosen, lambda target: Counting(), lambda target, statistic: None)
    assert calls == layers * len(batches)
    return peak


def test_the_activations_alive_do_not_grow_with_the_number_of_layers():
    batches = [padded(seed, rows=4) for seed in range(6)]
    three, twelve = peak_elements(3, batches), peak_elements(12, batches)
    assert three == twelve
    assert three < 2 * 6 * 4 * 9 * 32 + 4 * 9 * 64 * 4


@pytest.mark.parametrize("layers", [3, 12])
@pytest.mark.parametrize(("sequential", "passes"), [(False, 1), (True, 4)])  # BERT's weights read four tensors
def test_what_a_block_costs(layers, sequential, passes):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": 400}
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **sizes))
    chosen = targets(model, family_of("bert"), Select())
    calls = []
    for block in model.bert.encoder.layer:
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    rows, nothing = [padded(1), padded(2)], lambda target: Nothing()
    stream(model, family_of("bert"), rows, chosen, nothing, lambda target, statistic: None, sequential)
    # One batch tells which weights read one tensor; the last block's output is not needed.
    assert len(calls) == layers + layers * passes * len(rows) + (layers - 1) * len(rows)
    assert not parametrize.is_parametrized(model)
