"""verify: a certificate, layer by layer, that the converted model computes what was trained."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from torchqat.calls import call
from torchqat.nn.qat._form import QatForm
from torchqat.nn.qat._layer import QatLayer
from torchqat.prepare import set_fake_quant
from torchqat.wrappers import unwrapped


@dataclass
class LayerReport:
    """One layer. differing of total outputs differ, by at most max_difference, which is max_lsb steps of the layer's
    accumulator (input scale times weight scale; NaN where it has none). sqnr: decibels against the float layer."""

    name: str
    kind: str
    integer: bool
    total: int = 0
    differing: int = 0
    max_difference: float = 0.0
    max_lsb: float = 0.0
    sqnr: float = math.nan
    signal: float = field(default=0.0, repr=False)
    noise: float = field(default=0.0, repr=False)

    @property
    def equal(self) -> bool:
        return self.differing == 0


@dataclass
class Report:
    """Result of verify. `equal`: every layer of an integer scheme and the model's outputs are equal bit for bit."""

    layers: list[LayerReport]
    output: LayerReport

    @property
    def equal(self) -> bool:
        return all(r.equal for r in self.layers if r.integer) and (
            self.output.equal or not all(r.integer for r in self.layers)
        )

    def __str__(self) -> str:
        width = max([len("layer")] + [len(r.name) for r in self.layers] + [len(self.output.name)])
        lines = [f"{'layer':{width}}  {'kind':16} {'bits equal':>12} {'differing':>18} {'max LSB':>10} {'SQNR dB':>8}"]
        for r in [*self.layers, self.output]:
            lsb = "-" if math.isnan(r.max_lsb) else f"{r.max_lsb:.3g}"
            sqnr = "-" if math.isnan(r.sqnr) else f"{r.sqnr:.1f}"
            word = "yes" if r.equal else ("NO" if r.integer else "float sum")
            lines.append(
                f"{r.name:{width}}  {r.kind:16} {word:>12} {f'{r.differing} of {r.total}':>18} {lsb:>10} {sqnr:>8}"
            )
        return "\n".join(lines)


@torch.no_grad()
def verify(prepared: nn.Module, converted: nn.Module, batches) -> Report:
    """Run both models in eval mode and compare every quantised layer's output and the model's.

    Args:
        prepared: from prepare_qat; its mode and quantisation switches are put back afterwards.
        converted: convert(prepared).
        batches: an iterable of inputs; a tuple or list is a call's arguments, a dict its keywords.

    Returns:
        a Report; print it, or look at report.equal.

    Raises:
        ValueError: the models do not belong together, or there is no batch.

    Example:
        >>> import torch, torchqat
        >>> prepared = torchqat.prepare_qat(torch.nn.Sequential(torch.nn.Linear(4, 2)), torchqat.QConfig.int8_dynamic())
        >>> torchqat.verify(prepared, torchqat.convert(prepared), [torch.randn(8, 4)]).equal
        True
    """
    prepared, converted = unwrapped(prepared), unwrapped(converted)
    layers = {name: m for name, m in prepared.named_modules() if isinstance(m, (QatLayer, QatForm))}
    deployed = dict(converted.named_modules())
    if not layers:
        raise ValueError("verify: prepared has no QAT layer")
    if missing := [name for name in layers if name not in deployed]:
        raise ValueError(f"verify: converted has no module {missing[0]!r}; it must come from convert(prepared)")
    reports = {
        name: LayerReport(name or "(model)", type(deployed[name]).__name__, m.integer) for name, m in layers.items()
    }
    output = LayerReport("(output)", type(prepared).__name__, all(m.integer for m in layers.values()))
    modes = {m: m.training for m in prepared.modules()}
    switches = {m: m.enabled for m in prepared.modules() if hasattr(m, "observer_enabled")}
    prepared.eval()
    converted.eval()
    seen = 0
    try:
        for batch in batches:
            seen += 1
            result, trained = _outputs(prepared, layers, batch)
            deployed_result, shipped = _outputs(converted, {n: deployed[n] for n in layers}, batch)
            set_fake_quant(prepared, False)
            float_result, exact = _outputs(prepared, layers, batch)
            for module, enabled in switches.items():
                module.enabled = enabled
            for name, report in reports.items():
                for calls in zip(trained[name], shipped[name], exact[name]):
                    _compare(report, *_as_values(deployed[name], *calls), _step(deployed[name]))
            for calls in zip(_tensors(result), _tensors(deployed_result), _tensors(float_result)):
                _compare(output, *calls, None)
    finally:
        for module, training in modes.items():
            module.training = training
        for module, enabled in switches.items():
            module.enabled = enabled
    if seen == 0:
        raise ValueError("verify: batches must hold at least one batch, got none")
    for report in [*reports.values(), output]:
        report.sqnr = (
            10 * math.log10(report.signal / report.noise) if report.noise > 0 and report.signal > 0 else math.nan
        )
    return Report(list(reports.values()), output)


def _outputs(model, layers, batch):
    """The model's result, and each layer's outputs in the order of its calls."""
    outputs = {name: [] for name in layers}
    handles = [
        layer.register_forward_hook(lambda module, inputs, result, name=name: outputs[name].append(result))
        for name, layer in layers.items()
    ]
    try:
        return call(model, batch), outputs
    finally:
        for handle in handles:
            handle.remove()


def _tensors(result) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [t for value in result.values() for t in _tensors(value)]
    if isinstance(result, (tuple, list)):
        return [t for value in result for t in _tensors(value)]
    return []


def _as_values(layer, trained: Tensor, shipped: Tensor, exact: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three as floats. Where the deployed layer gives codes of the next one, they are compared with the codes of what was
    trained: equal values are equal codes."""
    scale = getattr(layer, "output_scale", None)
    if scale is None or shipped.is_floating_point():
        return trained, shipped, exact
    zero_point, low, high = layer.output_zero_point, layer.output_quant_min, layer.output_quant_max
    if layer.output_relu:
        trained, exact = trained.relu(), exact.relu()
    trained = torch.ops.torchqat.fake_quantize(trained.float(), scale, zero_point, [], low, high)
    shipped = torch.ops.torchqat.dequantize(shipped, scale, zero_point, [], torch.float32)
    return trained, shipped, exact.clamp((low - zero_point) * scale, (high - zero_point) * scale)


def _step(layer) -> float | None:
    """The smallest step of a layer's accumulator: a static input scale times its smallest weight scale."""
    scale = getattr(layer, "input_scale", None)
    if scale is None:
        return None
    return float(scale.min()) * float(layer.weight_scale.float().min())


def _compare(report: LayerReport, trained: Tensor, shipped: Tensor, exact: Tensor, step: float | None) -> None:
    differs = ~((trained == shipped) | (trained.isnan() & shipped.isnan()))
    difference = (trained - shipped).abs().double()
    report.total += trained.numel()
    report.differing += int(differs.sum())
    report.max_difference = max(report.max_difference, float(difference[differs].max()) if differs.any() else 0.0)
    report.max_lsb = math.nan if step is None else report.max_difference / step
    report.signal += float(exact.double().square().sum())
    report.noise += float((exact.double() - shipped.double()).square().sum())
