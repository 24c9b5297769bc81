from __future__ import annotations

import pytest
import torch
from torch import nn

from compress_exp.models.finite import nonfinite, nonfinite_weight

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("value", "name"), [(NAN, "NaN"), (INFINITY, "infinity"), (-INFINITY, "infinity")])
def test_what_is_not_finite_is_counted(value, name, dtype):
    tensor = torch.linspace(-1, 1, 24, dtype=dtype).view(4, 3, 2)
    assert nonfinite(tensor) is None and nonfinite(tensor, "rows") is None
    tensor[1, 0, 0] = tensor[1, 2, 1] = tensor[3, 0, 0] = value
    assert nonfinite(tensor) == f"{name} in 3 of 24 entries"
    assert nonfinite(tensor, "rows") == f"{name} in 2 of 4 rows"


def test_the_largest_numbers_are_finite_and_integers_always_are():
    assert nonfinite(torch.tensor([torch.finfo(torch.float32).max, torch.finfo(torch.float32).min])) is None
    assert nonfinite(torch.tensor([2**62])) is None and nonfinite(torch.empty(0)) is None


def test_the_first_damaged_tensor_of_a_model_is_named():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert nonfinite_weight(model) is None
    model[1].running_var[2] = INFINITY
    assert nonfinite_weight(model) == "1.running_var (infinity in 1 of 3 entries)"
    model[0].bias.data[0] = NAN
    assert nonfinite_weight(model) == "0.bias (NaN in 1 of 3 entries)"
