"""Transposed convolutions with quantised weight and input, for training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchqat.config import BLOCK_FORMATS, QConfig
from torchqat.nn.qat._layer import QatLayer
from torchqat.nn.transposed import (
    grown,
    interleaved,
    output_lengths,
    phase_bias,
    phase_scale,
    phase_weight,
    taps_of_phase,
)


class _ConvTranspose(QatLayer):
    channel_axis = 1
    input_axis = 0
    by_sample = True
    stride_list: list[int]
    padding_list: list[int]
    output_padding_list: list[int]
    dilation_list: list[int]
    kernel_list: list[int]
    taps: list[int]

    def has_integer_form(self, qconfig: QConfig) -> bool:
        return qconfig.weight.parsed_granularity.kind in ("tensor", "channel")

    def configure(self, qconfig: QConfig) -> None:
        activation = qconfig.activation
        in_groups = activation is not None and activation.dtype not in BLOCK_FORMATS
        if in_groups and activation.parsed_granularity.kind == "group":
            raise ValueError(
                f"nn.qat.{type(self).__name__}: activation granularity must be tensor or token, got {activation.granularity!r}"
            )
        super().configure(qconfig)
        self.spatial_dims = self.weight.dim() - 2
        self.kernel_list, self.stride_list, self.padding_list = list(self.kernel_size), list(self.stride), list(self.padding)
        self.output_padding_list, self.dilation_list = list(self.output_padding), list(self.dilation)
        self.taps = taps_of_phase(self.kernel_list, self.stride_list, self.dilation_list)

    def integer_conv(self, input: Tensor, lengths: list[int]) -> Tensor:
        input_scale, input_zero_point = self.activation_fake_quant.qparams(input)
        weight_scale = self.weight_fake_quant.qparams(self.weight)[0]
        weight = self.weight_fake_quant.to_levels(self.shaped_weight(), weight_scale)
        input = self.activation_fake_quant.to_levels(input, input_scale)
        bias = self.bias
        y = torch.ops.torchqat.qat_conv_int8(
            grown(input, lengths, self.taps, self.stride_list, self.padding_list),
            phase_weight(weight, self.stride_list, self.dilation_list, self.groups),
            None if bias is None else phase_bias(bias, self.stride_list),
            input_scale,
            input_zero_point,
            phase_scale(weight_scale, self.out_channels, self.stride_list, self.groups),
            self.activation_fake_quant.quant_min,
            self.activation_fake_quant.quant_max,
            self.weight_fake_quant.quant_min,
            self.weight_fake_quant.quant_max,
            [1] * self.spatial_dims,
            [t - 1 for t in self.taps],
            [1] * self.spatial_dims,
            self.groups,
            self.activation_fake_quant.learned_by_kernel,
            self.weight_fake_quant.learned,
            self.activation_fake_quant.grad_scale(input),
            self.weight_fake_quant.grad_scale(weight),
            self.backward_kind,
        )
        return interleaved(y, lengths, self.stride_list, self.padding_list)

    def float_conv(self, input: Tensor, weight: Tensor, lengths: list[int]) -> Tensor:
        # What output_size asks for is output padding.
        usual = output_lengths(
            input, None, self.kernel_list, self.stride_list, self.padding_list, [0] * self.spatial_dims, self.dilation_list
        )
        more = [a - b for a, b in zip(lengths, usual)]
        stride, padding, dilation = self.stride_list, self.padding_list, self.dilation_list
        if self.spatial_dims == 1:
            return F.conv_transpose1d(input, weight, self.bias, stride, padding, more, self.groups, dilation)
        if self.spatial_dims == 2:
            return F.conv_transpose2d(input, weight, self.bias, stride, padding, more, self.groups, dilation)
        return F.conv_transpose3d(input, weight, self.bias, stride, padding, more, self.groups, dilation)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        batched = input.dim() == self.spatial_dims + 2
        if not batched:
            input = input.unsqueeze(0)
        lengths = output_lengths(
            input, output_size, self.kernel_list, self.stride_list, self.padding_list, self.output_padding_list, self.dilation_list
        )
        y = self.quantized_conv(input, lengths)
        return y if batched else y.squeeze(0)

    def quantized_conv(self, input: Tensor, lengths: list[int]) -> Tensor:
        if self.weight_fake_quant is not None and self.activation_fake_quant is not None:
            by_chance = self.stochastic and self.training
            if self.integer and self.weight_fake_quant.enabled and self.activation_fake_quant.enabled and not by_chance:
                return self.integer_conv(input, lengths)
        if self.activation_fake_quant is not None:
            input = self.activation_fake_quant(input)
        weight = self.weight
        if self.weight_fake_quant is not None:
            weight = self.weight_fake_quant(weight)
        return self.float_conv(input, weight, lengths)


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """Shape: input [N, C, L] or [C, L]; output [N, out_channels, L']. See ConvTranspose2d."""


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """Transposed convolution of the quantised input with the quantised weight; "channel" scales lie along axis 1 of the weight,
    shared by the groups.

    With integer weight and activation it is computed as one integer convolution (see torchqat.nn.transposed), the deployed
    one; otherwise as a float transposed convolution of fake-quantised tensors.

    Shape: input [N, C, H, W] or [C, H, W]; output [N, out_channels, H', W'].

    Example:
        >>> import torch, torchqat
        >>> layer = torchqat.nn.qat.ConvTranspose2d.from_float(torch.nn.ConvTranspose2d(3, 8, 2, stride=2), torchqat.QConfig.int8())
        >>> layer(torch.randn(2, 3, 5, 5)).shape
        torch.Size([2, 8, 10, 10])
    """


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """Shape: input [N, C, D, H, W] or [C, D, H, W]; output [N, out_channels, D', H', W']. See ConvTranspose2d."""
