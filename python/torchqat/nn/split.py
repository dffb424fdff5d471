"""Modules of torch that keep the weights of several projections themselves, and forms of them in which each is a Linear."""

import copy

from torch import nn


def linear_of(weight: nn.Parameter, bias: nn.Parameter | None, training: bool) -> nn.Linear:
    """A Linear of these very parameters."""
    linear = nn.Linear(weight.size(1), weight.size(0), bias is not None, device="meta")
    linear.weight, linear.bias = weight, bias
    return linear.train(training)


def split_modules(model: nn.Module, names: list[str], forms: dict[type, type]) -> nn.Module:
    """A model with the same parameters in which every module of a type in forms that holds one of the named layers is split."""
    found = {id(m): forms[type(m)].split(m) for n, m in model.named_modules() if type(m) in forms and _holds(n, names)}
    return structure_with(model, found)


def structure_with(model: nn.Module, found: dict[int, nn.Module]) -> nn.Module:
    """A copy of the structure alone, with modules replaced, by id of the old one; the model itself where there are none."""
    if not found:
        return model
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, {**tensors, **found})


def _holds(name: str, layers: list[str]) -> bool:
    return any(layer.startswith(f"{name}." if name else "") for layer in layers)
