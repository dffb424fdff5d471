"""Integer forms that prepare_qat puts in: adds, average pooling and element-wise functions between integer kernels.

An operation gets one where everything it reads comes from integer kernels and everything that reads it is one: there codes can
flow on both sides. Elsewhere (a residual that feeds a LayerNorm) it stays in float.
"""

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import fx, nn

from torchqat.flow import ADDS, Flow, clip_range, hooked
from torchqat.mapping import AVERAGES, TABLES
from torchqat.nn.qat._form import QatForm
from torchqat.nn.qat.activation import Activation
from torchqat.nn.qat.add import Add
from torchqat.nn.qat.pool import AvgPool
from torchqat.nn.qat.relu import released
from torchqat.rewrite import Refused, free_name, functions, own_graph, place_functions

# Functions of one tensor -> a module whose form they have.
_FUNCTIONS = {
    F.gelu: nn.GELU, F.silu: nn.SiLU, torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, torch.tanh: nn.Tanh, F.tanh: nn.Tanh,
    F.hardswish: nn.Hardswish, F.hardsigmoid: nn.Hardsigmoid, F.mish: nn.Mish, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh,
}  # fmt: skip
_ADAPTIVE = {F.adaptive_avg_pool1d: 1, F.adaptive_avg_pool2d: 2, F.adaptive_avg_pool3d: 3}


def insert_forms(model: nn.Module, spec_of) -> nn.Module:
    """The prepared model with integer forms. A module that calls a function with a form becomes a torch.fx.GraphModule; a model
    that cannot be traced is returned as it is.

    Args:
        spec_of: says of a form's class, a module's name (of the caller, for functions) and the module or None on which grid it
            rounds (a QuantSpec), or None to leave it in float.
    """
    with released(model):
        try:
            flow = Flow(model)
        except Exception:  # noqa: BLE001 - tracing runs the model's own code; without a graph there is nothing to put in
            return model
        places = _function_places(model, flow)
        makers, specs = {}, {}
        for node in flow.graph.nodes:
            maker = _maker(flow, node)
            if maker is None or (node.op != "call_module" and node not in places):
                continue
            name = node.target if node.op == "call_module" else places[node][0]
            specs[node] = spec_of(maker[0], name, flow.module(node))
            if specs[node] is not None:
                makers[node] = maker
        chosen = _eligible(flow, makers)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)
    inside: dict[str, dict[int, tuple[str, QatForm]]] = defaultdict(dict)
    for node in chosen:
        cls, arguments = makers[node]
        form = cls(specs[node], *arguments, device=device, training=model.training)
        if node.op == "call_module":
            _set(model, node.target, form)
        else:
            owner, index = places[node]
            form.place = ("function", index)
            module = model.get_submodule(owner)
            name = free_name(module, cls.__name__.lower())
            module.add_module(name, form)
            inside[owner][index] = name, form
    for owner, forms in inside.items():
        model = _set(model, owner, place_functions(model.get_submodule(owner), forms))
    return model


def _set(model: nn.Module, path: str, new: nn.Module) -> nn.Module:
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = new
    return model


def _maker(flow: Flow, node: fx.Node) -> tuple[type, tuple] | None:
    """The form of what a node calls, and its arguments."""
    kind, module = flow.kind(node), flow.module(node)
    if module is not None:
        if flow.calls[id(module)] != 1 or hooked(module):
            return None
        if kind in TABLES:
            return Activation, TABLES[kind](module)
        return _average(module) if kind in AVERAGES else None
    if not node.args or set(node.kwargs) - {"inplace"}:
        return None
    if kind in ADDS:
        two = len(node.args) == 2 and all(isinstance(a, fx.Node) for a in node.args)
        return (Add, ()) if two else None
    if kind in _FUNCTIONS and len(node.args) == 1:
        module = _FUNCTIONS[kind]()
        return Activation, TABLES[type(module)](module)
    if kind in _ADAPTIVE and len(node.args) == 2 and node.args[1] in (1, (1,) * _ADAPTIVE[kind], [1] * _ADAPTIVE[kind]):
        return AvgPool, ([], [], [])
    return None


def _average(pool: nn.Module) -> tuple[type, tuple] | None:
    if "Adaptive" in type(pool).__name__:
        sizes = pool.output_size if isinstance(pool.output_size, (tuple, list)) else [pool.output_size]
        return (AvgPool, ([], [], [])) if all(size == 1 for size in sizes) else None
    dims = int(type(pool).__name__[-2])
    kernel, stride, padding = (
        list(v) if isinstance(v, (tuple, list)) else [v] * dims for v in (pool.kernel_size, pool.stride, pool.padding)
    )
    if len(kernel) != dims:
        kernel, stride, padding = (v * dims if len(v) == 1 else v for v in (kernel, stride, padding))
    plain = not pool.ceil_mode and (pool.count_include_pad or not any(padding)) and getattr(pool, "divisor_override", None) is None
    return (AvgPool, (kernel, stride, padding)) if plain else None


def _function_places(model: nn.Module, flow: Flow) -> dict[fx.Node, tuple[str, int]]:
    """(path of the calling module, index among its calls) of the functions that could be replaced."""
    by_owner: dict[str, list[fx.Node]] = defaultdict(list)
    callings: dict[str, set] = defaultdict(set)
    for node in flow.graph.nodes:
        if node.op in ("call_function", "call_method"):
            stack = node.meta.get("nn_module_stack") or {}
            key, owner = next(((k, v[0]) for k, v in reversed(stack.items())), ("", ""))
            by_owner[owner].append(node)
            callings[owner].add(key)
    places = {}
    for owner, nodes in by_owner.items():
        if not any(_maker(flow, node) for node in nodes) or len(callings[owner]) != 1:
            continue
        try:
            own = functions(own_graph(model.get_submodule(owner)))
        except Refused:
            continue
        if [n.target for n in own] == [n.target for n in nodes]:
            places.update({node: (owner, i) for i, node in enumerate(nodes)})
    return places


def _eligible(flow: Flow, makers: dict) -> list[fx.Node]:
    """The candidates between integer kernels on all sides, counting one another."""
    eligible = set(makers)

    def source(node) -> bool:
        if node in eligible or flow.gives(node):
            return True
        behind = _behind(flow, node)
        return bool(behind) and all(map(source, behind))

    def sink(node, value) -> bool:
        if node in eligible or flow.takes(node, value):
            return True
        return value in _behind(flow, node) and reaches(node)

    def reaches(node) -> bool:
        users = flow.users(node)
        return bool(users) and all(sink(user, node) for user in users)

    while True:
        lost = {n for n in eligible if not (all(map(source, _inputs(n))) and reaches(n))}
        if not lost:
            return [node for node in flow.graph.nodes if node in eligible]
        eligible -= lost


def _inputs(node: fx.Node) -> list[fx.Node]:
    return [argument for argument in node.args if isinstance(argument, fx.Node)]


def _behind(flow: Flow, node: fx.Node) -> list[fx.Node]:
    module = flow.module(node)
    if module is not None and clip_range(module) is not None and not hooked(module):
        return _inputs(node)[:1]
    return flow.passes(node)


__all__ = ["insert_forms"]
