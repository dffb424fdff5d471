"""Suite train_step: whole steps of a quantised Conv2d against float32 and bfloat16 autocast of the same module."""

import copy

import torch
from torch import nn

import torchqat
from torchqat.bench.harness import Report, at_most, kept_memory, saved_bytes

FP32, BF16, OURS = "fp32 eager", "bf16 autocast", "torchqat int8, backward auto"


def _step(module, x, grad, autocast=False):
    def step():
        module.zero_grad(set_to_none=True)
        x.grad = None
        if autocast:
            with torch.autocast("cpu", torch.bfloat16):
                y = module(x)
        else:
            y = module(x)
        y.backward(grad.to(y.dtype))

    return step


def _prepared(module, backward="auto"):
    qconfig = torchqat.QConfig.int8()
    qconfig = torchqat.QConfig(weight=qconfig.weight, activation=qconfig.activation, backward=backward)
    return torchqat.prepare_qat(copy.deepcopy(module), qconfig).train()


def _line(
    report: Report, batch: int, channels: int, out: int, size: int, stride: int = 1, bound: float | None = None
) -> None:
    title = f"Conv2d 3x3 {channels}->{out}, {size}x{size}, stride {stride}, batch {batch}"
    _module_line(report, title, nn.Conv2d(channels, out, 3, stride, 1), batch, size, bound)


def _module_line(report: Report, title: str, module: nn.Module, batch: int, size: int, bound: float | None = None) -> None:
    module = module.to(memory_format=torch.channels_last)
    x = torch.randn(batch, module.in_channels, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn_like(module(x).detach())
    calls = {FP32: _step(copy.deepcopy(module), x, grad), BF16: _step(copy.deepcopy(module), x, grad, autocast=True)}
    for backward in ("auto", "bfloat16", "float32"):
        calls[f"torchqat int8, backward {backward}"] = _step(_prepared(module, backward), x, grad)
    targets = {} if bound is None else {OURS: at_most(bound, FP32)}
    # In a running model outputs find memory that the layer before gave back, and no fresh pages.
    with kept_memory():
        report.group(f"{title}, forward + backward + statistics", calls, baseline=FP32, targets=targets)


def _saved(report: Report) -> None:
    layer = _prepared(nn.Conv2d(64, 64, 3, padding=1))

    def kept(batch):
        x = torch.randn(batch, 64, 32, 32, requires_grad=True)
        return saved_bytes(lambda: layer(x))

    growth = (kept(8) - kept(4)) / (4 * 64 * 32 * 32 * 4)
    report.values("saved for backward per byte of float input, convolution", {"Conv2d 3x3 64->64": growth}, "bytes",
                  {"Conv2d 3x3 64->64": 0.32})  # fmt: skip


def _gradient_error(report: Report) -> None:
    """Relative norm of the gradients' difference from float64 on the same codes."""
    x, w = torch.randn(4, 64, 16, 16), torch.randn(48, 64, 3, 3) / 24
    scale, weight_scale = x.abs().max() / 127, w.abs().amax((1, 2, 3)) / 127
    grad = torch.randn(4, 48, 16, 16)
    x_hat = (torch.round(x / scale).double() * scale.double()).requires_grad_()
    w_hat = (torch.round(w / weight_scale.view(-1, 1, 1, 1)).double() * weight_scale.view(-1, 1, 1, 1).double()).requires_grad_()
    nn.functional.conv2d(x_hat, w_hat, None, 1, 1).backward(grad.double())
    errors = {}
    for way in ("float32", "int16", "bfloat16"):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        torch.ops.torchqat.qat_conv_int8(
            a, b, None, scale, torch.tensor(0), weight_scale, -128, 127, -127, 127, [1, 1], [1, 1], [1, 1], 1, backward=way
        ).backward(grad)
        errors[way] = max(((g.double() - v.grad).norm() / v.grad.norm()).item() for g, v in ((a.grad, x_hat), (b.grad, w_hat)))
    report.values("gradient error of a convolution against float64", errors, "relative norm", {"float32": 1e-6, "int16": 3e-4, "bfloat16": 2e-3})


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    _gradient_error(report)
    _saved(report)
    _line(report, 1, 64, 64, 32, bound=0.50)
    if not quick:
        _line(report, 16, 64, 64, 32, bound=0.45)
        _line(report, 16, 128, 128, 16)
        _line(report, 16, 64, 128, 32, stride=2)
        _line(report, 16, 3, 64, 32)
        _module_line(report, "Conv2d 3x3 depthwise 96, 32x32, batch 16", nn.Conv2d(96, 96, 3, padding=1, groups=96), 16, 32, 1.0)
        _module_line(report, "Conv2d 3x3 64->64 in 8 groups, 32x32, batch 16", nn.Conv2d(64, 64, 3, padding=1, groups=8), 16, 32, 1.0)
        _module_line(report, "Conv2d 1x1 96->24, 32x32, batch 16", nn.Conv2d(96, 24, 1), 16, 32, 1.0)
        _module_line(report, "ConvTranspose2d 4x4 64->32, stride 2, 16x16, batch 16", nn.ConvTranspose2d(64, 32, 4, 2, 1), 16, 16, 1.0)
