"""Where codes can flow through a traced model: which modules take and give them, and what lies between.

Some operations commute exactly with quantisation and so work on codes as they are: reshaping, dropout in eval mode, max-pooling,
concatenation, and ReLU where the zero point is 0.
"""

import operator
from collections import Counter

import torch
import torch.nn.functional as F
from torch import fx, nn

from torchqat.fake_quantize import FakeQuantize
from torchqat.mapping import OPAQUE
from torchqat.nn.qat._form import QatForm
from torchqat.nn.qat._layer import QatLayer
from torchqat.nn.qat.conv import _Conv
from torchqat.nn.qat.linear import LinearLayer
from torchqat.nn.qat.output import Output

RELU = {nn.ReLU, F.relu, torch.relu, "relu"}
IDENTITY = {nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d}
MAX_POOL = {nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d}
CAT = {torch.cat, torch.concat, torch.concatenate}
_RESHAPES = {
    nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze,
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "unflatten",
}  # fmt: skip


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (QatLayer, QatForm, *OPAQUE)) or super().is_leaf_module(module, name)


class Flow:
    """The traced graph of a prepared model and what its nodes are.

    Raises:
        Exception: whatever torch.fx says of a model that it cannot trace.
    """

    def __init__(self, model: nn.Module):
        self.graph = _Tracer().trace(model)
        self.modules = dict(model.named_modules(remove_duplicate=False))
        called = [self.modules[node.target] for node in self.graph.nodes if node.op == "call_module"]
        self.calls = Counter(map(id, called))

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[node.target] if node.op == "call_module" else None

    def kind(self, node: fx.Node):
        """What is called: a module's type, a function, a method's name; None for other nodes."""
        if node.op == "call_module":
            return type(self.modules[node.target])
        return node.target if node.op in ("call_function", "call_method") else None

    def users(self, node: fx.Node) -> list[fx.Node]:
        """The nodes that read the values (and not only the shape)."""
        return [user for user in node.users if not _reads_shape(user)]

    def gives(self, node: fx.Node) -> bool:
        """Whether this is an integer kernel that could write codes."""
        module = self.module(node)
        if module is None or hooked(module) or self.calls[id(module)] != 1:
            return False
        if isinstance(module, QatForm):
            return not isinstance(module, Output)
        if isinstance(module, LinearLayer):
            return module.integer and module.weight_fake_quant.group == 0 and is_static(module.activation_fake_quant)
        return isinstance(module, _Conv) and module.integer

    def takes(self, node: fx.Node, value: fx.Node) -> list[FakeQuantize]:
        """The quantisers through which an integer kernel reads a value: those whose codes it could take instead."""
        module = self.module(node)
        if module is None or hooked(module):
            return []
        if isinstance(module, QatForm):
            found = [q for q, argument in zip(module.quantizers(), node.args) if argument is value]
        elif isinstance(module, LinearLayer):
            found = [module.activation_fake_quant] if module.integer and module.weight_fake_quant.group == 0 else []
        elif isinstance(module, _Conv):
            # Explicit padding would be done on the codes, with another value than on the floats.
            found = [module.activation_fake_quant] if module.integer and not len(module.explicit_padding) else []
        else:
            found = []
        return found if all(map(is_static, found)) else []

    def passes(self, node: fx.Node) -> list[fx.Node]:
        """The values whose codes this node passes on, or []."""
        kind, module = self.kind(node), self.module(node)
        if module is not None and hooked(module):
            return []
        if kind in CAT:
            values = node.args[0] if node.args else node.kwargs.get("tensors", ())
            return list(values) if all(isinstance(v, fx.Node) for v in values) else []
        if kind in MAX_POOL and module.return_indices:
            return []
        if kind in RELU or kind in IDENTITY or kind in MAX_POOL or kind in _RESHAPES:
            return [node.args[0]] if node.args and isinstance(node.args[0], fx.Node) else []
        return []

    def clamps(self, node: fx.Node) -> tuple[list[nn.Module], fx.Node]:
        """The clipping modules right behind a giver, which its kernel can do as well, and the node behind them."""
        found = []
        while len(users := self.users(node)) == 1:
            (user,) = users
            module = self.module(user)
            if module is None or hooked(module) or self.calls[id(module)] != 1:
                break
            if clip_range(module) is not None:
                found.append(module)
            elif type(module) not in IDENTITY:
                break
            node = user
        return found, node


def clip_range(module: nn.Module) -> tuple[float, float] | None:
    """What a clipping module clips to, where that leaves 0 as it is."""
    if type(module) is nn.ReLU:
        return 0.0, float("inf")
    if type(module) in (nn.ReLU6, nn.Hardtanh) and module.min_val <= 0.0 < module.max_val:
        return float(module.min_val), float(module.max_val)
    return None


def is_static(quantizer: FakeQuantize | None) -> bool:
    """Whether codes of 8 bits with one scale for all inputs are what the quantiser stands for."""
    if quantizer is None or not (quantizer.static or quantizer.learned) or quantizer.format:
        return False
    return 0 <= quantizer.quant_min and quantizer.quant_max <= 255 or -128 <= quantizer.quant_min < 0 and quantizer.quant_max <= 127


def hooked(module: nn.Module) -> bool:
    # A hook would be shown codes where it expects floats.
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _reads_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel")
    return node.op == "call_function" and node.target is getattr and node.args[1] in ("shape", "ndim", "device", "dtype")


ADDS = {operator.add, operator.iadd, torch.add, "add", "add_"}

