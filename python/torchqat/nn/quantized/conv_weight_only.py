"""Convolutions that keep their weight as packed codes and compute in float: small files, float arithmetic."""

import torch
from torch import Tensor

from torchqat.nn.quantized._layer import Description, QuantizedLayer, container_bits
from torchqat.nn.quantized.conv import ConvGeometry
from torchqat.nn.quantized.input_rounding import input_rounding


class PackedCodes(QuantizedLayer):
    """Holds a weight as a stream of bits, and gives it back in float. For layers that compute in float."""

    def hold(self, description: Description) -> None:
        codes = description.tensors["codes"]
        self.bits = container_bits(description.config["bits"])
        self.signed = codes.dtype == torch.int8
        self.numel = codes.numel()
        self.block_size = list(description.config["block_size"])
        self.register_buffer("packed_weight", torch.ops.torchqat.pack_bits(codes, self.bits))
        self.input_rounding = input_rounding(description.config, description.tensors)

    def codes_tensor(self) -> Tensor:
        codes = torch.ops.torchqat.unpack_bits(self.packed_weight, self.bits, self.numel, self.signed)
        return codes.reshape(self.codes_shape)

    def float_weight(self, dtype: torch.dtype) -> Tensor:
        return torch.ops.torchqat.dequantize(
            self.codes_tensor(), self.weight_scale, self.weight_zero_point, self.block_size, dtype
        )


class ConvWeightOnly(PackedCodes, ConvGeometry):
    """Float convolution with `(q - z) * s`, unpacked at each call. Made by torchqat.convert.

    Shape: input [N, C, *spatial] or [C, *spatial]; output [N, out_channels, *spatial'].
    """

    # TorchScript reads the types of lists from the class itself.
    block_size: list[int]
    explicit_padding: list[int]
    codes_shape: list[int]

    def __init__(self, description: Description):
        super().__init__(description)
        self.hold(description)

    def forward(self, input: Tensor) -> Tensor:
        batched = input.dim() == self.spatial_dims + 2
        if not batched:
            input = input.unsqueeze(0)
        if self.input_rounding is not None:
            input = self.input_rounding(input)
        y = self.float_conv(self.padded(input), self.float_weight(input.dtype))
        return y if batched else y.squeeze(0)
