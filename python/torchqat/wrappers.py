"""Modules of torch that wrap a whole model to train it: DataParallel, DistributedDataParallel, torch.compile's."""

from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside any number of wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            return model
