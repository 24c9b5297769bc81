from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from compress_exp.methods.parametrized import Mask, attach, copied
from compress_exp.methods.quant.fake import FakeQuantWeight


def test_a_grid_rounds_what_the_mask_left_whichever_came_first():
    weights = []
    for order in ((0, 1), (1, 0)):
        linear = nn.Linear(4, 2)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor([[8.0, 1.0, 0.3, -0.6], [2.0, -1.0, 0.5, 0.1]]))
        mask = Mask(linear.weight)
        mask.factor[:, 0] = 0
        for index in order:
            attach([linear], (mask, FakeQuantWeight(0, 127))[index])
        weights.append(linear.weight.detach())
        assert [type(item) for item in linear.parametrizations.weight] == [Mask, FakeQuantWeight]
    assert torch.equal(*weights)
    scale = torch.tensor([[1.0], [1.0]]) / 127  # of what is kept, not of 8 and 2
    codes = (torch.tensor([[0.0, 1.0, 0.3, -0.6], [0.0, -1.0, 0.5, 0.1]]) / scale).round()
    assert torch.allclose(weights[0], codes * scale, atol=1e-7)


def test_a_copy_loses_its_parametrizations_alone():
    model = nn.Sequential(nn.Linear(3, 3))
    attach([model[0]], Mask(model[0].weight))
    copy = copied(model)
    parametrize.remove_parametrizations(copy[0], "weight")
    assert parametrize.is_parametrized(model[0], "weight")
    assert torch.equal(model[0].weight, copy[0].weight)
