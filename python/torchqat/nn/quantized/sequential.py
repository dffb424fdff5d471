"""nn.Sequential of deployed layers: in eager mode, rows of them in one call."""

import torch
from torch import Tensor, nn

from torchqat.nn.quantized._form import QuantizedForm
from torchqat.nn.quantized._layer import QuantizedLayer
from torchqat.nn.quantized._program import _IN_ORDER, GLOBAL_HOOKS, Plan


class Sequential(nn.Sequential):
    """nn.Sequential whose deployed layers run without Python between them. Made by torchqat.convert and torchqat.load.

    The same ops in the same order as nn.Sequential calls them, bit for bit: children stay modules of their own, their buffers are read
    at every call, and a child with a hook, a replaced forward or of another kind is called as ever. Compiled, exported, scripted and
    traced it is nn.Sequential.
    """

    _plan = None

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            for module in self:
                input = module(input)
            return input
        else:
            # Subclasses of Tensor and proxies of tracers have ways of their own; float64 layers compute in float32, each by itself.
            if (
                torch.compiler.is_compiling()
                or type(input) is not Tensor
                or input.dtype is torch.float64
                or torch._C._get_tracing_state() is not None
                or any(GLOBAL_HOOKS)
            ):
                for module in self:
                    input = module(input)
                return input
            plan = self._plan
            if plan is None or not plan.holds():
                plan = self._plan = Plan(self)
            for part in plan.parts:
                input = part(input)
            return input


_IN_ORDER.add(Sequential.forward)


def run_in_rows(model: nn.Module) -> nn.Module:
    """Every plain nn.Sequential in a deployed model that holds deployed layers as Sequential; the same objects."""
    for module in model.modules():
        if type(module) is nn.Sequential and any(isinstance(m, (QuantizedLayer, QuantizedForm)) for m in module.modules()):
            module.__class__ = Sequential
    return model
