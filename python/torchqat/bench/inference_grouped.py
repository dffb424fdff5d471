"""Int4 weights in groups, read from beyond the nearer caches: one large linear, and the linears of Llama layers as decoding
reads them, with int8 or float activations."""

import itertools
import time

import torch
import torch.nn.functional as F

import torchqat
from torchqat.bench import deployed_peers, models
from torchqat.bench.harness import Report, at_least, num_threads

FP32 = "fp32 eager"
INT4 = "torchqat int4 g32, int8 activations"
WEIGHT_ONLY = "torchqat int4 g32, float activations"
READ = "reading the packed weights (torch.sum)"
ATEN = "aten int4pack_mm, bf16"
GROUP = 32
ops = torch.ops.torchqat


class LowBitWeight:
    """A random weight of a few bits in groups of 32 with bfloat16 scales, packed as a deployed layer keeps it."""

    def __init__(self, n: int, k: int, bits: int = 4):
        codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k), dtype=torch.int8)
        self.packed = ops.linear_grouped_pack(codes, bits, GROUP)
        self.scale = ops.linear_grouped_pack_scale((torch.rand(n, k // GROUP) / 50 + 0.01).bfloat16())
        self.bytes = self.packed.numel() + self.scale.numel() * 2

    def int8(self, x):
        return ops.linear_grouped_int8_dynamic(x, self.packed, self.scale, None, True, 0, 255, False)

    def weight_only(self, x):
        return ops.linear_weight_only(x, self.packed, self.scale, None, None)


class AtenInt4:
    """torch's own int4 weight, where this build has it."""

    def __init__(self, n: int, k: int):
        codes = torch.randint(0, 16, (n, k), dtype=torch.int32)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)
        self.scales = torch.rand(k // GROUP, n, 2).bfloat16()

    def __call__(self, x):
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales)


def read_bandwidth(size: int) -> float:
    """Bytes per second at which one thread reads `size` bytes over and over (torch's sum, best of seven), from memory
    like that of packed weights."""
    data = ops.linear_int8_pack(torch.ones(size // 4096, 4096, dtype=torch.int8))[64:]
    data = data[: data.numel() // 8 * 8].view(torch.int64)
    best = float("inf")
    with num_threads(1):
        for _ in range(7):
            begin = time.thread_time()
            data.sum()
            best = min(best, time.thread_time() - begin)
    return data.numel() * 8 / best


def _in_turn(layers, call):
    turn = itertools.cycle(layers)
    return lambda: call(next(turn))


def _square(report: Report, quick: bool) -> None:
    size, copies = (1024, 2) if quick else (4096, 4)
    floats = [torch.randn(size, size) for _ in range(copies)]
    weights = [LowBitWeight(size, size) for _ in range(copies)]
    goals = {1: {INT4: 6.0, WEIGHT_ONLY: 4.5}, 16: {INT4: 7.0}}
    for rows, bounds in goals.items():
        x = torch.randn(rows, size)
        calls = {
            FP32: _in_turn(floats, lambda w, x=x: F.linear(x, w)),
            INT4: _in_turn(weights, lambda w, x=x: w.int8(x)),
            WEIGHT_ONLY: _in_turn(weights, lambda w, x=x: w.weight_only(x)),
        }
        try:
            aten = [AtenInt4(size, size) for _ in range(copies)]
            aten[0](x.bfloat16())
            calls[ATEN] = _in_turn(aten, lambda w, x=x.bfloat16(): w(x))
        except (AttributeError, RuntimeError) as error:
            report.note(f"{ATEN} is not available: {error}")
        targets = {} if quick else {name: at_least(bound, FP32) for name, bound in bounds.items()}
        result = report.group(
            f"Linear {size}x{size}, {copies} weights in turn, {rows} rows", calls, baseline=FP32, targets=targets
        )
        if rows == 1 and 1 in result:
            # Between two turns of a weight everything else of the group passes through the caches.
            passed = sum(w.numel() * 4 for w in floats) + copies * weights[0].bytes
            roof, reached = read_bandwidth(passed), weights[0].bytes / result[1][INT4]
            report.note(f"{reached / 1e9:.1f} GB/s reached, {roof / 1e9:.1f} GB/s read by torch.sum over {passed >> 20} MiB")
            report.values(f"{INT4}, 1 row: time taken over the time to read the weight (85% of the bandwidth: 1.176)",
                          {INT4: roof / reached}, "x", {INT4: 1 / 0.85})  # fmt: skip


def _weight_only(report: Report, quick: bool) -> None:
    """Every width of weights under float32 and bfloat16 activations, beside torch's own float32 and bfloat16."""
    size, copies = (1024, 2) if quick else (4096, 4)
    floats = [torch.randn(size, size) for _ in range(copies)]
    halves = [w.bfloat16() for w in floats]
    weights = {bits: [LowBitWeight(size, size, bits) for _ in range(copies)] for bits in (4, 3, 2)}
    for rows in (1, 16):
        x = torch.randn(rows, size)
        half = x.bfloat16()
        calls = {FP32: _in_turn(floats, lambda w, x=x: F.linear(x, w)), "bf16 eager": _in_turn(halves, lambda w, x=half: F.linear(x, w))}
        for bits, own in weights.items():
            for name, given in (("float32", x), ("bfloat16", half)):
                calls[f"torchqat int{bits} g32, {name} activations"] = _in_turn(own, lambda w, given=given: w.weight_only(given))
        report.group(f"weight-only Linear {size}x{size}, {copies} weights in turn, {rows} rows", calls, baseline=FP32)


def _decoding(report: Report) -> None:
    net, x = models.LlamaLinears().eval(), torch.randn(1, 2048)
    converted = {
        INT4: torchqat.convert(torchqat.prepare_qat(net, torchqat.QConfig.int4_int8(GROUP))),
        WEIGHT_ONLY: torchqat.convert(torchqat.prepare_qat(net, torchqat.QConfig.int4_weight_only(GROUP))),
    }
    scripted = torch.jit.freeze(torch.jit.trace(converted[INT4], x))
    for _ in range(3):
        scripted(x)
    calls = {FP32: lambda: net(x), **{name: lambda model=model: model(x) for name, model in converted.items()}}
    calls[f"{INT4}, TorchScript"] = lambda: scripted(x)
    targets = {INT4: at_least(9.0, FP32), f"{INT4}, TorchScript": at_least(9.0, FP32)}
    packed = [layer for layer in converted[INT4].modules() if hasattr(layer, "scale_panels")]
    stored = [t[: t.numel() // 8 * 8].view(torch.int64) for m in packed for t in (m.packed_weight, m.scale_panels.view(-1).view(torch.uint8))]
    calls[READ] = lambda: [t.sum() for t in stored]
    peer = deployed_peers.onnxruntime_int4(report, net, x)
    if peer is not None:
        calls["onnxruntime int4 g32 x int8"] = peer
        targets = {name: [target, at_least(1.0, "onnxruntime int4 g32 x int8")] for name, target in targets.items()}
    result = report.group("decoding, linears of four Llama layers, one token", calls, baseline=FP32, targets=targets, threads=(1,))
    size = 8 * sum(t.numel() for t in stored)
    weights = sum(m.in_features * m.out_features for m in packed)
    ours = (INT4, f"{INT4}, TorchScript")
    for name in ours:
        beyond = (result[1][name] - result[1][READ]) / len(packed)
        report.note(f"{name}: {size / result[1][name] / 1e9:.1f} GB/s, {8 * size / weights:.2f} bits a weight; beyond reading them "
                    f"{beyond * 1e6:.0f} us for each of {len(packed)} linears")  # fmt: skip
    report.values("decoding: time over that of reading the weights", {name: result[1][name] / result[1][READ] for name in ours}, "x")


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    with torch.no_grad():
        _square(report, quick)
        _weight_only(report, quick)
        if not quick:
            _decoding(report)
