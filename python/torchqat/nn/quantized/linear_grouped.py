"""Linear on integers with weight scales in groups along the input: 8, 4, 3 or 2 bits, quantised input."""

import torch
from torch import Tensor

from torchqat.nn.quantized._layer import Description, QuantizedLayer, container_bits, describe

_STATIC = torch.ops.torchqat.linear_grouped_int8.default
_DYNAMIC = torch.ops.torchqat.linear_grouped_int8_dynamic.default


class LinearGrouped(QuantizedLayer):
    """Integer sums per group, added in float32 in ascending order. Made by torchqat.convert.

    Shape: input [..., in_features]; output [..., out_features].
    """

    def __init__(self, description: Description):
        super().__init__(description)
        codes = description.tensors["codes"]
        self.out_features, self.in_features = codes.shape
        group_size = description.config["block_size"][1]
        bits = container_bits(description.config["bits"])
        self.register_buffer("packed_weight", torch.ops.torchqat.linear_grouped_pack(codes, bits, group_size))
        # The scales once more, in the order the kernels read them.
        self.register_buffer("scale_panels", torch.ops.torchqat.linear_grouped_pack_scale(self.weight_scale))

    @classmethod
    def describe(cls, layer) -> Description:
        return describe(layer, "LinearGrouped")

    @torch.jit.unused
    def weight_shape(self) -> list[int]:
        return [self.out_features, self.in_features]

    @torch.jit.unused
    def codes_tensor(self) -> Tensor:
        return torch.ops.torchqat.linear_grouped_unpack(self.packed_weight)

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == torch.float64:  # in float32, as in training
            return self.integer_forward(input.to(torch.float32)).to(torch.float64)
        return self.integer_forward(input)

    def integer_forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            if not torch.compiler.is_compiling():
                return self.eager_forward(input)
        input_scale, input_zero_point = self.input_scale, self.input_zero_point
        if input_scale is not None and input_zero_point is not None:
            return torch.ops.torchqat.linear_grouped_int8(
                input,
                self.packed_weight,
                self.scale_panels,
                self.bias,
                input_scale,
                input_zero_point,
                self.quant_min,
                self.quant_max,
            )
        return torch.ops.torchqat.linear_grouped_int8_dynamic(
            input,
            self.packed_weight,
            self.scale_panels,
            self.bias,
            self.per_token,
            self.quant_min,
            self.quant_max,
            self.symmetric,
        )

    @torch.jit.unused
    def eager_forward(self, input: Tensor) -> Tensor:
        """forward, with buffers looked up in their dictionary: the usual way takes as long as a small layer's product."""
        held = self._buffers
        weight, weight_scale, bias = held["packed_weight"], held["scale_panels"], held["bias"]
        scale, zero_point = held["input_scale"], held["input_zero_point"]
        if scale is None or zero_point is None:
            return _DYNAMIC(input, weight, weight_scale, bias, self.per_token, self.quant_min, self.quant_max, self.symmetric)
        return _STATIC(input, weight, weight_scale, bias, scale, zero_point, self.quant_min, self.quant_max)
