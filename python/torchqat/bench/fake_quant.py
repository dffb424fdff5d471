"""Suite fake_quant: the elementwise quantisers against ATen's, torchao's and a copy.

Every size whose outputs are large enough to be given back to the system after each call is measured twice: with fresh
pages (what a process with default settings pays; page faults dominate) and with an allocator that keeps its memory.
"""

import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

import torch

from torchqat.bench.harness import Report, at_least, at_most, kept_memory, saved_bytes

FULL = 4096  # side of the weight matrices: 16M elements
COPY, ATEN = "copy_", "torch.fake_quantize_per_tensor_affine"
IDENTITY = "autograd identity that copies"
# What Python and the autograd engine take for a step without arithmetic: small tensors cannot go below it, on any thread count.
NOTHING = "autograd identity that does nothing (a view)"
LEARNABLE = "torch._fake_quantize_learnable_per_tensor_affine"


class CopyIdentity(torch.autograd.Function):
    """The roof of a forward + backward: an autograd identity that copies forward and copies backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.clone()


def _step(function: Callable, x: torch.Tensor, grad: torch.Tensor, *leaves: torch.Tensor) -> Callable[[], None]:
    """forward + backward of function(x) through autograd; gradients are dropped."""

    def step():
        for leaf in (x, *leaves):
            leaf.grad = None
        function(x).backward(grad)

    return step


def _no_grad(function: Callable) -> Callable[[], None]:
    def forward():
        with torch.no_grad():
            function()

    return forward


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _torchao_int4() -> Callable | None:
    """torchao's int4 group fake quantiser, groups of 32; None where torchao is missing."""
    if importlib.util.find_spec("torchao") is None:
        return None
    with _quiet():
        qat = importlib.import_module("torchao.quantization.qat")
        fake_quantizer = importlib.import_module("torchao.quantization.qat.fake_quantizer")
        config = qat.IntxFakeQuantizeConfig(torch.int4, group_size=32, is_symmetric=True)
        return fake_quantizer.IntxFakeQuantizer(config)


