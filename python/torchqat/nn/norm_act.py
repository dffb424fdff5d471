"""BatchNorm and activation in one module, as timm's networks have them (BatchNormAct2d): the norm can be folded, the activation stays."""

from collections import OrderedDict

from torch import nn

from torchqat.nn.split import structure_with

# By name, so that timm is not needed: a BatchNorm of torch, then `drop`, then `act`.
_NAMES = {"BatchNormAct2d": nn.BatchNorm2d, "SyncBatchNormAct": nn.SyncBatchNorm}


def is_norm_act(module: nn.Module) -> bool:
    """Whether a module is one of timm's norms with an activation."""
    base = _NAMES.get(type(module).__name__)
    return base is not None and isinstance(module, base) and list(module._modules) == ["drop", "act"]


def norm_of(module: nn.Module) -> nn.Module:
    """The BatchNorm alone: the module itself, or torch's of the same parameters and buffers."""
    if not is_norm_act(module):
        return module
    base = _NAMES[type(module).__name__]
    norm = base.__new__(base)
    norm.__dict__ = {**module.__dict__, "_modules": {}, "_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
    return norm


class NormActivation(nn.Sequential):
    """What is left of such a module where its norm was folded: `drop` and `act`, under their names."""

    def __init__(self, drop: nn.Module, act: nn.Module):
        super().__init__(OrderedDict(drop=drop, act=act))


def without_norm(module: nn.Module, act: nn.Module | None = None) -> nn.Module:
    """What takes the place of a norm that was folded; act: in place of its activation.

    Shape: the output has the input's.
    """
    if not is_norm_act(module):
        return nn.Identity().train(module.training)
    return NormActivation(module.drop, module.act if act is None else act).train(module.training)


def without_norms(model: nn.Module, names: list[str]) -> nn.Module:
    """A model with the same parameters in which the named modules have lost their norms.

    Raises:
        AttributeError: there is no such module; ValueError: it is no norm with an activation.
    """
    found = {}
    for name in names:
        module = model.get_submodule(name)
        if not is_norm_act(module):
            raise ValueError(f"{name!r} is a {type(module).__name__}, not a BatchNorm with an activation")
        found[id(module)] = without_norm(module)
    return structure_with(model, found)
