"""Linear with integer weights and float arithmetic: small files and little memory traffic, float activations."""

import torch
from torch import Tensor

from torchqat.nn.quantized._layer import Description, QuantizedLayer, container_bits, describe
from torchqat.nn.quantized.input_rounding import input_rounding


class LinearWeightOnly(QuantizedLayer):
    """`y = x @ ((q - z) * s).T + b`, weights of 8, 4, 3 or 2 bits unpacked in registers. Made by torchqat.convert.

    Shape: input [..., in_features]; output [..., out_features].
    """

    def __init__(self, description: Description):
        super().__init__(description)
        codes = description.tensors["codes"]
        self.out_features, self.in_features = codes.shape
        block = description.config["block_size"] or [-1, -1]
        group_size = self.in_features if block[1] == -1 else block[1]
        rows = 1 if block[0] == 1 else (self.out_features if block[0] == -1 else block[0])
        self.rows_per_scale = rows
        self.weight_scale = self._by_row(self.weight_scale)
        if self.weight_zero_point is not None:
            self.weight_zero_point = self._by_row(self.weight_zero_point)
        bits = container_bits(description.config["bits"])
        self.register_buffer("packed_weight", torch.ops.torchqat.linear_grouped_pack(codes, bits, group_size))
        # The scales once more, in the order the kernels read them.
        self.register_buffer("scale_panels", torch.ops.torchqat.linear_grouped_pack_scale(self.weight_scale))
        self.input_rounding = input_rounding(description.config, description.tensors)

    @torch.jit.unused
    def _by_row(self, scale: Tensor) -> Tensor:
        scale = scale.reshape(1, 1) if scale.dim() == 0 else scale
        return scale.repeat_interleave(self.rows_per_scale, 0)[: self.out_features].contiguous()

    @classmethod
    def describe(cls, layer) -> Description:
        return describe(layer, "LinearWeightOnly")

    @torch.jit.unused
    def canonical_scales(self) -> tuple[Tensor, Tensor | None]:
        scale, zero_point = self.weight_scale[:: self.rows_per_scale], self.weight_zero_point
        if not self.scale_blocks:
            scale = scale.reshape(-1)[:1].reshape(())
        if zero_point is not None:
            zero_point = zero_point[:: self.rows_per_scale].reshape(scale.shape)
        return scale, zero_point

    @torch.jit.unused
    def weight_shape(self) -> list[int]:
        return [self.out_features, self.in_features]

    @torch.jit.unused
    def codes_tensor(self) -> Tensor:
        return torch.ops.torchqat.linear_grouped_unpack(self.packed_weight)

    def forward(self, input: Tensor) -> Tensor:
        if self.input_rounding is not None:
            input = self.input_rounding(input)
        return torch.ops.torchqat.linear_weight_only(
            input, self.packed_weight, self.scale_panels, self.weight_zero_point, self.bias
        )
