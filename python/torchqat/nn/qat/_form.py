"""What every integer form of an operation without weights shares: it trains as the arithmetic that is deployed."""

import torch
from torch import Tensor, nn

from torchqat.config import QuantSpec
from torchqat.fake_quantize import FakeQuantize


class QatForm(nn.Module):
    """Base of the forms that prepare_qat puts in for operations (never for layers with weights).

    Attributes:
        integer: True; verify expects bits to be equal.
        place: where a form that stands for a function, and not for a module, lies in its owner's traced forward: ("function", i)
            or ("output", i); ("module", 0) for one that took a module's place.
        input_count: how many tensors it takes.
    """

    def __init__(self):
        super().__init__()
        self.integer = True
        self.place = ("module", 0)
        self.input_count = 1

    @torch.jit.unused
    def quantizers(self) -> list[FakeQuantize]:
        """One for each quantised input, in order."""
        raise NotImplementedError

    @torch.jit.unused
    def arguments(self) -> dict:
        """What the deployed form needs beside grids, as JSON can hold it."""
        return {}

    @torch.jit.unused
    def tensors(self) -> dict[str, Tensor]:
        """What the deployed form needs beside the grids' tensors."""
        return {}

    @torch.jit.unused
    def grids(self) -> list[tuple[Tensor, Tensor, int, int]]:
        """Scale, integer zero point, quant_min and quant_max of each quantised input, as eval mode uses them."""
        return [(*q.eval_qparams(), q.quant_min, q.quant_max) for q in self.quantizers()]


def activation_quantizer(spec: QuantSpec, device: torch.device | None, training: bool) -> FakeQuantize:
    return FakeQuantize.from_spec(spec, device=device).train(training)
