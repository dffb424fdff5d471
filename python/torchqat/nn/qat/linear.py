"""Linear with quantised weight and input, for training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchqat.config import QConfig
from torchqat.nn.qat._layer import QatLayer


class Linear(QatLayer, nn.Linear):
    """`y = x_q @ w_q.T + b` on quantised values.

    With integer weight and activation the forward is the deployed integer kernel itself; otherwise it is a float
    product of fake-quantised tensors.

    Shape: input [..., in_features]; output [..., out_features].

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.

    Example:
        >>> import torch, torchqat
        >>> layer = torchqat.nn.qat.Linear.from_float(torch.nn.Linear(8, 4), torchqat.QConfig.int8())
        >>> layer(torch.randn(2, 8)).shape
        torch.Size([2, 4])
    """

    def configure(self, qconfig: QConfig) -> None:
        super().configure(qconfig)
        self.weight_group = 0
        if qconfig.weight is not None and qconfig.weight.parsed_granularity.kind == "group":
            self.weight_group = qconfig.weight.parsed_granularity.sizes[0]

    def forward(self, input: Tensor) -> Tensor:
        if self.weight_fake_quant is not None and self.activation_fake_quant is not None:
            by_chance = self.stochastic and self.training
            if self.integer and self.weight_fake_quant.enabled and self.activation_fake_quant.enabled and not by_chance:
                return self.integer_forward(input)
        if self.activation_fake_quant is not None:
            input = self.activation_fake_quant(input)
        weight = self.weight
        if self.weight_fake_quant is not None:
            weight = self.weight_fake_quant(weight)
        return F.linear(input, weight, self.bias)

    def integer_forward(self, input: Tensor) -> Tensor:
        input_scale, input_zero_point = self.activation_fake_quant.qparams(input)
        weight_scale, _ = self.weight_fake_quant.qparams(self.weight)
        weight = self.weight_fake_quant.to_levels(self.shaped_weight(), weight_scale)
        input = self.activation_fake_quant.to_levels(input, input_scale)
        if self.weight_group > 0:
            return torch.ops.torchqat.qat_linear_grouped(
                input,
                weight,
                self.bias,
                input_scale,
                input_zero_point,
                weight_scale,
                group_size=self.weight_group,
                input_quant_min=self.activation_fake_quant.quant_min,
                input_quant_max=self.activation_fake_quant.quant_max,
                weight_quant_min=self.weight_fake_quant.quant_min,
                weight_quant_max=self.weight_fake_quant.quant_max,
                input_learned=self.activation_fake_quant.learned_by_kernel,
                weight_learned=self.weight_fake_quant.learned,
                input_grad_scale=self.activation_fake_quant.grad_scale(input),
                weight_grad_scale=self.weight_fake_quant.grad_scale(self.weight),
                backward=self.backward_kind,
            )
        return torch.ops.torchqat.qat_linear_int8(
            input,
            weight,
            self.bias,
            input_scale,
            input_zero_point,
            weight_scale,
            self.activation_fake_quant.quant_min,
            self.activation_fake_quant.quant_max,
            self.weight_fake_quant.quant_min,
            self.weight_fake_quant.quant_max,
            self.activation_fake_quant.learned_by_kernel,
            self.weight_fake_quant.learned,
            self.activation_fake_quant.grad_scale(input),
            self.weight_fake_quant.grad_scale(self.weight),
            self.backward_kind,
        )
