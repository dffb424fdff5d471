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


class AbsorbedReLU6(nn.ReLU6):
    """The same of nn.ReLU6."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return input
        return F.relu6(input, inplace=self.inplace)


# What can be absorbed, its stand-in, and the largest value that it lets through.
_ABSORBED = {nn.ReLU: (AbsorbedReLU, None), nn.ReLU6: (AbsorbedReLU6, 6.0)}
_RELEASED = {stand_in: relu for relu, (stand_in, _) in _ABSORBED.items()}


def absorbable(module: nn.Module) -> bool:
    return type(module) in _ABSORBED


def stand_in_for(relu: nn.Module) -> nn.Module:
    """What takes the module's place in the model."""
    cls = _ABSORBED[type(relu)][0]
    new = cls.__new__(cls)
    new.__dict__ = dict(relu.__dict__)
    return new


def ceiling_of(stand_in: nn.Module) -> float | None:
    return _ABSORBED[_RELEASED[type(stand_in)]][1]


def release(model: nn.Module) -> list[nn.Module]:
    """Every stand-in of the model becomes what it was (clipping twice changes nothing); returns them."""
    found = [m for m in model.modules() if type(m) in _RELEASED]
    for module in found:
        module.__class__ = _RELEASED[type(module)]
    return found


@contextlib.contextmanager
def released(model: nn.Module):
    """Within this scope the model, and every copy made of it, has its ReLUs back."""
    found = release(model)
    try:
        yield
    finally:
        for module in found:
            module.__class__ = _ABSORBED[type(module)][0]
