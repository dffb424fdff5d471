"""Programs for torch.ops.torchqat._run_layers: what a row of deployed layers computes, as words that C++ reads.

A program holds the settings; the tensors are looked up in the layers at every call, so that moved, loaded or replaced buffers are
seen. What else could change is watched: hooks, replaced forwards and children, buffers that come or go.
"""

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as torch_module

from torchqat.nn.quantized._plain_forward import plain_forward
from torchqat.nn.quantized.activation import Activation
from torchqat.nn.quantized.add import Add
from torchqat.nn.quantized.conv import Conv
from torchqat.nn.quantized.linear import Linear
from torchqat.nn.quantized.linear_grouped import LinearGrouped
from torchqat.nn.quantized.linear_weight_only import LinearWeightOnly
from torchqat.nn.quantized.pool import AvgPool, MaxPool

_RUN = torch.ops.torchqat._run_layers.default
# Hooks of every module of the process.
GLOBAL_HOOKS = tuple(
    getattr(torch_module, f"_global_{name}hooks") for name in ("forward_", "forward_pre_", "backward_", "backward_pre_")
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
# In the order of the op's Kind.
_KINDS = (
    "conv", "linear", "linear_dynamic", "linear_grouped", "linear_grouped_dynamic", "linear_weight_only",
    "add", "avg_pool", "max_pool", "lookup", "flatten", "relu", "gelu",
)  # fmt: skip


class Refused(Exception):
    """This module is called from Python; if only for its hooks or another forward, `watched` is it."""

    def __init__(self, watched: nn.Module | None = None):
        super().__init__()
        self.watched = watched


class Segment:
    """Modules that one call runs, and whether they still are what its program says."""

    def __init__(self, builder: "_Builder"):
        words: list[int] = [builder.values]
        left = {value: i for i, (_, _, read, _) in enumerate(builder.steps) for value in read}
        for i, (kind, made, read, arguments) in enumerate(builder.steps):
            first, *others = ((value, int(left[value] == i and read.count(value) == 1)) for value in read)
            words += [_KINDS.index(kind), made, *first]
            for other in others:
                words += other
            words += arguments
        self.words = torch.tensor(words, dtype=torch.int64, device="cpu")
        self.slots = tuple(builder.slots)
        self.optional, self.settings = tuple(builder.optionals), tuple(builder.settings)
        self.own = tuple(vars(m) for m in builder.modules)
        self.hooks = tuple(getattr(m, name) for m in builder.modules for name in _HOOKS)

    def holds(self) -> bool:
        if any(self.hooks):
            return False
        for own in self.own:
            if "forward" in own:
                return False
        for buffers, name, absent in self.optional:
            if (buffers[name] is None) is not absent:
                return False
        return all(own[name] == value for own, name, value in self.settings)

    def __call__(self, input: Tensor) -> Tensor:
        return _RUN(input, [buffers[name] for buffers, name in self.slots], self.words)


class Plan:
    """A container's children as segments and, between them, modules that are called as ever. Not copied and not pickled: a copy of
    the container makes its own."""

    def __init__(self, container: nn.Sequential):
        self.parts: list[Segment | nn.Module] = []
        self.containers: list[nn.Module] = []
        # Called from Python for as long as they are watched.
        self.waiting: list[nn.Module] = []
        builder = _Builder()
        for module in self._leaves(container):
            before = builder.mark()
            try:
                if _watched(module):
                    raise Refused(module)
                builder.last = builder.module(module, (builder.last,))
            except Refused as refused:
                if refused.watched is not None:
                    self.waiting.append(refused.watched)
                builder.back_to(before)
                self._close(builder)
                self.parts.append(module)
                builder = _Builder()
        self._close(builder)
        self.segments = [part for part in self.parts if isinstance(part, Segment)]
        self.children = tuple((m._modules, tuple(m._modules.values())) for m in self.containers)
        inner = self.containers[1:]
        self.forwards = tuple((m, type(m).forward) for m in inner)
        self.hooks = tuple(getattr(m, name) for m in inner for name in _HOOKS)
        self.own = tuple(vars(m) for m in inner)

    def _leaves(self, container: nn.Sequential):
        self.containers.append(container)
        for child in container:
            if isinstance(child, nn.Sequential) and type(child).forward in _IN_ORDER and not _watched(child):
                yield from self._leaves(child)
            else:
                yield child

    def _close(self, builder: "_Builder") -> None:
        self.containers += builder.containers
        if builder.steps or builder.modules:
            self.parts.append(Segment(builder))

    def holds(self) -> bool:
        for modules, children in self.children:
            if tuple(modules.values()) != children:
                return False
        if any(self.hooks):
            return False
        for own in self.own:
            if "forward" in own:
                return False
        for module, forward in self.forwards:
            if type(module).forward is not forward:
                return False
        for segment in self.segments:
            if not segment.holds():
                return False
        return all(map(_watched, self.waiting))

    def __deepcopy__(self, memo) -> None:
        return None

    def __reduce__(self):
        return type(None), ()


# The forwards that call their children in order; quantized.Sequential adds its own.
_IN_ORDER = {nn.Sequential.forward}


def _watched(module: nn.Module) -> bool:
    return "forward" in vars(module) or any(getattr(module, name) for name in _HOOKS)


class _Builder:
    """Steps (kind, value made, values read, arguments), and what they depend on."""

    def __init__(self):
        self.values, self.last = 1, 0
        self.steps: list[tuple[str, int, tuple[int, ...], list[int]]] = []
        self.slots: list[tuple[dict, str]] = []
        self.optionals: list[tuple[dict, str, bool]] = []
        self.settings: list[tuple[dict, str, object]] = []
        self.modules: list[nn.Module] = []
        self.containers: list[nn.Module] = []

    def mark(self) -> tuple:
        return self.values, *(len(rows) for rows in self._rows())

    def back_to(self, mark: tuple) -> None:
        self.values = mark[0]
        for rows, count in zip(self._rows(), mark[1:]):
            del rows[count:]

    def _rows(self) -> tuple[list, ...]:
        return self.steps, self.slots, self.optionals, self.settings, self.modules, self.containers

    def module(self, module: nn.Module, read: tuple[int, ...]) -> int:
        """The value that a module makes of those it reads.

        Raises:
            Refused.
        """
        emit = _EMIT.get(type(module))
        if emit is None:
            return self._container(module, read)
        self.modules.append(module)
        step = emit(self, module)
        if step is None:
            return read[0]
        kind, arguments = step
        return self._step(kind, read, arguments)

    def _step(self, kind: str, read: tuple[int, ...], arguments: list[int]) -> int:
        made = self.values
        self.values += 1
        self.steps.append((kind, made, read, arguments))
        return made

    def _container(self, owner: nn.Module, read: tuple[int, ...]) -> int:
        """Modules whose graphs call modules and nothing else."""
        if isinstance(owner, fx.GraphModule):
            graph = owner.graph
        elif (plain := plain_forward(owner)) is not None:
            graph = plain.graph
            for name in plain.settings:
                self.fixed(owner, name)
        else:
            raise Refused
        self.containers.append(owner)
        values: dict[fx.Node, int] = {}
        inputs = iter(read)
        for node in graph.nodes:
            if node.op == "placeholder" and not node.args:
                values[node] = next(inputs, -1)
            elif node.op == "output" and isinstance(node.args[0], fx.Node):
                return values[node.args[0]]
            elif node.op == "call_module" and not node.kwargs and all(isinstance(a, fx.Node) for a in node.args):
                values[node] = self._child(owner.get_submodule(node.target), tuple(values[a] for a in node.args))
            else:
                raise Refused
            if values[node] < 0:
                raise Refused
        raise Refused

    def _child(self, module: nn.Module, read: tuple[int, ...]) -> int:
        if _watched(module):
            raise Refused(module)
        if not (isinstance(module, nn.Sequential) and type(module).forward in _IN_ORDER):
            return self.module(module, read)
        self.containers.append(module)
        (value,) = read
        for child in module:
            value = self._child(child, (value,))
        return value

    def tensors(self, module: nn.Module, *names: str) -> list[int]:
        """Indices of buffers that must be there."""
        if any(module._buffers[name] is None for name in names):
            raise Refused
        self.slots += ((module._buffers, name) for name in names)
        return list(range(len(self.slots) - len(names), len(self.slots)))

    def optional(self, module: nn.Module, *names: str) -> list[int]:
        """Indices of buffers, or -1 for one that is absent."""
        indices = []
        for name in names:
            absent = module._buffers[name] is None
            self.optionals.append((module._buffers, name, absent))
            if not absent:
                self.slots.append((module._buffers, name))
            indices.append(-1 if absent else len(self.slots) - 1)
        return indices

    def fixed(self, module: nn.Module, name: str):
        """A setting that users may change."""
        value = vars(module)[name]
        self.settings.append((vars(module), name, value))
        return value

    def grid(self, module: nn.Module) -> list[int]:
        """What the op calls output grid."""
        return [*self.optional(module, "output_scale", "output_zero_point"), module.output_quant_min, module.output_quant_max]


def _listed(*lists: list[int]) -> list[int]:
    return [word for entries in lists for word in (len(entries), *entries)]


def _weights(b: _Builder, m: nn.Module, scale: str = "weight_scale") -> list[int]:
    return [*b.tensors(m, "packed_weight", scale), *b.optional(m, "bias")]


def _static(b: _Builder, m: nn.Module) -> list[int]:
    return [*b.tensors(m, "input_scale", "input_zero_point"), m.quant_min, m.quant_max]


def _dynamic(b: _Builder, m: nn.Module) -> list[int]:
    b.optional(m, "input_scale")
    return [int(m.per_token), m.quant_min, m.quant_max, int(m.symmetric)]


def _conv(b: _Builder, m: Conv):
    if len(m.explicit_padding) > 0:
        raise Refused
    geometry = _listed(m.kernel_size, m.stride, m.padding, m.dilation)
    return "conv", [*_weights(b, m), *_static(b, m), *geometry, m.groups, int(m.output_relu), *b.grid(m)]


def _linear(b: _Builder, m: Linear):
    if m._buffers["input_scale"] is None:
        return "linear_dynamic", [*_weights(b, m), *_dynamic(b, m)]
    return "linear", [*_weights(b, m), *_static(b, m), int(m.output_relu), *b.grid(m)]


def _linear_grouped(b: _Builder, m: LinearGrouped):
    if m._buffers["input_scale"] is None:
        return "linear_grouped_dynamic", [*_weights(b, m, "scale_panels"), *_dynamic(b, m)]
    return "linear_grouped", [*_weights(b, m, "scale_panels"), *_static(b, m)]


def _linear_weight_only(b: _Builder, m: LinearWeightOnly):
    if m.input_rounding is not None:
        raise Refused
    return "linear_weight_only", [
        *b.tensors(m, "packed_weight", "scale_panels"), *b.optional(m, "weight_zero_point", "bias")
    ]  # fmt: skip


def _add(b: _Builder, m: Add):
    first = [*b.tensors(m, "input_scale_0", "input_zero_point_0"), m.first_min, m.first_max]
    second = [*b.tensors(m, "input_scale_1", "input_zero_point_1"), m.second_min, m.second_max]
    return "add", [*first, *second, int(m.output_relu), *b.grid(m)]


def _input_grid(b: _Builder, m: nn.Module) -> list[int]:
    return [*b.tensors(m, "input_scale_0", "input_zero_point_0"), m.quant_min, m.quant_max]


def _avg_pool(b: _Builder, m: AvgPool):
    return "avg_pool", [*_input_grid(b, m), *_listed(m.kernel_size, m.stride, m.padding), *b.grid(m)]


def _max_pool(b: _Builder, m: MaxPool):
    return "max_pool", [*_listed(m.kernel_size, m.stride, m.padding, m.dilation), int(m.ceil_mode)]


def _activation(b: _Builder, m: Activation):
    return "lookup", [*_input_grid(b, m), *b.tensors(m, "entries")]


def _flatten(b: _Builder, m: nn.Flatten):
    return "flatten", [b.fixed(m, "start_dim"), b.fixed(m, "end_dim")]


def _relu(b: _Builder, m: nn.ReLU):
    if b.fixed(m, "inplace"):
        raise Refused
    return "relu", []


def _gelu(b: _Builder, m: nn.GELU):
    return "gelu", [int(b.fixed(m, "approximate") == "tanh")]


def _identity(b: _Builder, m: nn.Identity):
    return None


_EMIT: dict[type, Callable] = {
    Conv: _conv,
    Linear: _linear,
    LinearGrouped: _linear_grouped,
    LinearWeightOnly: _linear_weight_only,
    Add: _add,
    AvgPool: _avg_pool,
    MaxPool: _max_pool,
    Activation: _activation,
    nn.Flatten: _flatten,
    nn.ReLU: _relu,
    nn.GELU: _gelu,
    nn.Identity: _identity,
}
