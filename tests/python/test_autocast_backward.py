"""A backward that runs inside the autocast region computes what it computes outside, in every way of computing it."""

import copy

import pytest
import torch
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec

ACTIVATION = QuantSpec("uint8", "token", symmetric=False, observer="dynamic")
LAYERS = {
    "linear": (nn.Linear(17, 5), QuantSpec("int8", "channel"), (3, 17)),
    "grouped": (nn.Linear(17, 5), QuantSpec("int4", "group:4"), (3, 17)),
    "conv": (nn.Conv2d(3, 5, 3, stride=2), QuantSpec("int8", "channel"), (2, 3, 7, 9)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), QuantSpec("int8", "channel"), (2, 6, 7, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("backward", ["float32", "bfloat16", "int16"])
def test_inside_and_outside(name, backward):
    layer, weight, shape = LAYERS[name]
    torch.manual_seed(0)
    outside = torchqat.prepare_qat(copy.deepcopy(layer), QConfig(weight, ACTIVATION, backward))
    inside = copy.deepcopy(outside)
    inputs = [torch.randn(shape).requires_grad_()]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        result = outside(inputs[0]).float().square().sum()
        inside(inputs[1]).float().square().sum().backward()
    result.backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    for (key, a), b in zip(outside.named_parameters(), inside.parameters()):
        assert torch.equal(a.grad, b.grad), key
