from __future__ import annotations

import math

import pytest
import torch

from compress_exp.config.checks import UserError
from compress_exp.layers.int8 import Int8Linear
from compress_exp.measurement import fidelity
from compress_exp.measurement.fidelity import ROUNDING, SHARE, check, difference, distance_from_parent, reference
from tests.tasks.helpers import task


def batches(rows=3, length=5, parts=2):
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(parts):
        ids = torch.randint(0, 9, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 3:] = 0
        found.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    return found


def constant(*values):
    """Outputs (batch, classes), the same for every row."""
    return lambda batch: {"logits": torch.tensor(values).repeat(len(batch["input_ids"]), 1)}


def test_the_difference_is_relative_over_all_rows():
    assert difference(constant(3.0, 4.0), constant(3.0, 0.0), batches(), batches()) == pytest.approx(4 / 3)
    assert difference(constant(3.0, 4.0), constant(3.0, 4.0), batches(), batches()) == 0.0


def test_padding_and_ignored_labels_do_not_count():
    def padded(noise):
        def outputs(batch):
            logits = torch.ones(*batch["input_ids"].shape, 4)
            logits[batch["attention_mask"] == 0] += noise
            return {"logits": logits}

        return outputs

    assert difference(padded(7.0), padded(0.0), batches(), batches()) == 0.0
    without = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in batches()]
    for batch in without:
        batch["labels"] = torch.zeros(3, 2)  # of a decoder's own length
    assert difference(padded(7.0), padded(0.0), without, without) == 0.0


def test_every_output_counts_where_its_labels_do():
    def spans(start, end):
        def outputs(batch):
            found = torch.ones(2, *batch["input_ids"].shape)
            found[0, :, 1], found[1, :, 1] = start, end
            found[:, :, 4] = 100 * start  # no answer can be there
            return dict(zip(("start_logits", "end_logits"), found, strict=True))

        return outputs

    places = [{"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]} for batch in batches()]
    for batch in places:
        batch["labels_start"] = torch.zeros(3, dtype=torch.long)
        batch["labels_context"] = torch.tensor([[1, 1, 1, 1, -100]]).repeat(3, 1)
    assert difference(spans(1.0, 1.0), spans(1.0, 1.0), places, places) == 0.0
    assert difference(spans(1.0, 4.0), spans(1.0, 1.0), places, places) == pytest.approx(3 / math.sqrt(8))
    assert difference(spans(4.0, 4.0), spans(1.0, 1.0), places, places) == pytest.approx(3 / math.sqrt(4))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_that_is_not_finite_passes(value):
    for one, other in ((constant(value), constant(1.0)), (constant(1.0), constant(value))):
        assert difference(one, other, batches(), batches()) == math.inf
        assert not check("eager", one, other, batches(), 0.5).faithful


def test_floats_are_held_to_rounding_and_integers_to_a_share_of_what_quantization_changed():
    own = constant(1.0, 0.0)
    for precision, rounding in ROUNDING.items():
        assert check("a", constant(1.0, 0.9 * rounding), own, batches(), None, precision).faithful
        assert not check("a", constant(1.0, 1.1 * rounding), own, batches(), None, precision).faithful
    assert check("a", constant(1.0, 0.9 * SHARE * 0.2), own, batches(), 0.2).faithful
    found = check("a", constant(1.0, 1.1 * SHARE * 0.2), own, batches(), 0.2)
    assert not found.faithful
    assert str(found).startswith("a: left out, its outputs differ by 0.")


def test_kernels_that_are_wrong_for_few_tokens_only_are_found():
    own = constant(1.0, 0.0)

    def deployed(batch):
        factor = 1.5 if batch["input_ids"].numel() < 5 else 1.0
        return {name: factor * output for name, output in own(batch).items()}

    assert check("a", own, own, batches(), None).faithful
    assert not check("a", deployed, own, batches(), None).faithful


def test_a_parent_of_another_vocabulary_gives_a_typical_distance():
    assert distance_from_parent(constant(1.0, 2.0), batches(), constant(1.0, 2.0, 3.0), batches()) == pytest.approx(
        fidelity.UNKNOWN_DISTANCE
    )


def test_windows_of_another_tokenizer_give_a_typical_distance():
    own = constant(1.0, 2.0)
    assert distance_from_parent(own, batches(parts=3), own, batches(parts=2)) == fidelity.UNKNOWN_DISTANCE


def test_the_reference_takes_no_kernel(tiny, batch, monkeypatch):
    model = tiny("bert")
    dense = model.bert.encoder.layer[0].intermediate.dense
    grid = torch.tensor(0.05), torch.tensor(128)
    layer = Int8Linear.from_float(dense.weight, dense.bias, dense.weight.detach().abs().amax(1) / 63, *grid)
    model.bert.encoder.layer[0].intermediate.dense = layer
    monkeypatch.setattr(Int8Linear, "_packed", lambda self: pytest.fail("a kernel was asked for"))
    logits = reference(model.eval(), task("classification"), "it")(batch)["logits"]
    assert logits.shape[0] == len(batch["input_ids"]) and not logits.requires_grad


def test_a_model_that_says_nan_is_refused_by_name(tiny, batch):
    model = tiny("bert").eval()
    with torch.no_grad():
        model.classifier.bias[0] = math.nan
    with pytest.raises(UserError, match="^artifact x: its outputs are not finite, NaN in "):
        reference(model, task("classification"), "artifact x")(batch)
