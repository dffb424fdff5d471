"""What the estimators beyond straight-through need in Python: how a parameter becomes a scale, what a scale's gradient is
multiplied by, and where learned scales start. The gradients themselves are the ops'.

A learned scale is `base_scale * exp(log_scale)` below its start and `base_scale * (1 + log_scale)` above: positive and finite
whatever the optimiser does, and weight decay pulls it to where it started instead of to 1. The op's backward hands `log_scale` the gradient divided by base_scale twice, so that plain SGD moves
the scale as it would move it as a parameter of its own (LSQ's setting); Adam, which divides by a gradient's size, moves every scale by
about its learning rate times itself. TQT's `2^ceil(log2(base_scale) + log_scale)` has the paper's gradient of log2 t: train it with
Adam, as the paper does (at a rate of 0.01), since plain SGD moves such exponents hardly at all.
"""

import math

import torch
from torch import Tensor


def scale_of(log_scale: Tensor, base_scale: Tensor, power_of_two: bool, smallest: float) -> Tensor:
    """The positive scale that a parameter stands for, with the gradients above."""
    if power_of_two:
        scale = torch.ops.torchqat.power_of_two_scale(log_scale, base_scale)
    else:
        scale = torch.ops.torchqat.learned_scale(log_scale, base_scale)
    return scale.clamp_min(smallest)


def grad_scale(estimator: str, numel: int, quant_max: int) -> float:
    """The factor of the scale's gradient: LSQ's 1 / sqrt(n * quant_max); PACT learns alpha = quant_max * s instead of s, which
    makes two factors of 1 / quant_max; 1 for TQT.
    """
    if estimator == "pact":
        return 1.0 / float(quant_max * quant_max)
    if estimator == "tqt":
        return 1.0
    return 1.0 / math.sqrt(float(numel * quant_max))


def threshold_levels(quant_max: int) -> int:
    """TQT's 2^(b-1) (2^b unsigned): the power of two above quant_max, by which a threshold becomes a scale."""
    levels = 1
    while levels <= quant_max:
        levels *= 2
    return levels


def power_of_two_start(scale: Tensor) -> Tensor:
    """A start whose power of two is the nearest to scale, in the middle of the parameters that give it."""
    return torch.exp2(torch.round(torch.log2(scale)) - 0.5)
