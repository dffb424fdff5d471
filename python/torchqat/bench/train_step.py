"""Suite train_step: whole training steps of quantised layers against float32 and bfloat16 autocast of the same module."""

import copy

import torch
from torch import nn

import torchqat
from torchqat.bench.harness import Report, at_most, saved_bytes

FP32, BF16 = "fp32 eager", "bf16 autocast"


def _step(module, x, grad, *, autocast=False, optimizer=False):
    """Forward, backward and, if asked for, an SGD update; gradients are dropped before each step."""
    sgd = torch.optim.SGD(module.parameters(), lr=1e-6) if optimizer else None

    def step():
        module.zero_grad(set_to_none=True)
        x.grad = None
        if autocast:
            with torch.autocast("cpu", torch.bfloat16):
                y = module(x)
        else:
            y = module(x)
        y.backward(grad.to(y.dtype))
        if sgd is not None:
            sgd.step()

    return step


def _prepared(module, backward="auto"):
    qconfig = torchqat.QConfig.int8()
    qconfig = torchqat.QConfig(weight=qconfig.weight, activation=qconfig.activation, backward=backward)
    return torchqat.prepare_qat(copy.deepcopy(module), qconfig).train()


def _torch_fake_quant(module):
    """What torch.ao does: fused observe-and-fake-quantise modules before a float Linear."""
    from torch.ao.quantization import FusedMovingAvgObsFakeQuantize, default_fused_per_channel_wt_fake_quant

    layer = copy.deepcopy(module)
    activation, weight = FusedMovingAvgObsFakeQuantize(), default_fused_per_channel_wt_fake_quant()

    class FakeQuantLinear(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.activation, self.weight = layer, activation, weight

        def forward(self, x):
            return nn.functional.linear(self.activation(x), self.weight(self.layer.weight), self.layer.bias)

    return FakeQuantLinear().train()


def _lines(module, x, grad, ways=("auto",), optimizer=False):
    calls = {
        FP32: _step(copy.deepcopy(module), x, grad, optimizer=optimizer),
        BF16: _step(copy.deepcopy(module), x, grad, autocast=True, optimizer=optimizer),
    }
    for way in ways:
        calls[f"torchqat int8, backward {way}"] = _step(_prepared(module, way), x, grad, optimizer=optimizer)
    return calls


def _linear(report: Report, tokens: int, k: int, n: int, fp32: float, bf16: float | None, ways=("auto",), peers=False) -> None:
    module = nn.Linear(k, n)
    x, grad = torch.randn(tokens, k, requires_grad=True), torch.randn(tokens, n)
    calls = _lines(module, x, grad, ways)
    if peers:
        calls["torch.ao fused fake-quant"] = _step(_torch_fake_quant(module), x, grad)
    targets = [at_most(fp32, FP32)] + ([at_most(bf16, BF16)] if bf16 else [])
    report.group(f"Linear w8a8 {k}->{n}, {tokens} tokens, forward + backward + statistics", calls, baseline=FP32,
                 targets={"torchqat int8, backward auto": targets})


def _gradient_error(report: Report) -> None:
    """Relative norm of the gradients' difference from float64 on the same codes."""
    x, w = torch.randn(256, 512), torch.randn(384, 512) / 23
    scale, weight_scale = x.abs().max() / 127, w.abs().amax(1) / 127
    zero = torch.tensor(0)
    grad = torch.randn(256, 384)
    x_hat = (torch.round(x / scale) * scale.double()).double()
    w_hat = torch.round(w / weight_scale[:, None]).double() * weight_scale[:, None].double()
    wanted = [grad.double() @ w_hat, grad.double().t() @ x_hat]
    errors = {}
    for way in ("float32", "int16", "bfloat16"):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        torch.ops.torchqat.qat_linear_int8(
            a, b, None, scale, zero, weight_scale, -128, 127, -127, 127, backward=way
        ).backward(grad)
        errors[way] = max(((g.double() - v).norm() / v.norm()).item() for g, v in zip((a.grad, b.grad), wanted))
    report.values("gradient error against float64", errors, "relative norm",
                  {"float32": 1e-6, "int16": 3e-4, "bfloat16": 2e-3})


def _saved(report: Report) -> None:
    layer = _prepared(nn.Linear(1024, 4096))

    def kept(tokens):
        x = torch.randn(tokens, 1024, requires_grad=True)
        return saved_bytes(lambda: layer(x))

    growth = (kept(512) - kept(256)) / (256 * 1024 * 4)
    report.values("saved for backward per byte of float input", {"Linear w8a8 1024->4096": growth}, "bytes",
                  {"Linear w8a8 1024->4096": 0.32})


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024))


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    _gradient_error(report)
    _saved(report)
    for tokens, fp32, bf16 in [(128, 0.42, 0.85)] if quick else [(512, 0.40, 0.80), (128, 0.42, 0.85)]:
        for k, n in [(1024, 4096), (4096, 1024)]:
            _linear(report, tokens, k, n, fp32, bf16, ("auto", "bfloat16", "float32"), peers=True)
    sweep = [(64, 64, 64), (64, 256, 256), (8, 512, 512), (256, 512, 512), (32, 2048, 2048)]
    for tokens, k, n in sweep[:1] if quick else [*sweep, (2048, 4096, 4096)]:
        _linear(report, tokens, k, n, 1.0, None)
    x, grad = torch.randn(512, 1024, requires_grad=True), torch.randn(512, 1024)
    for optimizer in (False, True):
        report.group(f"MLP 1024->4096->1024 w8a8, 512 tokens{', with SGD' if optimizer else ''}",
                     _lines(_mlp(), x, grad, optimizer=optimizer), baseline=FP32,
                     targets={"torchqat int8, backward auto": at_most(0.45, FP32)})
