"""One large linear with int4 weights in groups, read from beyond the nearer caches: int8 or float activations."""

import itertools
import time

import torch
import torch.nn.functional as F

from torchqat.bench.harness import Report, at_least, num_threads

FP32 = "fp32 eager"
INT4 = "torchqat int4 g32, int8 activations"
WEIGHT_ONLY = "torchqat int4 g32, float activations"
ATEN = "aten int4pack_mm, bf16"
GROUP = 32
ops = torch.ops.torchqat


class Int4Weight:
    """A random int4 weight in groups of 32 with bfloat16 scales, packed as a deployed layer keeps it."""

    def __init__(self, n: int, k: int):
        codes = torch.randint(-8, 8, (n, k), dtype=torch.int8)
        self.packed = ops.linear_grouped_pack(codes, 4, GROUP)
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
    """Bytes per second at which one thread reads `size` bytes over and over (torch's sum, best of seven)."""
    data = torch.ones(size // 4)
    best = float("inf")
    with num_threads(1):
        for _ in range(7):
            begin = time.thread_time()
            data.sum()
            best = min(best, time.thread_time() - begin)
    return size / best


def _in_turn(layers, call):
    turn = itertools.cycle(layers)
    return lambda: call(next(turn))


def _square(report: Report, quick: bool) -> None:
    size, copies = (1024, 2) if quick else (4096, 4)
    floats = [torch.randn(size, size) for _ in range(copies)]
    weights = [Int4Weight(size, size) for _ in range(copies)]
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
            roof = read_bandwidth(copies * weights[0].bytes)
            reached = weights[0].bytes / result[1][INT4]
            report.note(f"{INT4}: {reached / 1e9:.1f} GB/s, {reached / roof:.0%} of {roof / 1e9:.1f} GB/s read by torch.sum")


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    with torch.no_grad():
        _square(report, quick)
