"""What `layer.weight` is on a deployed layer: models read a weight's dtype, device or shape to cast their inputs (ViT, T5).

Those cost nothing. The values are dequantised only where an operation asks for them, and anew each time: no float copy is kept.
"""

import warnings
import weakref

import torch
from torch import Tensor

_warned: "weakref.WeakSet[torch.nn.Module]" = weakref.WeakSet()


class WeightView(Tensor):
    """A tensor with the dtype, device and shape of a deployed layer's float weight; an operation on it sees the dequantised values.

    Args:
        layer: the deployed layer; its `weight_values()` gives the values.
        shape, dtype, device: of the float weight.
    """

    @staticmethod
    def __new__(cls, layer, shape, dtype, device):
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)

    def __init__(self, layer, shape, dtype, device):
        self.layer = layer

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        def values(x):
            return x.values_for(function) if isinstance(x, WeightView) else x

        args, kwargs = torch.utils._pytree.tree_map(values, (args, kwargs or {}))
        return function(*args, **kwargs)

    def values_for(self, function) -> Tensor:
        """The dequantised weight. A forward that computes with it computes what was never trained, so it is told once a layer."""
        if self.layer not in _warned and function is not torch.ops.aten.detach.default:
            _warned.add(self.layer)
            warnings.warn(
                f"torchqat: {function} reads the weight of a converted {type(self.layer).__name__} {list(self.shape)} as a float tensor. "
                "It is dequantised at each use, and training did not round it there: leave such a layer in float with prepare_qat's "
                "overrides={name: None}. To look at a weight, torchqat.integer_weights gives its codes and scales.",
                stacklevel=4,
            )
        return self.layer.weight_values()
