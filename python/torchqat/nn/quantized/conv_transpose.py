"""Deployed transposed convolutions: integer, weight-only and with a weight on a float grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchqat.nn.quantized._layer import Description, QuantizedLayer, describe
from torchqat.nn.quantized.conv_weight_only import PackedCodes
from torchqat.nn.quantized.float_grid import OnFloatGrid, describe_float, element_values
from torchqat.nn.quantized.input_rounding import input_rounding
from torchqat.nn.transposed import (
    grown,
    interleaved,
    output_lengths,
    phase_bias,
    phase_scale,
    phase_weight,
    taps_of_phase,
    whole_weight,
)

GEOMETRY = ("kernel_list", "stride_list", "padding_list", "output_padding_list", "dilation_list", "groups", "out_channels")


class _Geometry(QuantizedLayer):
    kernel: list[int]
    stride: list[int]
    padding: list[int]
    output_padding: list[int]
    dilation: list[int]
    taps: list[int]
    codes_shape: list[int]

    def __init__(self, description: Description):
        super().__init__(description)
        config = description.config
        self.kernel, self.stride, self.padding = config["kernel_list"], config["stride_list"], config["padding_list"]
        self.output_padding, self.dilation = config["output_padding_list"], config["dilation_list"]
        self.groups, self.out_channels = config["groups"], config["out_channels"]
        self.codes_shape = list(description.tensors["codes"].shape)
        self.spatial_dims = len(self.kernel)
        self.taps = taps_of_phase(self.kernel, self.stride, self.dilation)

    @classmethod
    def describe(cls, layer) -> Description:
        return describe(layer, cls.__name__, **{name: getattr(layer, name) for name in GEOMETRY})

    @torch.jit.unused
    def weight_shape(self) -> list[int]:
        return list(self.codes_shape)

    def lengths(self, input: Tensor, output_size: list[int] | None) -> list[int]:
        return output_lengths(
            input, output_size, self.kernel, self.stride, self.padding, self.output_padding, self.dilation
        )

    def float_conv(self, input: Tensor, weight: Tensor, output_size: list[int] | None) -> Tensor:
        usual = output_lengths(input, None, self.kernel, self.stride, self.padding, [0] * self.spatial_dims, self.dilation)
        more = [a - b for a, b in zip(self.lengths(input, output_size), usual)]
        stride, padding, dilation = self.stride, self.padding, self.dilation
        if self.spatial_dims == 1:
            return F.conv_transpose1d(input, weight, self.bias, stride, padding, more, self.groups, dilation)
        if self.spatial_dims == 2:
            return F.conv_transpose2d(input, weight, self.bias, stride, padding, more, self.groups, dilation)
        return F.conv_transpose3d(input, weight, self.bias, stride, padding, more, self.groups, dilation)


class ConvTranspose(_Geometry):
    """Integer transposed convolution in one to three dimensions. Made by torchqat.convert.

    Shape: input [N, C, *spatial] or [C, *spatial]; output [N, out_channels, *spatial'].
    """

    def __init__(self, description: Description):
        super().__init__(description)
        codes = phase_weight(description.tensors["codes"], self.stride, self.dilation, self.groups)
        self.register_buffer("packed_weight", torch.ops.torchqat.conv_int8_pack(codes.contiguous(), self.groups))

    @torch.jit.unused
    def codes_tensor(self) -> Tensor:
        codes = torch.ops.torchqat.conv_int8_unpack(self.packed_weight)
        return whole_weight(codes, self.kernel, self.stride, self.dilation, self.groups).contiguous()

    def qparams(self, input: Tensor) -> tuple[Tensor, Tensor]:
        input_scale, input_zero_point = self.input_scale, self.input_zero_point
        if input_scale is not None and input_zero_point is not None:
            return input_scale, input_zero_point
        blocks = [1] + [-1] * (input.dim() - 1)
        if not self.per_token:
            blocks = blocks[:0]
        return torch.ops.torchqat.choose_qparams(input, blocks, self.quant_min, self.quant_max, self.symmetric)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        batched = input.dim() == self.spatial_dims + 2
        if not batched:
            input = input.unsqueeze(0)
        lengths = self.lengths(input, output_size)
        input_scale, input_zero_point = self.qparams(input)
        bias = self.bias
        y = torch.ops.torchqat.conv_int8(
            grown(input, lengths, self.taps, self.stride, self.padding),
            self.packed_weight,
            phase_scale(self.weight_scale, self.out_channels, self.stride, self.groups),
            None if bias is None else phase_bias(bias, self.stride),
            input_scale,
            input_zero_point,
            self.quant_min,
            self.quant_max,
            self.taps,
            [1] * self.spatial_dims,
            [t - 1 for t in self.taps],
            [1] * self.spatial_dims,
            self.groups,
        )
        y = interleaved(y, lengths, self.stride, self.padding)
        return y if batched else y.squeeze(0)


class ConvTransposeWeightOnly(PackedCodes, _Geometry):
    """Float transposed convolution with `(q - z) * s`, unpacked at each call. Made by torchqat.convert.

    Shape: input [N, C, *spatial] or [C, *spatial]; output [N, out_channels, *spatial'].
    """

    block_size: list[int]
    codes_shape: list[int]

    def __init__(self, description: Description):
        super().__init__(description)
        self.hold(description)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        batched = input.dim() == self.spatial_dims + 2
        if not batched:
            input = input.unsqueeze(0)
        if self.input_rounding is not None:
            input = self.input_rounding(input)
        y = self.float_conv(input, self.float_weight(input.dtype), output_size)
        return y if batched else y.squeeze(0)


class ConvTransposeFloatGrid(OnFloatGrid, _Geometry):
    """Transposed convolution on a float-grid weight, computed in float. Made by torchqat.convert.

    Shape: input [N, C, *spatial] or [C, *spatial]; output [N, out_channels, *spatial'].
    """

    block_size: list[int]

    def __init__(self, description: Description):
        super().__init__(description)
        config = description.config
        self.block_size, self.along = list(config["block_size"]), config["along"]
        codes = description.tensors["codes"]
        self.register_buffer("codes", codes)
        self.register_buffer("values", element_values(config["element"]).to(codes.device), persistent=False)
        self.input_rounding = input_rounding(config, description.tensors)

    @classmethod
    def describe(cls, layer) -> Description:
        return describe_float(layer, cls.__name__, **{name: getattr(layer, name) for name in GEOMETRY})

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        batched = input.dim() == self.spatial_dims + 2
        if not batched:
            input = input.unsqueeze(0)
        if self.input_rounding is not None:
            input = self.input_rounding(input)
        weight = self.weight_in(input.dtype)
        y = self.float_conv(input, weight, output_size)
        return y if batched else y.squeeze(0)
