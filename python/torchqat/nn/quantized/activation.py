"""The deployed element-wise function: a table with one entry per code."""

import torch
from torch import Tensor

from torchqat.nn.quantized._form import QuantizedForm
from torchqat.nn.quantized._layer import Description


class Activation(QuantizedForm):
    """`y = table[q]`: float32, or the next layer's codes of that. Made by torchqat.convert.

    Shape: any tensor of floats or codes; the output has its shape.
    """

    def __init__(self, description: Description):
        super().__init__(description)
        grid = description.config["inputs"][0]
        self.quant_min, self.quant_max = grid["quant_min"], grid["quant_max"]
        entries = self.table
        if self.output_scale is not None:
            if self.output_relu:
                entries = torch.relu(entries)
            low, high = self.output_quant_min, self.output_quant_max
            kind = torch.int8 if low < 0 else torch.uint8
            entries = torch.ops.torchqat.quantize(entries, self.output_scale, self.output_zero_point, [], low, high, kind)
        self.register_buffer("entries", entries)

    def forward(self, input: Tensor) -> Tensor:
        x = input.float() if input.is_floating_point() else input
        y = torch.ops.torchqat.lookup_int8(
            x, self.input_scale_0, self.input_zero_point_0, self.quant_min, self.quant_max, self.entries
        )
        return y.to(input.dtype) if input.is_floating_point() and y.is_floating_point() else y
