"""Suite train_step: whole training steps of quantised layers against float32 and bfloat16 autocast of the same module."""

import copy
from collections.abc import Callable

import torch
from torch import nn

import torchqat
from torchqat.bench import training_peers
from torchqat.bench.harness import Report, at_most, kept_memory, saved_bytes
from torchqat.nn.qat.activation import Activation

FP32, BF16 = "fp32 eager", "bf16 autocast"
INT8, INT4 = "torchqat int8, backward auto", "torchqat int4 g32 x int8"


def _step(module, x, grad, *, autocast=False, optimizer=False, isa=None) -> Callable[[], None]:
    """Forward, backward and, if asked for, an SGD update; gradients are dropped before each step. isa: CPU path in use."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(parameters, lr=1e-6) if optimizer else None

    def step():
        for p in parameters:
            p.grad = None
        x.grad = None
        if autocast:
            with torch.autocast("cpu", torch.bfloat16):
                y = module(x)
        else:
            y = module(x)
        y.backward(grad.to(y.dtype))
        if sgd is not None:
            sgd.step()

    if isa is None:
        return step

    def on_path():
        before = torch.ops.torchqat._cpu_isa()
        torch.ops.torchqat._set_cpu_isa(isa)
        step()
        torch.ops.torchqat._set_cpu_isa(before)

    return on_path


def _prepared(module, backward="auto", config=None):
    qconfig = config or torchqat.QConfig.int8()
    qconfig = torchqat.QConfig(weight=qconfig.weight, activation=qconfig.activation, backward=backward)
    return torchqat.prepare_qat(copy.deepcopy(module), qconfig).train()


def _lines(module, x, grad, ways=("auto",), optimizer=False):
    calls = {
        FP32: _step(copy.deepcopy(module), x, grad, optimizer=optimizer),
        BF16: _step(copy.deepcopy(module), x, grad, autocast=True, optimizer=optimizer),
    }
    for way in ways:
        calls[f"torchqat int8, backward {way}"] = _step(_prepared(module, way), x, grad, optimizer=optimizer)
    return calls


def _others(report: Report, module: nn.Module) -> dict[str, nn.Module]:
    """QAT of other libraries, where they are installed."""
    makers = {
        "torch.ao w8a8": lambda: training_peers.torch_ao(module),
        "brevitas w8a8": lambda: training_peers.brevitas(module),
        "torchao w8a8": lambda: training_peers.torchao(module, 8),
        "torchao int4 g32 x int8": lambda: training_peers.torchao(module, 4),
    }
    built = {name: training_peers.build(report, name, make) for name, make in makers.items()}
    return {name: prepared.train() for name, prepared in built.items() if prepared is not None}


def _linear(report: Report, tokens: int, k: int, n: int, fp32: float, bf16: float | None, ways=("auto",), full=False) -> None:
    """One table. full: also int4 weights, lower CPU paths, the other libraries, and the step with SGD."""
    module = nn.Linear(k, n)
    x, grad = torch.randn(tokens, k, requires_grad=True), torch.randn(tokens, n)
    calls = _lines(module, x, grad, ways)
    targets = {INT8: [at_most(fp32, FP32)] + ([at_most(bf16, BF16)] if bf16 else [])}
    if full:
        calls[INT4] = _step(_prepared(module, config=torchqat.QConfig.int4_int8(32)), x, grad)
        targets[INT4] = [at_most(0.55, FP32)]
        paths = torchqat._C.supported_isas()
        for isa in [p for p in ("avx512", "avxvnni", "avx2") if p in paths and p != torch.ops.torchqat._cpu_isa()]:
            calls[f"torchqat int8, {isa} kernels only"] = _step(_prepared(module), x, grad, isa=isa)
        calls |= {name: _step(peer, x, grad) for name, peer in _others(report, module).items()}
    title = f"Linear w8a8 {k}->{n}, {tokens} tokens, forward + backward + statistics"
    report.group(title, calls, baseline=FP32, targets=targets)
    if full:
        report.group(f"Linear w8a8 {k}->{n}, {tokens} tokens, with SGD", _lines(module, x, grad, optimizer=True), baseline=FP32)


def _gradient_error(report: Report) -> None:
    """Relative norm of the gradients' difference from float64 on the same codes."""
    x, w = torch.randn(256, 512), torch.randn(384, 512) / 23
    scale, zero, grad = x.abs().max() / 127, torch.tensor(0), torch.randn(256, 384)
    x_hat = torch.round(x / scale).double() * scale.double()
    of_row = w.abs().amax(1) / 127
    of_group = w.view(384, 16, 32).abs().amax(2) / 7
    # One scale per row, and in groups: the op, its weight's scale, what stands between it and the ranges, and the largest code.
    for title, op, weight_scale, group, most in (
        ("gradient error against float64", torch.ops.torchqat.qat_linear_int8, of_row, (), 127),
        ("gradient error against float64, int4 g32", torch.ops.torchqat.qat_linear_grouped, of_group, (32,), 7),
    ):
        each = weight_scale.view(384, -1).repeat_interleave(32 if group else 512, 1)
        wanted = [grad.double() @ (torch.round(w / each).double() * each.double()), grad.double().t() @ x_hat]
        errors = {}
        for way in ("float32", "int16", "bfloat16"):
            a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
            op(a, b, None, scale, zero, weight_scale, *group, -128, 127, -most, most, backward=way).backward(grad)
            errors[way] = max(((g.double() - v).norm() / v.norm()).item() for g, v in zip((a.grad, b.grad), wanted))
        report.values(title, errors, "relative norm", {"float32": 1e-6, "int16": 3e-4, "bfloat16": 2.5e-3 if group else 2e-3})


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


