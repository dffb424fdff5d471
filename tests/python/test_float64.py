"""Linear layers of float64 models: integer arithmetic is float32's around its integers, before and after convert; what stays
in float computes in float64."""

import copy
import io

import pytest
import torch
from models import GROUPED, INTEGER
from torch import nn

import torchqat

SCHEMES = {**INTEGER, **GROUPED}


def prepared(scheme, dtype, seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    return torchqat.prepare_qat(net.to(dtype), SCHEMES[scheme]).train()


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_trained_is_converted(scheme):
    model = prepared(scheme, torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(3):
        x = torch.randn(9, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(step)).requires_grad_()
        optimizer.zero_grad()
        y = model(x)
        assert y.dtype == torch.float64
        y.square().mean().backward()
        assert x.grad.dtype == torch.float64 and x.grad.abs().max() > 0
        for p in (model[0].weight, model[2].weight, model[2].bias):
            assert p.grad.dtype == torch.float64 and p.grad.abs().max() > 0
        optimizer.step()
    model.eval()
    with torch.no_grad():
        wanted = model(x)
        shipped = torchqat.convert(copy.deepcopy(model))
        got = shipped(x)
        assert got.dtype == torch.float64 and torch.equal(got, wanted)
        scripted = torch.jit.script(shipped)
        file = io.BytesIO()
        torch.jit.save(scripted, file)
        file.seek(0)
        assert torch.equal(torch.jit.load(file)(x), wanted)


@pytest.mark.parametrize("scheme", ["int8", "int8_dynamic", "int4_int8"])
def test_it_is_the_float32_layer(scheme):
    """On values that float32 holds: one layer's output and gradients are those of the float32 model."""
    narrow, wide = prepared(scheme, torch.float32)[:1], prepared(scheme, torch.float32)[:1].double()
    x = torch.randn(5, 64)
    grad = torch.randn(5, 32)
    results = []
    for model, dtype in [(narrow, torch.float32), (wide, torch.float64)]:
        leaf = x.to(dtype, copy=True).requires_grad_()
        y = model(leaf)
        y.backward(grad.to(dtype))
        results.append([y, leaf.grad, model[0].weight.grad, model[0].bias.grad])
    for a, b in zip(*results):
        assert b.dtype == torch.float64 and torch.equal(a.double(), b)


def test_weight_only_computes_in_float64():
    model = torchqat.prepare_qat(nn.Sequential(nn.Linear(16, 4)).double(), torchqat.QConfig.int8_weight_only())
    x = torch.randn(3, 16, dtype=torch.float64)
    layer = model[0]
    wanted = nn.functional.linear(x, layer.weight_fake_quant(layer.weight), layer.bias)
    assert model(x).dtype == torch.float64 and torch.equal(model(x), wanted)
