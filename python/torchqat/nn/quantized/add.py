"""The deployed sum of two quantised values."""

import torch
from torch import Tensor

from torchqat.nn.quantized._form import QuantizedForm
from torchqat.nn.quantized._layer import Description


class Add(QuantizedForm):
    """`y = (q_a - z_a) * s_a + (q_b - z_b) * s_b`, as float32 or as the next layer's codes. Made by torchqat.convert.

    Shape: two tensors of one shape, floats or codes of their grids.
    """

    def __init__(self, description: Description):
        super().__init__(description)
        first, second = description.config["inputs"]
        self.first_min, self.first_max = first["quant_min"], first["quant_max"]
        self.second_min, self.second_max = second["quant_min"], second["quant_max"]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        y = torch.ops.torchqat.add_int8(
            first.float() if first.is_floating_point() else first,
            second.float() if second.is_floating_point() else second,
            self.input_scale_0,
            self.input_zero_point_0,
            self.first_min,
            self.first_max,
            self.input_scale_1,
            self.input_zero_point_1,
            self.second_min,
            self.second_max,
            self.output_relu,
            self.output_scale,
            self.output_zero_point,
            self.output_quant_min,
            self.output_quant_max,
        )
        return y.to(first.dtype) if first.is_floating_point() and y.is_floating_point() else y
