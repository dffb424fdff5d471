"""The input's grid where a scheme has no integer kernel: the input is rounded to it and the layer computes in float."""

import torch
from torch import Tensor, nn

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

    def forward(self, x: Tensor) -> Tensor:
        scale, zero_point = self.scale, self.zero_point
        if scale is None:
            scale, zero_point = torch.ops.torchqat.choose_qparams(
                x, self.blocks(x.dim()), self.quant_min, self.quant_max, self.symmetric
            )
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
