"""Small models and schemes that several test files train, convert and compare."""

import copy

import torch
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec

STATIC = QuantSpec("uint8", symmetric=False, observer="ema")

# Both sides integer: outputs are equal bit for bit.
INTEGER = {
    "int8": QConfig.int8(),
    "int8_dynamic": QConfig.int8_dynamic(),
    "int8_per_tensor": QConfig(QuantSpec("int8"), QuantSpec("int8", observer="minmax")),
    "dynamic_per_tensor": QConfig(
        QuantSpec("int8", "channel"), QuantSpec("uint8", symmetric=False, observer="dynamic")
    ),
    "int4": QConfig(QuantSpec("int4", "channel"), STATIC),
    "int2": QConfig(QuantSpec("int2", "channel"), STATIC),
    "int4_bf16_scales": QConfig(QuantSpec("int4", "channel", scale_dtype="bfloat16"), STATIC),
    "uint4_activations": QConfig(QuantSpec("int8", "channel"), QuantSpec("uint4", symmetric=False, observer="ema")),
    "lsq": QConfig(
        QuantSpec("int4", "channel", estimator="lsq"), QuantSpec("uint8", symmetric=False, estimator="lsq+")
    ),
    "pact_tqt": QConfig(QuantSpec("int4", "channel", estimator="tqt"), QuantSpec("uint4", estimator="pact")),
    "signed_pact_tqt_per_tensor": QConfig(QuantSpec("int2", estimator="tqt"), QuantSpec("int8", estimator="pact")),
    "dorefa": QConfig(QuantSpec("int4", estimator="dorefa"), QuantSpec("uint8", estimator="dorefa")),
    "dorefa_channel_tqt": QConfig(QuantSpec("int3", "channel", estimator="dorefa"), QuantSpec("int8", estimator="tqt")),
    "lsq_per_tensor": QConfig(QuantSpec("int2", estimator="lsq"), STATIC),
}
# Linear in groups; convolutions compute in float there.
GROUPED = {"int4_int8": QConfig.int4_int8(3), "int2_groups": QConfig(QuantSpec("int2", "group:5"), STATIC)}
WEIGHT_ONLY = {
    "int8_weight_only": QConfig.int8_weight_only(),
    "int4_weight_only": QConfig.int4_weight_only(3),
    "int2_weight_only": QConfig.int2_weight_only(5),
    "affine_uint4": QConfig(QuantSpec("uint4", "group:4", symmetric=False)),
    "int3_per_tensor": QConfig(QuantSpec("int3")),
    "int6_blocks": QConfig(QuantSpec("int6", "block:2x3")),
}
SCHEMES = {**INTEGER, **GROUPED, **WEIGHT_ONLY}


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_bn = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding="same", groups=width)
        self.second_bn = nn.BatchNorm2d(width)

    def forward(self, x):
        y = torch.relu(self.first_bn(self.first(x)))
        return torch.relu(self.second_bn(self.second(y)) + x)


def conv_net():
    """Convolutions of every sort with BatchNorm, then a head; input [N, 3, 9, 9]."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(8),
        nn.Conv2d(8, 6, (3, 2), padding=(1, 0), padding_mode="reflect"),
        nn.Flatten(),
        nn.Linear(6 * 5 * 4, 7),
        nn.ReLU(),
        nn.Linear(7, 5, bias=False),
    )


def images(n=4, seed=0):
    return torch.randn(n, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


_trained = {}


def trained(config, model=None, steps=3, make=conv_net, batch=images):
    """A prepared model after some steps of SGD, in training mode."""
    key = (config, steps, make, batch)
    if model is None and key in _trained:
        return copy.deepcopy(_trained[key])
    torch.manual_seed(0)
    prepared = torchqat.prepare_qat(make() if model is None else model, config)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.01, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        prepared(batch(seed=step)).square().mean().backward()
        optimizer.step()
    if model is None and make.__name__ != "<lambda>":
        _trained[key] = copy.deepcopy(prepared)
    return prepared
