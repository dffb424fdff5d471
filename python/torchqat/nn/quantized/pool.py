"""Deployed pooling: averages of codes, and the largest of codes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchqat.nn.quantized._form import QuantizedForm
from torchqat.nn.quantized._layer import Description


class AvgPool(QuantizedForm):
    """`y = sum(q - z) * (s / count)`, as float32 or as the next layer's codes. Made by torchqat.convert.

    Shape: input [N, C, *spatial], floats or codes of the grid; output [N, C, *spatial'].
    """

    kernel_size: list[int]
    stride: list[int]
    padding: list[int]

    def __init__(self, description: Description):
        super().__init__(description)
        config = description.config
        grid = config["inputs"][0]
        self.quant_min, self.quant_max = grid["quant_min"], grid["quant_max"]
        self.kernel_size, self.stride, self.padding = config["kernel_size"], config["stride"], config["padding"]

    def forward(self, input: Tensor) -> Tensor:
        y = torch.ops.torchqat.avg_pool_int8(
            input.float() if input.is_floating_point() else input,
            self.input_scale_0,
            self.input_zero_point_0,
            self.quant_min,
            self.quant_max,
            self.kernel_size,
            self.stride,
            self.padding,
            self.output_scale,
            self.output_zero_point,
            self.output_quant_min,
            self.output_quant_max,
        )
        return y.to(input.dtype) if input.is_floating_point() and y.is_floating_point() else y


class MaxPool(QuantizedForm):
    """Max-pooling that also takes codes, whose order is that of the values. Put by torchqat.convert where codes pass.

    Shape: input [N, C, *spatial] or [C, *spatial].
    """

    kernel_size: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]

    def __init__(self, description: Description):
        super().__init__(description)
        config = description.config
        self.kernel_size, self.stride = config["kernel_size"], config["stride"]
        self.padding, self.dilation, self.ceil_mode = config["padding"], config["dilation"], config["ceil_mode"]

    @classmethod
    def from_float(cls, pool) -> "MaxPool":
        """Of nn.MaxPool1d, 2d or 3d without return_indices."""
        dims = {"1": 1, "2": 2, "3": 3}[type(pool).__name__[-2]]

        def per_dimension(value) -> list[int]:
            return list(value) if isinstance(value, (tuple, list)) else [value] * dims

        config = {name: per_dimension(getattr(pool, name)) for name in ("kernel_size", "stride", "padding", "dilation")}
        config.update({"layer": "MaxPool", "place": ["module", 0], "inputs": [], "ceil_mode": pool.ceil_mode})
        return cls(Description(config, {})).eval()

    def forward(self, input: Tensor) -> Tensor:
        dims = len(self.kernel_size)
        if not input.is_floating_point():
            batched = input.dim() == dims + 2
            x = input if batched else input.unsqueeze(0)
            y = torch.ops.torchqat.max_pool_codes(
                x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
            )
            return y if batched else y.squeeze(0)
        if dims == 1:
            return F.max_pool1d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        if dims == 2:
            return F.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        return F.max_pool3d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
