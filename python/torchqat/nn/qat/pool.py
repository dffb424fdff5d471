"""Average pooling of quantised values, summed in integers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchqat.config import QuantSpec
from torchqat.fake_quantize import FakeQuantize
from torchqat.nn.qat._form import QatForm, activation_quantizer


class AvgPool(QatForm):
    """`y = sum(q - z) * (s / count)` over windows; the sum is exact.

    Args:
        kernel_size: one entry per spatial dimension; [] takes all of it.
        stride, padding: alike; what lies in the padding counts as 0.

    Shape: input [N, C, *spatial]; output [N, C, *spatial'].
    """

    kernel_size: list[int]
    stride: list[int]
    padding: list[int]

    def __init__(
        self, spec: QuantSpec, kernel_size: list[int], stride: list[int], padding: list[int],
        device: torch.device | None = None, training: bool = True,
    ):  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.activation_fake_quant = activation_quantizer(spec, device, training)
        self.train(training)

    @torch.jit.unused
    def quantizers(self) -> list[FakeQuantize]:
        return [self.activation_fake_quant]

    @torch.jit.unused
    def arguments(self) -> dict:
        return {"kernel_size": self.kernel_size, "stride": self.stride, "padding": self.padding}

    def forward(self, input: Tensor) -> Tensor:
        quantizer = self.activation_fake_quant
        x = input.float()
        if quantizer.enabled:
            x, scale, zero_point = quantizer.on_grid(x)
            # x / s on the grid of scale 1 is q - z itself; float32 adds up to 65536 of those exactly, in any order.
            x = torch.ops.torchqat.fake_quantize(
                x / scale, torch.ones_like(scale), zero_point, [], quantizer.quant_min, quantizer.quant_max
            )
        else:
            x = quantizer(x)
            scale = torch.ones([], device=x.device)
        if len(self.kernel_size) == 0:
            count = x[0, 0].numel() if x.numel() > 0 else 1
            y = x.sum(list(range(2, x.dim())), keepdim=True)
        else:
            count = 1
            for size in self.kernel_size:
                count *= size
            y = self.window_sum(x, count)
        # By a tensor: on CUDA, division by a number multiplies by its reciprocal.
        return (y * (scale / torch.full_like(scale, float(count)))).to(input.dtype)

    def window_sum(self, x: Tensor, count: int) -> Tensor:
        if len(self.kernel_size) == 1:
            return F.avg_pool2d(
                x.unsqueeze(2), [1, self.kernel_size[0]], [1, self.stride[0]], [0, self.padding[0]], divisor_override=1
            ).squeeze(2)
        if len(self.kernel_size) == 2:
            return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, divisor_override=1)
        return F.avg_pool3d(x, self.kernel_size, self.stride, self.padding, divisor_override=1)