def _functions(report: Report) -> None:
    """Element-wise functions by table, as prepare_qat puts them between integer layers, with the statistics of their input."""
    spec = torchqat.QConfig.int8().activation
    x, grad = torch.randn(8, 197, 768, requires_grad=True), torch.randn(8, 197, 768)
    ours, torchs = "torchqat table", "torch fake-quantise, then the function"
    for name, function in [("gelu", nn.GELU()), ("silu", nn.SiLU()), ("hardswish", nn.Hardswish())]:
        quantise = torch.ao.quantization.FakeQuantize(
            torch.ao.quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255
        )
        calls = {
            FP32: _step(function, x, grad),
            torchs: _step(nn.Sequential(quantise, function), x, grad),
            ours: _step(Activation(spec, name), x, grad),
        }
        report.group(f"{type(function).__name__}, 8 x 197 x 768", calls, baseline=FP32, targets={ours: at_most(0.5, torchs)})


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    report.note("freed memory is kept by the allocator, for every line alike: else fresh pages of the gradients are timed")
    with kept_memory(256 << 20 if quick else 768 << 20):
        _run(report, quick)


def _run(report: Report, quick: bool) -> None:
    _gradient_error(report)
    _saved(report)
    ways = ("auto", "bfloat16", "float32")
    for tokens, fp32, bf16 in [(128, 0.42, 0.85)] if quick else [(512, 0.40, 0.80), (128, 0.42, 0.85)]:
        for k, n in [(1024, 4096), (4096, 1024)]:
            _linear(report, tokens, k, n, fp32, bf16, ways, full=True)
    sweep = [(64, 64, 64), (64, 256, 256), (8, 512, 512), (256, 512, 512), (32, 2048, 2048)]
    for tokens, k, n in sweep[:1] if quick else [*sweep, (2048, 4096, 4096)]:
        _linear(report, tokens, k, n, 1.0, None)
    _functions(report)
    x, grad = torch.randn(512, 1024, requires_grad=True), torch.randn(512, 1024)
    for optimizer in (False, True):
        module = _mlp()
        calls = _lines(module, x, grad, optimizer=optimizer)
        calls[INT4] = _step(_prepared(module, config=torchqat.QConfig.int4_int8(32)), x, grad, optimizer=optimizer)
        report.group(f"MLP 1024->4096->1024 w8a8, 512 tokens{', with SGD' if optimizer else ''}", calls, baseline=FP32,
                     targets={INT8: at_most(0.45, FP32), INT4: at_most(0.60, FP32)})
