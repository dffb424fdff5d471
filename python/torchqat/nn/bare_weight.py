"""Weights that a module keeps as bare 3-D parameters and multiplies itself, as mixtures of experts do: [experts, out, in] or
[experts, in, out].

Such a parameter `w` moves, the same object, into a child module `w_quant`; the attribute `w` then gives what the child computes. So the
module's forward stays its author's, and the child can be any other layer: one that rounds the weight, or one that holds codes.
"""

import copy
import functools
import linecache

import torch
from torch import Tensor, nn


_CHILD = "_quant"


class FloatWeight(nn.Module):
    """A bare parameter that could be quantised. summed_axis: the axis (1 or 2) that products sum over."""

    def __init__(self, weight: nn.Parameter, summed_axis: int):
        super().__init__()
        self.weight = weight
        self.summed_axis = summed_axis

    def forward(self) -> Tensor:
        return self.weight


class Holder:
    """Mixed into the class of a module whose weights were moved."""

    def __call__(self, *args, **kwargs):
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().__call__(*args, **kwargs)
        # A weight is computed once for a forward, however often it is read.
        before = self.__dict__.get("_computed")
        self.__dict__["_computed"] = {}
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self.__dict__["_computed"] = before

    def __reduce_ex__(self, protocol):
        # The class is made here, so it cannot be found by its name.
        return _remake, (type(self).held_base, type(self).held_names), self.__dict__

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # The float module's names, of a checkpoint made before the weights were moved.
        for name in type(self).held_names:
            if prefix + name in state_dict:
                state_dict[f"{prefix}{child_of(name)}.weight"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *args)


def child_of(name: str) -> str:
    """Of a parameter's name, that of the child it moves into."""
    return name + _CHILD


def parameter_of(name: str) -> str:
    """The inverse of child_of."""
    return name.removesuffix(_CHILD)


def held_names(module: nn.Module) -> tuple[str, ...]:
    """The names of the weights that were moved into children."""
    return type(module).held_names if isinstance(module, Holder) else ()


@functools.lru_cache(maxsize=None)
def _holder_class(base: type, names: tuple[str, ...]) -> type:
    attributes = {name: _attribute(name) for name in names}
    return type(base.__name__, (Holder, base), {**attributes, "held_base": base, "held_names": names})


# Source, because torch.jit.script compiles properties from theirs, and cannot look a child up by a name in a variable.
_PROPERTY = """
def computed(self) -> Tensor:
    if torch.jit.is_scripting():
        return self.{child}()
    else:
        return read(self, "{child}")
"""


def _attribute(name: str) -> property:
    source, file = _PROPERTY.format(child=child_of(name)), f"<torchqat bare weight {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    scope = {"torch": torch, "Tensor": Tensor, "read": _read}
    exec(compile(source, file, "exec"), scope)
    return property(scope["computed"])


def _read(module: nn.Module, child: str) -> Tensor:
    if torch.compiler.is_compiling():
        return module._modules[child]()
    known = module.__dict__.get("_computed")
    if known is None:
        return module._modules[child]()
    key = child, torch.is_grad_enabled()
    if key not in known:
        known[key] = module._modules[child]()
    return known[key]


def _remake(base: type, names: tuple[str, ...]) -> nn.Module:
    cls = _holder_class(base, names)
    return cls.__new__(cls)


def hold(model: nn.Module, axes: dict[str, int]) -> dict[str, FloatWeight]:
    """Move the named parameters of a model, in place, into children; by name, what now holds each. axes: the input axis of each."""
    held = {}
    for name, axis in axes.items():
        parent, _, key = name.rpartition(".")
        module = model.get_submodule(parent)
        weight = module._parameters.pop(key)
        names = held_names(module)
        module.__class__ = _holder_class(type(module).held_base if names else type(module), tuple(sorted({*names, key})))
        held[name] = module._modules[child_of(key)] = FloatWeight(weight, axis)
    return held


def let_go(model: nn.Module, names) -> None:
    """Undo hold for some of its names."""
    for name in names:
        parent, _, key = name.rpartition(".")
        module = model.get_submodule(parent)
        module._parameters[key] = module._modules.pop(child_of(key)).weight
        base, left = type(module).held_base, tuple(n for n in type(module).held_names if n != key)
        module.__class__ = _holder_class(base, left) if left else base


def with_held(model: nn.Module, axes: dict[str, int]) -> nn.Module:
    """A model with the same tensors in which the named parameters are held by children; those it does not have are passed over."""
    own = dict(model.named_parameters(remove_duplicate=False))
    axes = {name: axis for name, axis in axes.items() if name in own}
    if not axes:
        return model
    # A copy of the structure alone.
    model = copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})
    hold(model, axes)
    return model


class BareForm:
    """What the layers in place of a FloatWeight share: a weight [experts, rows, columns] as the matrix [experts * out, in]."""

    def as_matrix(self, weight: Tensor) -> Tensor:
        weight = weight if self.summed_axis == 2 else weight.transpose(1, 2)
        return weight.reshape(-1, weight.size(2))

    def as_weight(self, matrix: Tensor, experts: int) -> Tensor:
        """The inverse of as_matrix; of scales too, which have fewer columns."""
        weight = matrix.reshape(experts, -1, matrix.size(1))
        return weight if self.summed_axis == 2 else weight.transpose(1, 2)
