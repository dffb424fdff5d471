"""What `layer.weight` is on a deployed layer: models read a weight's dtype, device or shape to cast their inputs (ViT, T5).

Those cost nothing. The values are dequantised only where an operation asks for them, and anew each time: no float copy is kept.
"""

import warnings
import weakref

import torch
from torch import Tensor, nn

_warned: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_ATEN = torch.ops.aten


class WeightView(Tensor):
    """A read-only tensor with the dtype, device and shape of a deployed layer's float weight; an operation on it sees the dequantised
    values. `clone()` gives them as a plain tensor.

    Args:
        layer: the deployed layer; its `weight_values()` gives the values.
        shape, dtype, device: of the float weight.
    """

    @staticmethod
    def __new__(cls, layer: nn.Module, shape, dtype: torch.dtype, device: torch.device):
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)

    def __init__(self, layer: nn.Module, shape, dtype: torch.dtype, device: torch.device):
        self.layer = layer

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is _ATEN.detach.default:
            return args[0].layer.weight
        views = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, WeightView)]
        if function._schema.is_mutable:
            views[0].refuse(function)
        if function is not _ATEN.clone.default:
            for view in views:
                view.warn(function)
        args, kwargs = torch.utils._pytree.tree_map(
            lambda x: x.layer.weight_values() if isinstance(x, WeightView) else x, (args, kwargs or {})
        )
        return function(*args, **kwargs)

    def refuse(self, change) -> None:
        raise RuntimeError(
            f"{self} cannot be changed ({change}): its integers are fixed; change the float or prepared model and convert it again"
        )

    def __setitem__(self, index, value):
        self.refuse("assignment")

    def warn(self, function) -> None:
        """Once a layer: a forward that computes with the weight computes what was never trained."""
        if self.layer in _warned:
            return
        _warned.add(self.layer)
        warnings.warn(
            f"torchqat: {function} reads the {self} as a float tensor. It is dequantised at each use, and training did not round it "
            "there: leave such a layer in float with prepare_qat's overrides={name: None}. To look at a weight, use weight.clone(), "
            "or torchqat.integer_weights for its codes and scales.",
            stacklevel=4,
        )

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"weight of a converted {type(self.layer).__name__} {list(self.shape)}, {self.dtype}"

    # These would look for memory of the view's own.
    def numpy(self, *, force: bool = False):
        return self.clone().numpy(force=force)

    def tolist(self) -> list:
        return self.clone().tolist()
