"""Which bare 3-D parameters a model multiplies in its own forward, and along which axis: seen while it runs."""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from torchqat.mapping import qat_class
from torchqat.nn.bare_weight import child_of

_aten = torch.ops.aten
# Operation -> (argument, the dimension of it that is summed over) of its two factors.
_FACTORS = {
    _aten.mv.default: ((0, 1), (1, 0)),
    _aten.mm.default: ((0, 1), (1, 0)),
    _aten.bmm.default: ((0, 2), (1, 1)),
    _aten.addmm.default: ((1, 1), (2, 0)),
    _aten.baddbmm.default: ((1, 2), (2, 1)),
    _aten._grouped_mm.default: ((0, -1), (1, -2)),
    _aten.linear.default: ((0, -1), (1, -1)),
}


def bare_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By name, the 3-D floating parameters that modules of the user's own keep, each in one place."""
    times = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    found = {}
    for name, module in model.named_modules():
        if type(module).__module__.startswith(("torch.nn.", "torchqat.")) or qat_class(module) is not None:
            continue
        for key, p in module._parameters.items():
            if hasattr(module, child_of(key)):
                continue
            if p is not None and p.dim() == 3 and p.is_floating_point() and min(p.shape[1:]) > 1 and times[id(p)] == 1:
                found[f"{name}.{key}" if name else key] = p
    return found


class Products:
    """Within this scope, which of the given parameters are factors of products: themselves, or parts and views of them."""

    def __init__(self, parameters: dict[str, nn.Parameter]):
        self._by_storage = {p.untyped_storage().data_ptr(): (name, p) for name, p in parameters.items()}
        self._axes = {}
        self._modes = (_Functions(self), _Operations(self)) if parameters else ()

    def __enter__(self):
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def summed_axes(self) -> dict[str, int]:
        """Of each parameter that was a factor along one axis, 1 or 2, that axis."""
        return {name: next(iter(axes)) for name, axes in self._axes.items() if len(axes) == 1}

    def note(self, factor: Tensor, summed: list[int]) -> None:
        known = self._by_storage.get(factor.untyped_storage().data_ptr()) if type(factor) in (Tensor, nn.Parameter) else None
        if known is None:
            return
        name, whole = known
        strides = {factor.stride(dim) for dim in summed}
        self._axes.setdefault(name, set()).update(axis for axis in (1, 2) if whole.stride(axis) in strides)


class _Operations(TorchDispatchMode):
    def __init__(self, products: Products):
        super().__init__()
        self.products = products

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        for argument, dim in _FACTORS.get(operation, ()):
            if argument < len(args):
                self.products.note(args[argument], [dim])
        return operation(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """einsum, whose operations see copies."""

    def __init__(self, products: Products):
        super().__init__()
        self.products = products

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.einsum and len(args) > 2 and isinstance(args[0], str) and "->" in args[0] and "." not in args[0]:
            inputs, result = args[0].replace(" ", "").split("->")
            for letters, factor in zip(inputs.split(","), args[1:]):
                self.products.note(factor, [i for i, letter in enumerate(letters) if letter not in result])
        return function(*args, **(kwargs or {}))
