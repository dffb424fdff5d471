"""Convolutions with quantised weight and input, for training; in one to three dimensions, grouped and depthwise."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchqat.config import BLOCK_FORMATS, QConfig
from torchqat.nn.qat._layer import QatLayer


class _Conv(QatLayer):
    """The forward of every convolution; `conv_geometry` holds what nn.Conv says in several ways."""

    by_sample = True
    explicit_padding: list[int]
    stride_list: list[int]
    padding_list: list[int]
    dilation_list: list[int]

    def has_integer_form(self, qconfig: QConfig) -> bool:
        return qconfig.weight.parsed_granularity.kind in ("tensor", "channel")

    def configure(self, qconfig: QConfig) -> None:
        activation = qconfig.activation
        if (
            activation is not None
            and activation.dtype not in BLOCK_FORMATS
            and activation.parsed_granularity.kind == "group"
        ):
            raise ValueError(
                f"nn.qat.{type(self).__name__}: activation granularity must be tensor or token, got {activation.granularity!r}"
            )
        super().configure(qconfig)
        conv_geometry(self)

    def padded(self, input: Tensor) -> Tensor:
        if len(self.explicit_padding) > 0:
            return F.pad(input, self.explicit_padding, mode=self.explicit_mode)
        return input

    def quantized_conv(self, input: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: Tensor | None) -> Tensor:
        """Convolution on quantised values; weight as `shaped_weight` gives it; weight_scale is given where it does not come from the weight itself."""
        batched = input.dim() == self.spatial_dims + 2
        if not batched:
            input = input.unsqueeze(0)
        if self.weight_fake_quant is not None and self.activation_fake_quant is not None:
            by_chance = self.stochastic and self.training
            if self.integer and self.weight_fake_quant.enabled and self.activation_fake_quant.enabled and not by_chance:
                y = self.integer_conv(input, weight, bias, weight_scale)
                return y if batched else y.squeeze(0)
        if self.activation_fake_quant is not None:
            input = self.activation_fake_quant(input)
        if self.weight_fake_quant is not None:
            weight = self.weight_fake_quant.with_scale(weight, weight_scale)
        y = self.float_conv(self.padded(input), weight, bias)
        return y if batched else y.squeeze(0)

    def integer_conv(self, input: Tensor, weight: Tensor, bias: Tensor | None, weight_scale: Tensor | None) -> Tensor:
        input_scale, input_zero_point = self.activation_fake_quant.qparams(input)
        if weight_scale is None:
            weight_scale = self.weight_fake_quant.qparams(weight)[0]
        weight = self.weight_fake_quant.to_levels(weight, weight_scale)
        input = self.activation_fake_quant.to_levels(input, input_scale)
        return torch.ops.torchqat.qat_conv_int8(
            self.padded(input),
            weight,
            bias,
            input_scale,
            input_zero_point,
            weight_scale,
            self.activation_fake_quant.quant_min,
            self.activation_fake_quant.quant_max,
            self.weight_fake_quant.quant_min,
            self.weight_fake_quant.quant_max,
            self.stride_list,
            self.padding_list,
            self.dilation_list,
            self.groups,
            self.activation_fake_quant.learned_by_kernel,
            self.weight_fake_quant.learned,
            self.activation_fake_quant.grad_scale(input),
            self.weight_fake_quant.grad_scale(weight),
            self.backward_kind,
        )

    def float_conv(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.spatial_dims == 1:
            return F.conv1d(input, weight, bias, self.stride_list, self.padding_list, self.dilation_list, self.groups)
        if self.spatial_dims == 2:
            return F.conv2d(input, weight, bias, self.stride_list, self.padding_list, self.dilation_list, self.groups)
        return F.conv3d(input, weight, bias, self.stride_list, self.padding_list, self.dilation_list, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        return self.quantized_conv(input, self.shaped_weight(), self.bias, None)


def conv_geometry(conv) -> None:
    """Sets spatial_dims, the lists the ops take, and explicit_padding: done first where the op's zero padding cannot say it
    ("same" with an even kernel, reflect, replicate, circular)."""
    conv.spatial_dims = conv.weight.dim() - 2
    conv.stride_list = list(conv.stride)
    conv.dilation_list = list(conv.dilation)
    conv.explicit_padding = []
    conv.explicit_mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    if conv.padding == "valid":
        conv.padding_list = [0] * conv.spatial_dims
    elif conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size)]
        conv.padding_list = [t // 2 for t in total]
        if any(t % 2 for t in total):
            conv.explicit_padding = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
    else:
        conv.padding_list = list(conv.padding)
    if conv.padding_mode != "zeros" and not conv.explicit_padding:
        conv.explicit_padding = [p for p in reversed(conv.padding_list) for _ in range(2)]
    if conv.explicit_padding:
        conv.padding_list = [0] * conv.spatial_dims


class Conv1d(_Conv, nn.Conv1d):
    """Shape: input [N, C, L] or [C, L]; output [N, out_channels, L']. See Conv2d."""


class Conv2d(_Conv, nn.Conv2d):
    """Convolution of the quantised input with the quantised weight; padding is exactly zero (the code z_x).

    With integer weight and activation the forward is the deployed integer kernel itself; otherwise a float convolution of
    fake-quantised tensors.

    Shape: input [N, C, H, W] or [C, H, W]; output [N, out_channels, H', W'].

    Example:
        >>> import torch, torchqat
        >>> layer = torchqat.nn.qat.Conv2d.from_float(torch.nn.Conv2d(3, 8, 3, padding=1), torchqat.QConfig.int8())
        >>> layer(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 8, 8, 8])
    """


class Conv3d(_Conv, nn.Conv3d):
    """Shape: input [N, C, D, H, W] or [C, D, H, W]; output [N, out_channels, D', H', W']. See Conv2d."""