def _nncf_int4(side: int) -> Callable | None:
    """NNCF's symmetric quantiser (its C++ extension, compiled at the first call) on groups of 32; None where NNCF is missing."""
    if importlib.util.find_spec("nncf") is None:
        return None
    with _quiet():
        functions = importlib.import_module("nncf.torch.quantization.quantize_functions")
    scale = torch.full((side, side // 32, 1), 2.0, requires_grad=True)

    def quantise(t: torch.Tensor) -> torch.Tensor:
        scale.grad = None
        return functions.symmetric_quantize(t.view(side, -1, 32), 16, -8, 7, scale, 1e-16).view(side, side)

    return quantise


def _memory_modes(large: bool) -> Iterator[str]:
    """Label of each way to measure; the allocator is set accordingly while the label is out."""
    yield ", fresh pages" if large else ", default allocator"
    with kept_memory() as kept:
        if kept:
            yield ", allocator keeps its memory"


def _per_tensor(report: Report, numel: int, label: str, large: bool) -> None:
    ops = torch.ops.torchqat
    x = torch.randn(numel).requires_grad_()
    grad = torch.randn(numel)
    scale, zero_point = torch.tensor(0.02), torch.tensor(3, dtype=torch.int32)
    learned = scale.clone().requires_grad_()
    their_scale = torch.tensor([0.02], requires_grad=True)
    their_zero_point = torch.tensor([3.0], requires_grad=True)
    for memory in _memory_modes(large):
        calls = {
            ATEN: _step(lambda t: torch.fake_quantize_per_tensor_affine(t, 0.02, 3, -128, 127), x, grad),
            IDENTITY: _step(CopyIdentity.apply, x, grad),
            NOTHING: _step(lambda t: t.view_as(t), x, grad),
            "fake_quantize": _step(lambda t: ops.fake_quantize(t, scale, zero_point, [], -128, 127), x, grad),
        }
        bound = 2.2 if "fresh" in memory else 6
        report.group(f"int8 per tensor, forward + backward, {label}{memory}", calls, baseline=ATEN,
                     targets={"fake_quantize": [at_least(bound, ATEN), at_most(1.5, IDENTITY)]})  # fmt: skip
        calls = {
            LEARNABLE: _step(lambda t: torch._fake_quantize_learnable_per_tensor_affine(
                t, their_scale, their_zero_point, -128, 127, 1.0), x, grad, their_scale, their_zero_point),
            "fake_quantize_learned": _step(
                lambda t: ops.fake_quantize_learned(t, learned, zero_point, [], -128, 127, 1.0), x, grad, learned),
        }  # fmt: skip
        bound = 2.8 if large else 6
        report.group(f"learned scale (LSQ), forward + backward, {label}{memory}", calls, baseline=LEARNABLE,
                     targets={"fake_quantize_learned": at_least(bound, LEARNABLE)})  # fmt: skip


def _given_output(report: Report, numel: int, label: str, bound: float | None) -> None:
    ops = torch.ops.torchqat
    x, y = torch.randn(numel), torch.empty(numel)
    scale, zero_point = torch.tensor(0.02), torch.tensor(3, dtype=torch.int32)
    forward = "fake_quantize.out"
    calls = {
        COPY: lambda: y.copy_(x),
        forward: lambda: ops.fake_quantize.out(x, scale, zero_point, [], -128, 127, out=y),
    }
    targets = {forward: at_most(bound, COPY)} if bound is not None else {}
    if hasattr(ops, "fake_quantize_observed"):
        plain, fused = "fake_quantize, new output", "fake_quantize_observed (statistics in the same pass)"
        calls[plain] = lambda: ops.fake_quantize(x, scale, zero_point, [], -128, 127)
        calls[fused] = lambda: ops.fake_quantize_observed(x, scale, zero_point, [], -128, 127)
        targets[fused] = at_most(1.25, plain)
    with kept_memory():
        report.group(f"forward into a given output, {label}, allocator keeps its memory", calls, baseline=COPY, targets=targets)


def _granularities(report: Report, side: int, large: bool) -> None:
    ops = torch.ops.torchqat
    w = torch.randn(side, side)
    scale = torch.tensor(0.02)
    tensor, channel, group = "per tensor, given scale", "per channel, scales from the data", "int4 groups of 32, scales from the data"
    for memory in _memory_modes(large):
        calls = {
            tensor: _no_grad(lambda: ops.fake_quantize(w, scale, None, [], -127, 127)),
            channel: _no_grad(lambda: ops.fake_quantize_dynamic(w, [1, -1], -127, 127, True)),
            group: _no_grad(lambda: ops.fake_quantize_dynamic(w, [1, 32], -8, 7, True)),
        }
        report.group(f"granularities, forward, [{side}, {side}]{memory}", calls, baseline=tensor,
                     targets={channel: at_most(1.3, tensor), group: at_most(1.3, tensor)})  # fmt: skip


def _int4_groups(report: Report, side: int, large: bool) -> None:
    ops = torch.ops.torchqat
    w = torch.randn(side, side, requires_grad=True)
    grad = torch.randn(side, side)
    ours, eager, compiled, formula = "fake_quantize_dynamic", "torchao eager", "torchao compiled", "torch.compile of the formula"
    peer = _torchao_int4()
    if peer is None:
        report.note("torchao is not installed: its lines are left out")
    nncf = _nncf_int4(side)
    if nncf is None:
        report.note("NNCF is not installed: its line is left out")
    else:
        with _quiet():
            _step(nncf, w, grad)()  # compiles

    def plain(t):
        groups = t.view(side, -1, 32)
        s = groups.detach().abs().amax(-1, keepdim=True) / 7
        q = groups / s
        return ((q + (q.round().clamp(-8, 7) - q).detach()) * s).view(side, side)

    for memory in _memory_modes(large):
        calls = {
            ours: _step(lambda t: ops.fake_quantize_dynamic(t, [1, 32], -8, 7, True), w, grad),
            IDENTITY: _step(CopyIdentity.apply, w, grad),
        }
        targets = []
        if peer is not None:
            calls[eager] = _step(peer, w, grad)
            targets.append(at_least(4, eager))
        if nncf is not None:
            calls["NNCF"] = _step(nncf, w, grad)
            targets.append(at_least(1.5, "NNCF"))
        if report.options is not None and report.options.compiled:
            calls[formula] = _step(torch.compile(plain), w, grad)
            targets.append(at_least(1.5, formula))
            if peer is not None:
                calls[compiled] = _step(torch.compile(peer), w, grad)
                targets.append(at_least(1.5, compiled))
        report.group(f"int4 groups of 32, forward + backward, [{side}, {side}]{memory}", calls,
                     baseline=eager if peer is not None else ours, targets={ours: targets})  # fmt: skip


def _dtypes_and_float_formats(report: Report, numel: int, label: str, large: bool) -> None:
    ops = torch.ops.torchqat
    x = torch.randn(numel // FULL or 1, min(numel, FULL)).requires_grad_()
    grad = torch.randn_like(x)
    half = x.detach().bfloat16().requires_grad_()
    half_grad = grad.bfloat16()
    scale = torch.tensor(0.02)
    base = "int8 per tensor, float32"
    for memory in _memory_modes(large):
        calls = {
            base: _step(lambda t: ops.fake_quantize(t, scale, None, [], -128, 127), x, grad),
            "int8 per tensor, bfloat16": _step(lambda t: ops.fake_quantize(t, scale, None, [], -128, 127), half, half_grad),
        }
        targets = {"int8 per tensor, bfloat16": at_most(0.7, base)}
        for format in ("e4m3fn", "mxfp8_e4m3", "mxfp6_e2m3", "mxfp4", "nvfp4"):
            calls[format] = _step(lambda t, format=format: ops.fake_quantize_float(t, None, [], format), x, grad)
            if format != "e4m3fn":
                targets[format] = at_most(2, base)
        report.group(f"bfloat16 and float formats, forward + backward, {label}{memory}", calls, baseline=base, targets=targets)


def _dorefa(report: Report, side: int, large: bool) -> None:
    w = torch.randn(side, side, requires_grad=True)
    grad = torch.randn(side, side)
    ours, formula = "dorefa_weight", "its formula in torch ops"

    def plain(t):
        squashed = torch.tanh(t)
        return squashed / squashed.abs().amax()

    for memory in _memory_modes(large):
        calls = {formula: _step(plain, w, grad), ours: _step(lambda t: torch.ops.torchqat.dorefa_weight(t, []), w, grad),
                 IDENTITY: _step(CopyIdentity.apply, w, grad)}  # fmt: skip
        report.group(f"DoReFa's weights, forward + backward, [{side}, {side}]{memory}", calls, baseline=formula)


def _memory(report: Report) -> None:
    ops = torch.ops.torchqat
    x = torch.randn(256, 256, requires_grad=True)
    scale = torch.tensor(0.02)
    learned = scale.clone().requires_grad_()
    channel_scale, channel_zero = torch.full((256,), 0.02), torch.zeros(256, dtype=torch.int32)
    vector = torch.tensor([0.02], requires_grad=True)
    forwards = {
        "fake_quantize": lambda: ops.fake_quantize(x, scale, None, [], -128, 127),
        "fake_quantize_dynamic, symmetric int8 (cannot clip)": lambda: ops.fake_quantize_dynamic(x, [1, -1], -127, 127, True),
        "fake_quantize_dynamic, affine uint8": lambda: ops.fake_quantize_dynamic(x, [1, -1], 0, 255, False),
        "fake_quantize_dynamic, int4 groups of 32": lambda: ops.fake_quantize_dynamic(x, [1, 32], -8, 7, True),
        "fake_quantize_pact (keeps the input)": lambda: ops.fake_quantize_pact(x, learned, [], 0, 255, 1.0),
        "fake_quantize_observed": lambda: ops.fake_quantize_observed(x, scale, None, [], -128, 127),
        "fake_quantize_stochastic": lambda: ops.fake_quantize_stochastic(x, scale, None, [], -128, 127, 1, 2),
        "fake_quantize_ternary": lambda: ops.fake_quantize_ternary(x, scale, []),
        "fake_quantize_learned (keeps the input)": lambda: ops.fake_quantize_learned(x, learned, None, [], -128, 127, 1.0),
        "dorefa_weight (keeps the input)": lambda: ops.dorefa_weight(x, []),
        "fake_quantize_float e4m3fn": lambda: ops.fake_quantize_float(x, None, [], "e4m3fn"),
        "fake_quantize_float mxfp4": lambda: ops.fake_quantize_float(x, None, [], "mxfp4"),
        "fake_quantize_float nvfp4": lambda: ops.fake_quantize_float(x, None, [], "nvfp4"),
        "fake_quantize_binary": lambda: ops.fake_quantize_binary(x, scale, []),
    }
    limits = {name: 0.13 for name in forwards if "keeps the input" not in name}
    limits["fake_quantize_dynamic, symmetric int8 (cannot clip)"] = 0.001
    limits["fake_quantize_dynamic, int4 groups of 32"] = 0.001
    peers = {
        ATEN: lambda: torch.fake_quantize_per_tensor_affine(x, 0.02, 3, -128, 127),
        "torch.fake_quantize_per_channel_affine": lambda: torch.fake_quantize_per_channel_affine(
            x, channel_scale, channel_zero, 0, -128, 127),
        LEARNABLE: lambda: torch._fake_quantize_learnable_per_tensor_affine(
            x, vector, torch.tensor([3.0], requires_grad=True), -128, 127, 1.0),
    }  # fmt: skip
    peer = _torchao_int4()
    if peer is not None:
        peers["torchao int4 groups of 32"] = lambda: peer(x)
    values = {name: saved_bytes(call) / x.numel() for name, call in (forwards | peers).items()}
    report.values("saved for backward", values, "bytes per element", limits)


def run(report: Report) -> None:
    """Add the suite's groups to the report."""
    quick = report.options is not None and report.options.quick
    torch.manual_seed(0)
    _per_tensor(report, 1 << 16, "64K", large=False)
    _given_output(report, 1 << 16 if quick else 1 << 20, "64K" if quick else "1M", bound=1.5)
    side = 512 if quick else FULL
    if not quick:
        _given_output(report, 1 << 16, "64K", bound=None)
        _per_tensor(report, 1 << 20, "1M", large=False)
        _per_tensor(report, 1 << 24, "16M", large=True)
        _given_output(report, 1 << 24, "16M", bound=1.0)
        _dtypes_and_float_formats(report, 1 << 20, "1M", large=False)
    _granularities(report, side, large=not quick)
    _int4_groups(report, side, large=not quick)
    _dtypes_and_float_formats(report, side * side, "16M" if side == FULL else "256K", large=not quick)
    _dorefa(report, side // 4, large=False)
    _memory(report)
