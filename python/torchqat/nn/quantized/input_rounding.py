"""The input's grid where a scheme has no integer kernel: the input is rounded to it and the layer computes in float."""

import torch
from torch import Tensor, nn

from torchqat.config import BLOCK_FORMATS
from torchqat.observers import apply_keeping_dtype


class InputRounding(nn.Module):
    """Rounds an input onto the grid that its layer was trained with.

    Args:
        activation: the "activation" entry of a layer's config.
        scale, zero_point: of a static grid; None takes them from each input.

    Shape: any; the output has the input's.
    """

    def __init__(self, activation: dict, scale: Tensor | None, zero_point: Tensor | None):
        super().__init__()
        self.granularity = activation["granularity"]
        self.quant_min, self.quant_max = activation["quant_min"], activation["quant_max"]
        self.symmetric, self.group = activation["symmetric"], activation["group"]
        self.format, self.along = activation["format"], activation["along"]
        self.is_block_format = self.format in BLOCK_FORMATS
        self.scale_rounding, self.range_factor = activation["scale_rounding"], activation["range_factor"]
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def blocks(self, dim: int) -> list[int]:
        if self.granularity == "last":
            return [1] * (dim - 1) + [-1]
        if self.granularity == "sample":
            return [1] + [-1] * (dim - 1)
        if self.granularity == "group":
            return [1] * (dim - 1) + [self.group]
        tensor: list[int] = []
        return tensor

    def row_scale(self, x: Tensor) -> Tensor | None:
        """The scale of a kernel that takes one for the whole input, or finds each row's itself (None)."""
        if self.scale is not None:
            return self.scale
        if self.granularity == "last":
            return None
        scale, _ = torch.ops.torchqat.choose_qparams(x, self.blocks(x.dim()), self.quant_min, self.quant_max, self.symmetric)
        return scale

    def forward(self, x: Tensor) -> Tensor:
        if self.is_block_format:
            moved = x.movedim(self.along, -1)
            blocks = [1] * (x.dim() - 1) + [self.group]
            y = torch.ops.torchqat.fake_quantize_float(moved, None, blocks, self.format, self.scale_rounding)
            return y.movedim(-1, self.along)
        scale, zero_point = self.scale, self.zero_point
        if scale is None:
            scale, zero_point = torch.ops.torchqat.choose_qparams(
                x, self.blocks(x.dim()), self.quant_min, self.quant_max, self.symmetric
            )
            if self.range_factor != 1.0:
                scale = scale * self.range_factor
        if self.format != "":
            return torch.ops.torchqat.fake_quantize_float(x, scale, self.blocks(x.dim()), self.format)
        return torch.ops.torchqat.fake_quantize(
            x, scale, zero_point, self.blocks(x.dim()), self.quant_min, self.quant_max
        )

    @torch.jit.ignore
    def _apply(self, fn, recurse=True):
        return apply_keeping_dtype(self, super()._apply, fn, ("scale",), recurse)


def input_rounding(config: dict, tensors: dict) -> InputRounding | None:
    activation = config.get("activation")
    if activation is None:
        return None
    return InputRounding(activation, tensors.get("input_scale"), tensors.get("input_zero_point"))
