"""Integer forms beside what has none: a network with hardswish, squeeze-and-excitation and residuals, as in MobileNetV3."""

import warnings

import torch
import torchqat
from torch import nn


class Excite(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.pool, self.down, self.up = nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)
        self.relu, self.gate = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x):
        return x * self.gate(self.up(self.relu(self.down(self.pool(x)))))


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        wide = 3 * width
        self.body = nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(),
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(), Excite(wide),
            nn.Conv2d(wide, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


def network():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Hardswish(), Block(16), Block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


def test_what_has_no_form_stays_in_float_and_is_named():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 24, 20)
    prepared = torchqat.prepare_qat(network(), torchqat.QConfig.int8(), example_inputs=x).train()
    for _ in range(2):
        prepared(torch.randn(4, 3, 24, 20)).sum().backward()
    prepared.eval()
    converted = torchqat.convert(prepared, example_inputs=x)
    kinds = {name: type(module).__name__ for name, module in converted.named_modules()}
    # Around the product floats flow; the first function, the residual sums and the pooling have codes on both sides.
    assert kinds["1"] == kinds["2.body.2"] == "Activation" and kinds["2.add"] == kinds["3.add"] == "Add" and kinds["4"] == "AvgPool"
    assert kinds["2.body.5"] == "Hardswish" and kinds["2.body.6.gate"] == "Hardsigmoid" and kinds["2.body.6.pool"] == "AdaptiveAvgPool2d"
    lines = str(torchqat.coverage(prepared)).splitlines()
    assert sum(line.startswith("mul") and "functional op in float" in line for line in lines) == 2
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        for batch in (x, x.to(memory_format=torch.channels_last), torch.randn(1, 3, 24, 20)):
            expected = prepared(batch)
            assert torch.equal(converted(batch), expected)
            assert torch.equal(torch.jit.script(converted)(batch), expected)
