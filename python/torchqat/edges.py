"""Integer edges: where one quantised convolution feeds another, codes flow instead of floats.

The producer's kernel writes the consumer's codes, `clamp(rint(relu(y) / s) + z)`, which is what the consumer would make of
the float result: bit-equal, without the float tensor between. ReLU stays where it is; on unsigned codes it changes
nothing. (Max-pooling would commute too, but ATen's refuses channels_last uint8 beyond tiny sizes.)
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from torchqat.nn.qat._form import QatForm
from torchqat.nn.qat._layer import QatLayer
from torchqat.nn.qat.conv import _Conv

_RELU = {nn.ReLU, F.relu, torch.relu, "relu"}
_KEEPS_CODES = {nn.Identity, nn.Dropout, nn.Dropout2d}


class Edge(NamedTuple):
    """What a producer needs to know: the layer that reads it, and whether a ReLU lies between."""

    consumer: nn.Module
    relu: bool


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (QatLayer, QatForm)) or super().is_leaf_module(module, name)


def find_edges(model: nn.Module) -> dict[int, Edge]:
    """Edges of a prepared model, by id of the producer.

    A producer is an integer convolution whose result reaches exactly one other integer convolution with a static unsigned
    input, through ReLU, dropout and identity only; both are called once.

    Raises:
        Exception: whatever torch.fx says of a model that it cannot trace.
    """
    graph = _Tracer().trace(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    calls: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[id(modules[node.target])] = calls.get(id(modules[node.target]), 0) + 1
    edges = {}
    for node in graph.nodes:
        producer = modules.get(node.target) if node.op == "call_module" else None
        if _integer_conv(producer) and calls[id(producer)] == 1:
            edge = _follow(node, modules)
            if edge is not None and calls[id(edge.consumer)] == 1 and edge.consumer is not producer:
                edges[id(producer)] = edge
    return edges


def _integer_conv(module: nn.Module | None) -> bool:
    # A hook would be shown codes where it expects floats.
    return isinstance(module, _Conv) and module.integer and not (module._forward_hooks or module._forward_pre_hooks)


def _follow(node: fx.Node, modules: dict[str, nn.Module]) -> Edge | None:
    relu = False
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "call_module":
            module = modules[node.target]
            if _integer_conv(module):
                return Edge(module, relu) if _takes_codes(module) else None
            kind = type(module)
            if kind not in _RELU and kind not in _KEEPS_CODES or module._forward_hooks or module._forward_pre_hooks:
                return None
        else:
            kind = node.target
            if kind not in _RELU:
                return None
        relu = relu or kind in _RELU
    return None


def _takes_codes(consumer: nn.Module) -> bool:
    activation = consumer.activation_fake_quant
    # Explicit padding would be done on the codes, with another value than on the floats.
    return activation.static and activation.quant_min == 0 and not len(consumer.explicit_padding)
