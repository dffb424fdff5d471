"""A ReLU whose work the layer before it does while training, in the passes that BatchNorm makes anyway."""

import contextlib

import torch.nn.functional as F
from torch import Tensor, nn


class AbsorbedReLU(nn.ReLU):
    """Passes its input on in training mode, where the convolution with BatchNorm before it has clipped it; in eval mode it
    is nn.ReLU. prepare_qat puts it where a traced graph shows convolution, BatchNorm and ReLU with no other use between."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return input
        return F.relu(input, inplace=self.inplace)

    @classmethod
    def from_float(cls, relu: nn.ReLU) -> "AbsorbedReLU":
        new = cls.__new__(cls)
        new.__dict__ = dict(relu.__dict__)
        return new


def release(model: nn.Module) -> list[nn.Module]:
    """Every AbsorbedReLU of the model becomes an nn.ReLU again (clipping twice changes nothing); returns them."""
    found = [m for m in model.modules() if type(m) is AbsorbedReLU]
    for module in found:
        module.__class__ = nn.ReLU
    return found


@contextlib.contextmanager
def released(model: nn.Module):
    """Within this scope the model, and every copy made of it, has its ReLUs back."""
    found = release(model)
    try:
        yield
    finally:
        for module in found:
            module.__class__ = AbsorbedReLU
