"""A 3-D weight that a module of one's own multiplies in its forward (mixtures of experts), rounded to its grid, for training."""

import torch
from torch import Tensor

from torchqat.config import QConfig
from torchqat.nn.bare_weight import BareForm, FloatWeight
from torchqat.nn.qat._layer import IntegerWeights, QatLayer


class BareWeight(BareForm, QatLayer, FloatWeight):
    """The quantised weight; what it is multiplied with stays in float, whatever the scheme says of activations.

    Every expert has scales of its own: granularity "channel" gives one to each expert's output channel, "group:32" to each group along
    the input; "tensor" is one scale for all experts. Which axis is the input is seen when prepare_qat runs the model.

    Shape: weight [experts, out, in] (summed_axis 2) or [experts, in, out] (1); the output is the weight's.

    Example:
        >>> import torch, torchqat
        >>> from torchqat.nn.bare_weight import FloatWeight
        >>> held = FloatWeight(torch.nn.Parameter(torch.randn(2, 8, 4)), summed_axis=2)
        >>> torchqat.nn.qat.BareWeight.from_float(held, torchqat.QConfig.int4_weight_only(group_size=4))().shape
        torch.Size([2, 8, 4])
    """

    bias = None

    def configure(self, qconfig: QConfig) -> None:
        if qconfig.weight is None:
            raise ValueError("nn.qat.BareWeight: weight must be a QuantSpec")
        granularity, out = qconfig.weight.parsed_granularity, self.weight.size(3 - self.summed_axis)
        if granularity.kind == "block" and out % granularity.sizes[0] != 0:
            raise ValueError(
                f"nn.qat.BareWeight: the rows of a block must divide an expert's output channels, got {granularity.sizes[0]} and {out}"
            )
        super().configure(QConfig(weight=qconfig.weight))

    def initial_weight(self) -> Tensor:
        return self.as_matrix(self.weight.detach())

    def effective_weight(self) -> tuple[Tensor, Tensor | None]:
        return self.weight_fake_quant.shaped(self.as_matrix(self.weight)), None

    def forward(self) -> Tensor:
        return self.as_weight(self.weight_fake_quant(self.as_matrix(self.weight)), self.weight.size(0))

    @torch.jit.unused
    @torch.no_grad()
    def kernel_weights(self) -> IntegerWeights:
        """integer_weights, all of them of the weight's shape."""
        codes, scale, zero_point, block = super().kernel_weights()
        experts = self.weight.size(0)
        codes = self.as_weight(codes, experts).contiguous()
        if not block:
            return IntegerWeights(codes, scale, zero_point, [])
        scale = self.as_weight(scale, experts).contiguous()
        zero_point = None if zero_point is None else self.as_weight(zero_point, experts).contiguous()
        return IntegerWeights(codes, scale, zero_point, [1, *block] if self.summed_axis == 2 else [1, *block[::-1]])
