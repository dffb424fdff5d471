"""The ways of the backward do not lean to one side: their errors against float64 are noise, along the gradient and against it."""

import copy

import pytest
import torch
from torch import nn

import torchqat


@pytest.mark.parametrize("rows", [5, 64])
@pytest.mark.parametrize("dtype", ["int8", "int2"])
@pytest.mark.parametrize("layer", [nn.Linear(96, 48), nn.Conv2d(32, 48, 3, padding=1)], ids=["linear", "conv"])
def test_the_gradient_is_neither_longer_nor_shorter(layer, dtype, rows):
    generator = torch.Generator().manual_seed(5)
    shape = (rows, 96) if isinstance(layer, nn.Linear) else (rows, 32, 9, 9)
    weight = torchqat.QuantSpec(dtype=dtype, granularity="channel")
    lengths = {"int16": [], "float32": []}
    for _ in range(8):
        x = torch.randn(shape, generator=generator)
        found = {}
        for way in ("float64", *lengths):
            config = torchqat.QConfig(
                weight=weight, activation=torchqat.QConfig.int8().activation, backward="auto" if way == "float64" else way
            )
            model = torchqat.prepare_qat(nn.Sequential(copy.deepcopy(layer)), config).train()
            if way == "float64":  # the same grids, simulated
                model[0].integer = False
                model = model.double()
            values = x.to(model[0].weight.dtype, copy=True).requires_grad_()
            y = model(values)
            y.backward(torch.sin(torch.arange(y.numel()).double()).reshape(y.shape).to(y.dtype) + 0.25)
            found[way] = [values.grad.double(), model[0].weight.grad.double()]
        for way in lengths:
            lengths[way].append([((g * w).sum() / (w * w).sum() - 1).item() for g, w in zip(found[way], found["float64"])])
    for way, values in lengths.items():
        middle = torch.tensor(values).median(0).values.abs().max().item()
        assert middle < 2e-5, f"{way}: the gradient's length is off by {middle:.1e}"
