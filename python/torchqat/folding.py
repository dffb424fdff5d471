"""Finds the BatchNorms that can be folded into the convolution before them, and the ReLUs behind those: only where it is certain.

A pair is certain when a traced graph shows that the convolution's one use is this BatchNorm, and each is called once.
What torch.fx cannot trace is split into its children, down to plain nn.Sequential; or, given example inputs, the model is
run and watched.
"""

from collections import Counter
from collections.abc import Callable

import torch.fx
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from torchqat.calls import call_example
from torchqat.mapping import CONV_BN_TO_QAT
from torchqat.nn.norm_act import is_norm_act
from torchqat.nn.qat.relu import absorbable
from torchqat.products import Products, bare_parameters


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, module, qualified_name):
        return type(module) in CONV_BN_TO_QAT or is_norm_act(module) or super().is_leaf_module(module, qualified_name)


def fits(conv: nn.Module, bn: nn.Module) -> bool:
    """Whether types and sizes allow folding bn into conv."""
    bn_types, _ = CONV_BN_TO_QAT.get(type(conv), ((), None))
    known = type(bn) in bn_types or is_norm_act(bn) and isinstance(bn, bn_types) and not _hooked(bn)
    return known and bn.num_features == conv.out_channels and bn.running_var is not None


def find_conv_bn(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """(convolution, BatchNorm) pairs of the model that may be folded."""
    return _find(model, fits)


def find_relus(model: nn.Module, pairs: list) -> dict[int, nn.Module]:
    """The ReLU that certainly follows, by id of the BatchNorm of a pair; hooks would notice, so none where there are any."""
    bare = {id(bn) for conv, bn in pairs if not _hooked(conv)}
    found = _find(model, lambda bn, relu: id(bn) in bare and absorbable(relu) and not _hooked(relu))
    own = [(bn, bn.act) for _, bn in pairs if id(bn) in bare and is_norm_act(bn) and type(bn.drop) is nn.Identity]
    found += [(bn, relu) for bn, relu in own if absorbable(relu) and not _hooked(relu) and not _hooked(bn.drop)]
    return {id(bn): relu for bn, relu in found}


def _hooked(module: nn.Module) -> bool:
    registries = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(map(len, registries))


def _find(model: nn.Module, fits: Callable[[nn.Module, nn.Module], bool]) -> list[tuple[nn.Module, nn.Module]]:
    """Neighbours that fit, the second the one use of the first, each called once and registered once."""
    registered = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    pairs = []
    _search(model, pairs, fits)
    return [(a, b) for a, b in pairs if registered[id(a)] == 1 and registered[id(b)] == 1]


def _search(module: nn.Module, pairs: list, fits: Callable[[nn.Module, nn.Module], bool]) -> None:
    if not any(type(m) in CONV_BN_TO_QAT for m in module.modules()):
        return
    try:
        graph = _Tracer().trace(module)
    except Exception:  # whatever a model's forward does with a proxy: its children are looked at one by one
        if type(module) is nn.Sequential:
            _adjacent(module, pairs, fits)
        for child in module.children():
            _search(child, pairs, fits)
        return
    pairs.extend(_pairs_of_graph(module, graph, fits))


def _adjacent(sequential: nn.Sequential, pairs: list, fits: Callable[[nn.Module, nn.Module], bool]) -> None:
    children = list(sequential.children())
    pairs.extend((a, b) for a, b in zip(children, children[1:]) if fits(a, b))


def _pairs_of_graph(root: nn.Module, graph, fits: Callable[[nn.Module, nn.Module], bool]) -> list[tuple[nn.Module, nn.Module]]:
    calls = [(node, root.get_submodule(node.target)) for node in graph.nodes if node.op == "call_module"]
    times = Counter(id(module) for _, module in calls)
    modules = dict(calls)
    pairs = []
    for node, module in calls:
        users = list(node.users)
        if len(users) != 1 or users[0] not in modules or users[0].args[:1] != (node,):
            continue
        follower = modules[users[0]]
        if fits(module, follower) and times[id(module)] == 1 and times[id(follower)] == 1:
            pairs.append((module, follower))
    return pairs


class _Uses(TorchFunctionMode):
    """Counts, for every tensor, the calls that take it and make another one."""

    def __init__(self):
        super().__init__()
        self.count = Counter()
        self.alive = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
            taken = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.count.update({id(leaf) for leaf in taken})
            # An id means something only while its tensor lives.
            self.alive.extend(taken)
        return result


@torch.no_grad()
def observe_calls(model: nn.Module, example_inputs) -> tuple[set[int], list[tuple[nn.Module, nn.Module]], dict[str, int]]:
    """Run the model once in eval mode: ids of the modules called, the pairs that this run shows may be folded, and the bare
    parameters that are multiplied, with the axis that is summed over."""
    calls, times, made_by = [], Counter(), {}

    def watch(module, inputs, output):
        times[id(module)] += 1
        if type(module) in CONV_BN_TO_QAT:
            made_by[id(output)] = module
        calls.append((module, inputs, output))

    modes = {m: m.training for m in model.modules()}
    handles = [m.register_forward_hook(watch) for m in model.modules()]
    try:
        model.eval()
        with _Uses() as uses, Products(bare_parameters(model)) as products:
            result = call_example("prepare_qat", model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    returned = {id(leaf) for leaf in pytree.tree_leaves(result)}
    pairs = []
    for module, inputs, _ in calls:
        conv = made_by.get(id(inputs[0])) if inputs else None
        if conv is None or not fits(conv, module) or id(inputs[0]) in returned:
            continue
        if uses.count[id(inputs[0])] == 1 and times[id(conv)] == times[id(module)] == 1:
            pairs.append((conv, module))
    return set(times), pairs, products.summed_axes()
