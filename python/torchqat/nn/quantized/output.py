"""The model's output on its trained grid, or as the integer codes themselves."""

import torch
from torch import Tensor

from torchqat.nn.quantized._form import QuantizedForm
from torchqat.nn.quantized._layer import Description

_TYPES = ((0, 255, torch.uint8), (-128, 127, torch.int8), (-(1 << 15), (1 << 15) - 1, torch.int16))


class Output(QuantizedForm):
    """`(q - z) * s` with `q` the code of the input, or, with `as_codes`, q itself. Made by torchqat.convert.

    Attributes:
        as_codes: False. Set to True, the model returns integers: uint8, int8, int16 or int32, as the grid needs.

    Shape: any floating tensor, or codes of this grid from the layer before; the output has its shape.
    """

    def __init__(self, description: Description):
        super().__init__(description)
        grid = description.config["inputs"][0]
        self.quant_min, self.quant_max = grid["quant_min"], grid["quant_max"]
        self.codes_dtype = next((t for low, high, t in _TYPES if low <= self.quant_min and self.quant_max <= high), torch.int32)
        self.as_codes = False

    def codes(self, input: Tensor) -> Tensor:
        """The integer codes of a tensor; of the model's float output, the very codes it stands for."""
        return torch.ops.torchqat.quantize(
            input, self.input_scale_0, self.input_zero_point_0, [], self.quant_min, self.quant_max, self.codes_dtype
        )

    def forward(self, input: Tensor) -> Tensor:
        if not input.is_floating_point():
            if self.as_codes:
                return input
            return torch.ops.torchqat.dequantize(input, self.input_scale_0, self.input_zero_point_0, [], torch.float32)
        if self.as_codes:
            return self.codes(input)
        return torch.ops.torchqat.fake_quantize(
            input, self.input_scale_0, self.input_zero_point_0, [], self.quant_min, self.quant_max
        )
