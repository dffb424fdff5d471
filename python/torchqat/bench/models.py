"""The networks of the whole-model benchmarks, the same in every suite so that their tables can stand side by side."""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["mlp", "cnn", "mobilenet", "TransformerBlock", "LlamaLinears"]


def mlp() -> nn.Sequential:
    """Linear 1024 -> 4096, GELU, Linear 4096 -> 1024. Input [tokens, 1024]."""
    return nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024))


def cnn() -> nn.Sequential:
    """Eight times Conv 3x3, BatchNorm, ReLU, stride 2 in the fifth, then pool and Linear. Input [N, 3, 32, 32]."""
    widths = [3, 64, 64, 64, 64, 128, 128, 128, 128]
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        layers += [
            nn.Conv2d(inputs, outputs, 3, padding=1, stride=2 if index == 4 else 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expand: int):
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()]
        layers += [
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet(classes: int = 100) -> nn.Sequential:
    """MobileNetV2 (Sandler 2018) at width 1.0 for [N, 3, 96, 96] images."""
    settings = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    inputs = 32
    for expand, outputs, repeats, stride in settings:
        for index in range(repeats):
            layers.append(_InvertedResidual(inputs, outputs, stride if index == 0 else 1, expand))
            inputs = outputs
    layers += [nn.Conv2d(inputs, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP with separate projections. Input [batch, tokens, width]."""

    def __init__(self, width: int = 1024, heads: int = 16):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)

        def split(t: torch.Tensor) -> torch.Tensor:
            return t.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        attended = functional.scaled_dot_product_attention(
            split(self.query(normed)), split(self.key(normed)), split(self.value(normed)), is_causal=True
        )
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class LlamaLinears(nn.Module):
    """The linears of Llama layers one after another (no attention), as decoding reads them: 205M weights in four
    layers of width 2048 and MLP 5632. Input [tokens, width]."""

    def __init__(self, layers: int = 4, width: int = 2048, hidden: int = 5632):
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(layers):
            shapes = [(width, width)] * 4 + [(width, hidden)] * 2 + [(hidden, width)]
            self.layers.append(nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in shapes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for query, key, value, out, gate, up, down in self.layers:
            x = out(query(x) + key(x) + value(x))
            x = down(gate(x) * up(x))
        return x
