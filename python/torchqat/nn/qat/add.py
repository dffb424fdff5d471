"""A sum of two quantised values, as residual connections need it."""

import torch
from torch import Tensor

from torchqat.config import QuantSpec
from torchqat.fake_quantize import FakeQuantize
from torchqat.nn.qat._form import QatForm, activation_quantizer


class Add(QatForm):
    """`y = (q_a - z_a) * s_a + (q_b - z_b) * s_b`: each side has a grid of its own, the sum is float32.

    Shape: two floating tensors of one shape; the output has that shape and the first one's dtype.
    """

    def __init__(self, spec: QuantSpec, device: torch.device | None = None, training: bool = True):
        super().__init__()
        self.input_count = 2
        self.first_fake_quant = activation_quantizer(spec, device, training)
        self.second_fake_quant = activation_quantizer(spec, device, training)
        self.train(training)

    @torch.jit.unused
    def quantizers(self) -> list[FakeQuantize]:
        return [self.first_fake_quant, self.second_fake_quant]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        y = self.first_fake_quant(first.float()) + self.second_fake_quant(second.float())
        return y.to(first.dtype)
