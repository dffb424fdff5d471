"""The model's own output on a trained grid, so that a deployed graph ends in integers."""

import torch
from torch import Tensor

from torchqat.config import QuantSpec
from torchqat.fake_quantize import FakeQuantize
from torchqat.nn.qat._form import QatForm, activation_quantizer


class Output(QatForm):
    """Rounds its input onto the grid of `spec`. Put in by `prepare_qat(model, output=spec)`.

    Shape: any floating tensor; the output has its shape and dtype.

    Example:
        >>> import torch, torchqat
        >>> spec = torchqat.QuantSpec("uint8", symmetric=False)
        >>> model = torchqat.prepare_qat(torch.nn.Sequential(torch.nn.Linear(4, 2)), output=spec)
        >>> type(model[-1]).__name__
        'Output'
    """

    def __init__(self, spec: QuantSpec, device: torch.device | None = None, training: bool = True):
        super().__init__()
        self.activation_fake_quant = activation_quantizer(spec, device, training)
        self.train(training)

    @torch.jit.unused
    def quantizers(self) -> list[FakeQuantize]:
        return [self.activation_fake_quant]

    def forward(self, input: Tensor) -> Tensor:
        return self.activation_fake_quant(input)


def check_output_spec(spec: QuantSpec) -> None:
    """Raises unless spec can be the grid of a model's output: one known before the output is."""
    if not isinstance(spec, QuantSpec):
        raise TypeError(f"prepare_qat: output must be a QuantSpec or None, got {type(spec).__name__}")
    if not spec.is_integer:
        raise ValueError(f"prepare_qat: output must have an integer dtype, got {spec.dtype!r}")
    if spec.granularity != "tensor":
        raise ValueError(f"prepare_qat: output must have granularity 'tensor', got {spec.granularity!r}")
    if spec.observer == "dynamic":
        raise ValueError("prepare_qat: output must have a static observer such as 'minmax' or 'ema', got 'dynamic'")
