"""Random residual networks through integer edges and forms: prepared, frozen, converted, loaded, copied and scripted models
give the same bits. TORCHQAT_RANDOM_NETWORKS draws more of them.
"""

import copy
import os
import random
import warnings

import pytest
import torch
from test_random_networks import on_any_path
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec

COUNT = int(os.environ.get("TORCHQAT_RANDOM_NETWORKS", "50"))
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.Sigmoid, nn.Identity, nn.GELU, nn.Tanh)


class Residual(nn.Module):
    def __init__(self, draw: random.Random, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=draw.choice([1, 1, channels]), bias=draw.random() < 0.5),
            nn.BatchNorm2d(channels) if draw.random() < 0.6 else nn.Identity(),
            draw.choice(ACTIVATIONS)(),
            nn.Conv2d(channels, channels, 1),
        )
        self.after = draw.choice(ACTIVATIONS)()
        self.kind = draw.choice(["add", "torch.add", "cat", "gate", "none"])

    def forward(self, x):
        y = self.body(x)
        if self.kind == "add":
            y = x + y
        elif self.kind == "torch.add":
            y = torch.add(x, y)
        elif self.kind == "cat":
            y = torch.cat([x, y], 1)
        elif self.kind == "gate":
            y = x * torch.sigmoid(y)
        return self.after(y)


class Net(nn.Module):
    def __init__(self, draw: random.Random):
        super().__init__()
        channels = draw.choice([4, 8, 16, 24])
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, stride=draw.choice([1, 2]), padding=1), nn.BatchNorm2d(channels), draw.choice(ACTIVATIONS)()
        )
        self.pool = draw.choice([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1), nn.Identity(), nn.AvgPool2d(3, 1, 1)])
        self.blocks = nn.ModuleList()
        for _ in range(draw.randint(1, 3)):
            self.blocks.append(Residual(draw, channels))
            channels *= 2 if self.blocks[-1].kind == "cat" else 1
        self.last_pool = draw.choice([nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)])
        self.flatten = draw.choice(["flatten", "view", "reshape"])
        self.hidden = nn.Sequential(nn.Linear(channels, draw.choice([8, 33])), draw.choice(ACTIVATIONS)(), nn.Dropout(0.0))
        self.head = nn.Linear(self.hidden[0].out_features, draw.choice([1, 10]))

    def forward(self, x):
        x = self.pool(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = self.last_pool(x)
        if self.flatten == "view":
            x = x.view(x.shape[0], -1)
        else:
            x = torch.flatten(x, 1) if self.flatten == "flatten" else x.reshape(x.size(0), -1)
        return self.head(self.hidden(x))


def scheme(draw: random.Random) -> QConfig:
    affine = {"symmetric": False, "observer": "ema"}
    return draw.choice(
        [
            QConfig.int8(),
            QConfig.int8(),
            QConfig.int8_dynamic(),
            QConfig(QuantSpec("int8", "channel"), QuantSpec("int8", symmetric=True, observer="ema")),
            QConfig(QuantSpec("int4", "channel"), QuantSpec("uint8", estimator=draw.choice(["ste", "lsq", "lsq+"]), **affine)),
            QConfig(QuantSpec("int8", "channel"), QuantSpec("uint4", **affine)),
        ]
    )


@pytest.mark.parametrize("seed", range(COUNT))
def test_every_form_of_the_model_agrees(seed, tmp_path):
    torch.manual_seed(seed)
    draw = random.Random(seed)
    model, config, channels_last = Net(draw), scheme(draw), draw.random() < 0.5

    def batch(samples):
        x = torch.randn(samples, 3, 12, 12)
        return x.to(memory_format=torch.channels_last) if channels_last else x

    example = batch(2)
    on_any_path(draw)
    prepared = torchqat.prepare_qat(
        model,
        config,
        example_inputs=example if draw.random() < 0.75 else None,
        output=QuantSpec("uint8", symmetric=False, observer="ema") if draw.random() < 0.2 else None,
    )
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        prepared(batch(draw.choice([2, 3]))).square().mean().backward()
        optimizer.step()

    x = batch(draw.choice([1, 2, 4]))
    evaluated = prepared.eval()(x)
    converted = torchqat.convert(prepared, example_inputs=example if draw.random() < 0.75 else None)
    on_any_path(draw)
    assert torch.equal(converted(x), evaluated)
    assert torch.equal(copy.deepcopy(converted)(x), evaluated)
    torchqat.save(converted, tmp_path / "model")
    on_any_path(draw)
    assert torch.equal(torchqat.load(tmp_path / "model", model)(x), evaluated)
    if draw.random() < 0.2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, and wary of annotations
            assert torch.equal(torch.jit.script(converted)(x), evaluated)
    torchqat.freeze_batch_norm(torchqat.freeze_observers(prepared)).train()
    assert torch.equal(prepared(x), evaluated)
