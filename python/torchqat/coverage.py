"""coverage: every module and op of a model, quantised or left in float, and why."""

from dataclasses import dataclass

import torch.fx
from torch import nn

from torchqat.fake_quantize import FakeQuantize
from torchqat.mapping import CONV_BN_TO_QAT, FLOAT_TO_QAT, OPAQUE, qat_class
from torchqat.nn.qat._form import QatForm
from torchqat.nn.norm_act import is_norm_act
from torchqat.nn.qat._layer import QatLayer
from torchqat.nn.quantized._form import QuantizedForm
from torchqat.nn.quantized._layer import QuantizedLayer
from torchqat.nn.quantized.input_rounding import InputRounding
from torchqat.observers import RangeObserver


@dataclass(frozen=True)
class Row:
    """A module, or a functional op of the traced graph. parameters counts its own, shared ones once."""

    name: str
    kind: str
    quantized: bool
    why: str
    parameters: int


@dataclass(frozen=True)
class Coverage:
    """Rows in the model's order; `share` is the fraction of parameters in quantised weights."""

    rows: list[Row]

    @property
    def share(self) -> float:
        total = sum(r.parameters for r in self.rows)
        return sum(r.parameters for r in self.rows if r.quantized) / total if total else 0.0

    def __str__(self) -> str:
        width = max([4, *(len(r.name) for r in self.rows)])
        kind = max([4, *(len(r.kind) for r in self.rows)])
        lines = [f"{'name':{width}}  {'kind':{kind}}  {'quantised':9}  {'parameters':>10}  why"]
        lines += [
            f"{r.name:{width}}  {r.kind:{kind}}  {'yes' if r.quantized else 'no':9}  {r.parameters:>10}  {r.why}"
            for r in self.rows
        ]
        return "\n".join([*lines, f"{self.share:.1%} of the parameters are quantised"])


_PARTS = (FakeQuantize, RangeObserver, InputRounding)
_NO_FORM = "no quantised form"


def coverage(model: nn.Module) -> Coverage:
    """What of a float, prepared or converted model is quantised.

    Raises:
        TypeError: model is no nn.Module.

    Example:
        >>> import torch, torchqat
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        >>> table = torchqat.coverage(torchqat.prepare_qat(model))
        >>> [(row.name, row.quantized) for row in table.rows]
        [('0', True), ('1', False)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"coverage: model must be a torch.nn.Module, got {type(model).__name__}")
    counted: set[int] = set()
    rows, inside = [], []
    for name, module in model.named_modules():
        if any(name == outer or name.startswith(outer) for outer in inside) or isinstance(module, _PARTS):
            continue
        if isinstance(module, (QatLayer, QuantizedLayer)):
            inside.append(f"{name}." if name else "")
            rows.append(
                Row(name or "(model)", type(module).__name__, True, _scheme(module), _count(module, counted, deep=True))
            )
        elif isinstance(module, (QatForm, QuantizedForm)):
            inside.append(f"{name}." if name else "")
            rows.append(Row(name or "(model)", type(module).__name__, True, "integer form", 0))
        elif not list(module.children()) or list(module.parameters(recurse=False)):
            rows.append(Row(name or "(model)", type(module).__name__, False, _reason(module), _count(module, counted)))
    return Coverage(rows + _functions(model))


def _count(module, counted: set, deep: bool = False) -> int:
    if isinstance(module, QuantizedLayer):
        numel = 1
        for size in module.weight_shape():
            numel *= size
        return numel + (0 if module.bias is None else module.bias.numel())
    total = 0
    for parameter in module.parameters(recurse=deep):
        if id(parameter) not in counted:
            counted.add(id(parameter))
            total += parameter.numel()
    return total


def _scheme(module) -> str:
    if isinstance(module, QuantizedLayer):
        return module.extra_repr()
    config = module.qconfig()
    sides = [
        f"{side} {spec.dtype} per {spec.granularity}"
        for side, spec in (("weight", config.weight), ("input", config.activation))
        if spec is not None
    ]
    return f"{', '.join(sides)}; {'integer kernel' if module.integer else 'simulated in float'}"


def _reason(module: nn.Module) -> str:
    if qat_class(module) is not None:
        return "left in float by an override, or not prepared"
    swapped = next((t for t in FLOAT_TO_QAT if isinstance(module, t)), None)
    if swapped is not None:
        return f"a subclass of {swapped.__name__}, which may use its weight in ways of its own"
    if is_norm_act(module) or any(type(module) in bns for bns, _ in CONV_BN_TO_QAT.values()):
        return "BatchNorm that does not certainly follow one convolution"
    if isinstance(module, nn.Identity):
        return "nothing to do"
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own and not type(module).__module__.startswith("torch.nn."):
        names = ", ".join(own[:3]) + (", ..." if len(own) > 3 else "")
        bare = any(parameter.dim() == 3 for parameter in module.parameters(recurse=False))
        seen = "; 3-D ones that it multiplies have, where prepare_qat is given example_inputs to see it" if bare else ""
        return f"its own parameters ({names}) have no quantised form; layers such as nn.Linear have{seen}"
    if own:
        return _NO_FORM
    return "float op, the same in both models"


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, module, qualified_name):
        leaves = (QatLayer, QuantizedLayer, QatForm, QuantizedForm, *OPAQUE)
        return isinstance(module, leaves) or super().is_leaf_module(module, qualified_name)


def _functions(model: nn.Module) -> list[Row]:
    try:
        graph = _Tracer().trace(model)
    except Exception:  # whatever a model's forward does with a proxy
        return [Row("(functions)", "-", False, "torch.fx cannot trace this model; functional ops are not listed", 0)]
    rows = []
    for node in graph.nodes:
        if node.op in ("call_function", "call_method"):
            kind = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            rows.append(Row(node.name, kind, False, "functional op in float, the same in both models", 0))
    return rows
