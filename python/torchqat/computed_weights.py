"""Weights that are computed from other parameters before they are used, in training as in the float model: by a parametrization
(torch.nn.utils.parametrizations.weight_norm, spectral_norm, orthogonal, ...), or by a hook of torch.nn.utils (weight_norm,
spectral_norm, prune). Conversion keeps what was computed last and leaves its source behind.
"""

import contextlib

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)


def float_type(module: nn.Module) -> type:
    """The class that a module had before it was parametrized; otherwise its own."""
    kind = type(module)
    if parametrize.is_parametrized(module) and kind.__name__.startswith("Parametrized"):
        return kind.__bases__[0]
    return kind


def parametrize_as(new: nn.Module, module: nn.Module) -> None:
    """Give a layer that took over the contents of a parametrized module the same computed tensors."""
    if not parametrize.is_parametrized(module):
        return
    parametrize._inject_new_class(new)
    for name in new.parametrizations:
        parametrize._inject_property(new, name)
    inner = new.__class__.__bases__[0].forward

    def forward(self, *args, **kwargs):
        # Computed once for a forward: some parametrizations take a step each time.
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return inner(self, *args, **kwargs)
        with parametrize.cached():
            return inner(self, *args, **kwargs)

    new.__class__.forward = forward


def computes_weight(hook) -> bool:
    """Whether a forward pre-hook computes the module's weight."""
    return isinstance(hook, _HOOKS)


@torch.no_grad()
def settle(module: nn.Module) -> None:
    """Let the hooks compute a module's tensors now, from what their sources are now."""
    hooks = [hook for hook in module._forward_pre_hooks.values() if computes_weight(hook)]
    if hooks:
        with _in_eval([module]):
            for hook in hooks:
                hook(module, ())


@contextlib.contextmanager
def settled(module: nn.Module):
    """Within this scope a module's computed tensors can be read: they are up to date, and reading them changes nothing."""
    settle(module)
    with _in_eval(list(module.parametrizations.modules()) if parametrize.is_parametrized(module) else []):
        yield


@contextlib.contextmanager
def _in_eval(modules: list[nn.Module]):
    # Spectral norm takes a step of its power iteration whenever it computes in training mode.
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, training in zip(modules, modes):
            module.training = training
