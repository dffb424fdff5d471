"""Convolutions on 8-bit integers: int8 weights with a scale per output channel or tensor, quantised input."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchqat.nn.quantized._layer import Description, QuantizedLayer, describe, row_scale

GEOMETRY = ("stride_list", "padding_list", "dilation_list", "groups", "explicit_padding", "explicit_mode")


class ConvGeometry(QuantizedLayer):
    """What integer and weight-only convolutions share."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    explicit_padding: list[int]
    kernel_size: list[int]
    codes_shape: list[int]

    def __init__(self, description: Description):
        super().__init__(description)
        config = description.config
        self.stride, self.padding, self.dilation = (
            config["stride_list"],
            config["padding_list"],
            config["dilation_list"],
        )
        self.groups = config["groups"]
        self.explicit_padding, self.explicit_mode = config["explicit_padding"], config["explicit_mode"]
        self.codes_shape = list(description.tensors["codes"].shape)
        self.kernel_size = self.codes_shape[2:]
        self.spatial_dims = len(self.kernel_size)

    @classmethod
    def describe(cls, layer) -> Description:
        return describe(layer, cls.__name__, **{name: getattr(layer, name) for name in GEOMETRY})

    @torch.jit.unused
    def weight_shape(self) -> list[int]:
        return list(self.codes_shape)

    def padded(self, input: Tensor) -> Tensor:
        if len(self.explicit_padding) > 0:
            return F.pad(input, self.explicit_padding, mode=self.explicit_mode)
        return input

    def float_conv(self, input: Tensor, weight: Tensor) -> Tensor:
        if self.spatial_dims == 1:
            return F.conv1d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        if self.spatial_dims == 2:
            return F.conv2d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return F.conv3d(input, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv(ConvGeometry):
    """Integer convolution in one to three dimensions; padding is exactly zero. Made by torchqat.convert.

    With an integer edge behind it the output is the next layer's uint8 codes; with one before it the input is codes.

    Shape: input [N, C, *spatial] or [C, *spatial]; output [N, out_channels, *spatial'].
    """

    def __init__(self, description: Description):
        super().__init__(description)
        codes = description.tensors["codes"]
        self.weight_scale = row_scale(self.weight_scale, codes.shape[0])
        self.register_buffer("packed_weight", torch.ops.torchqat.conv_int8_pack(codes, self.groups))
        output = description.config.get("output", {"relu": False, "quant_min": 0, "quant_max": 255})
        self.output_relu, self.output_quant_min, self.output_quant_max = output["relu"], output["quant_min"], output["quant_max"]
        self.register_buffer("output_scale", description.tensors.get("output_scale"))
        self.register_buffer("output_zero_point", description.tensors.get("output_zero_point"))
        self.gives_codes = self.output_scale is not None and self.static and len(self.explicit_padding) == 0

    @torch.jit.unused
    def codes_tensor(self) -> Tensor:
        return torch.ops.torchqat.conv_int8_unpack(self.packed_weight)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self.convolve(
                input, self.packed_weight, self.weight_scale, self.bias, self.input_scale, self.input_zero_point,
                self.output_scale, self.output_zero_point,
            )  # fmt: skip
        else:
            # Past nn.Module.__getattr__, which at batch 1 costs as much as a small convolution; so does one more call.
            b = self._buffers
            if self.gives_codes and input.dim() == self.spatial_dims + 2:
                return torch.ops.torchqat.conv_int8_codes(
                    input, b["packed_weight"], b["weight_scale"], b["bias"], b["input_scale"], b["input_zero_point"], self.quant_min,
                    self.quant_max, self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.output_relu,
                    b["output_scale"], b["output_zero_point"], self.output_quant_min, self.output_quant_max,
                )  # fmt: skip
            return self.convolve(
                input, b["packed_weight"], b["weight_scale"], b["bias"], b["input_scale"], b["input_zero_point"],
                b["output_scale"], b["output_zero_point"],
            )  # fmt: skip

    def convolve(
        self,
        input: Tensor,
        packed_weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        input_scale: Tensor | None,
        input_zero_point: Tensor | None,
        output_scale: Tensor | None,
        output_zero_point: Tensor | None,
    ) -> Tensor:
        batched = input.dim() == self.spatial_dims + 2
        if not batched:
            input = input.unsqueeze(0)
        if input_scale is None or input_zero_point is None:
            blocks = [1] + [-1] * (input.dim() - 1)
            if not self.per_token:
                blocks = blocks[:0]
            input_scale, input_zero_point = torch.ops.torchqat.choose_qparams(
                input, blocks, self.quant_min, self.quant_max, self.symmetric
            )
        if len(self.explicit_padding) > 0:
            input = self.padded(input)
        if output_scale is not None and output_zero_point is not None:
            y = torch.ops.torchqat.conv_int8_codes(
                input, packed_weight, weight_scale, bias, input_scale, input_zero_point, self.quant_min, self.quant_max,
                self.kernel_size, self.stride, self.padding, self.dilation, self.groups, self.output_relu, output_scale,
                output_zero_point, self.output_quant_min, self.output_quant_max,
            )  # fmt: skip
        else:
            y = torch.ops.torchqat.conv_int8(
                input, packed_weight, weight_scale, bias, input_scale, input_zero_point, self.quant_min, self.quant_max,
                self.kernel_size, self.stride, self.padding, self.dilation, self.groups,
            )  # fmt: skip
        return y if batched else y.squeeze(0)
