"""Linear on 8-bit integers: int8 weights with a scale per output channel or tensor, quantised input."""

import torch
from torch import Tensor

from torchqat.nn.quantized._layer import Description, QuantizedLayer, describe, row_scale

_STATIC = torch.ops.torchqat.linear_int8.default
_DYNAMIC = torch.ops.torchqat.linear_int8_dynamic.default
_CODES = torch.ops.torchqat.linear_int8_codes.default


class Linear(QuantizedLayer):
    """`y = float32(sum (q_x - z_x) * q_w) * (s_x * s_w) + b`, sums exact in integers. Made by torchqat.convert.

    With an integer edge behind it the output is the next layer's codes; with one before it the input is codes.

    Under autocast a layer without integer edges gives the same float32 result rounded once to autocast's dtype. Along integer edges
    nothing is rounded in between: codes are computed from the float32 result, and a float output behind codes stays float32. So a
    model with integer edges is nearer to its float32 outputs under autocast than one without, and not equal to it bit for bit.

    Shape: input [..., in_features]; output [..., out_features].
    """

    def __init__(self, description: Description):
        super().__init__(description)
        codes = description.tensors["codes"]
        self.out_features, self.in_features = codes.shape
        self.weight_scale = row_scale(self.weight_scale, self.out_features)
        self.register_buffer("packed_weight", torch.ops.torchqat.linear_int8_pack(codes))
        output = description.config.get("output", {"relu": False, "quant_min": 0, "quant_max": 255})
        self.output_relu, self.output_quant_min, self.output_quant_max = output["relu"], output["quant_min"], output["quant_max"]
        self.register_buffer("output_scale", description.tensors.get("output_scale"))
        self.register_buffer("output_zero_point", description.tensors.get("output_zero_point"))

    @classmethod
    def describe(cls, layer) -> Description:
        return describe(layer, "Linear")

    @torch.jit.unused
    def weight_shape(self) -> list[int]:
        return [self.out_features, self.in_features]

    @torch.jit.unused
    def codes_tensor(self) -> Tensor:
        return torch.ops.torchqat.linear_int8_unpack(self.packed_weight)

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == torch.float64:  # in float32, as in training
            output = self.integer_forward(input.to(torch.float32))
            return output.to(torch.float64) if output.is_floating_point() else output
        return self.integer_forward(input)

    def integer_forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            if not torch.compiler.is_compiling():
                return self.eager_forward(input)
        input_scale, input_zero_point = self.input_scale, self.input_zero_point
        if input_scale is not None and input_zero_point is not None:
            output_scale = self.output_scale
            if output_scale is not None or not input.is_floating_point():
                return torch.ops.torchqat.linear_int8_codes(
                    input,
                    self.packed_weight,
                    self.weight_scale,
                    self.bias,
                    input_scale,
                    input_zero_point,
                    self.quant_min,
                    self.quant_max,
                    self.output_relu,
                    output_scale,
                    self.output_zero_point,
                    self.output_quant_min,
                    self.output_quant_max,
                )
            return torch.ops.torchqat.linear_int8(
                input,
                self.packed_weight,
                self.weight_scale,
                self.bias,
                input_scale,
                input_zero_point,
                self.quant_min,
                self.quant_max,
            )
        return torch.ops.torchqat.linear_int8_dynamic(
            input,
            self.packed_weight,
            self.weight_scale,
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
        weight, weight_scale, bias = held["packed_weight"], held["weight_scale"], held["bias"]
        scale, zero_point = held["input_scale"], held["input_zero_point"]
        low, high = self.quant_min, self.quant_max
        if scale is None or zero_point is None:
            return _DYNAMIC(input, weight, weight_scale, bias, self.per_token, low, high, self.symmetric)
        output = held["output_scale"]
        if output is None and input.is_floating_point():
            return _STATIC(input, weight, weight_scale, bias, scale, zero_point, low, high)
        return _CODES(
            input, weight, weight_scale, bias, scale, zero_point, low, high,
            self.output_relu, output, held["output_zero_point"], self.output_quant_min, self.output_quant_max,
        )  # fmt: skip
