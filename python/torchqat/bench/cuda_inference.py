"""Deployed linear layers on a GPU: decoding with 4-bit weights against reading as many bytes and against bfloat16, and integer
GEMMs against bfloat16."""

import itertools

import torch
from torch.nn import functional

from torchqat.bench.harness import Report, at_least, at_most

# Weights are taken in turn from more memory than a second-level cache holds.
CACHE_BYTES = 256 << 20


def in_turn(call, *lists):
    """call(one of each list), the next at every call."""
    turn = itertools.cycle(zip(*lists))
    return lambda: call(*next(turn))


def run(report: Report) -> None:
    ops = torch.ops.torchqat
    features, group = (1024, 32) if report.options.quick else (4096, 32)
    codes = torch.randint(-8, 8, (features, features), dtype=torch.int8)
    packed = ops.linear_grouped_pack(codes, 4, group).cuda()
    scale = ops.linear_grouped_pack_scale(torch.rand(features, features // group).bfloat16() * 0.01 + 1e-3).cuda()
    weight = torch.randn(features, features, device="cuda", dtype=torch.bfloat16)
    copies = max(2, CACHE_BYTES // packed.nbytes)
    packs, scales = [packed.clone() for _ in range(copies)], [scale.clone() for _ in range(copies)]
    weights = [weight.clone() for _ in range(max(2, CACHE_BYTES // weight.nbytes))]
    # A copy of half the bytes reads and writes as many as the layer reads.
    half = (packed.nbytes + scale.nbytes) // 2
    sources, room = (
        [torch.empty(half, dtype=torch.uint8, device="cuda") for _ in range(copies)],
        torch.empty(half, dtype=torch.uint8, device="cuda"),
    )
    for tokens in (1, 4):
        x = torch.randn(tokens, features, device="cuda", dtype=torch.bfloat16)
        report.group(
            f"int4 group {group} weights, {features} x {features}, {tokens} token{'s' * (tokens > 1)}, from memory",
            {
                "bf16 F.linear": in_turn(lambda w, x=x: functional.linear(x, w), weights),
                "copy of as many bytes": in_turn(room.copy_, sources),
                "weight-only": in_turn(lambda p, s, x=x: ops.linear_weight_only(x, p, s, None, None), packs, scales),
                "x int8": in_turn(
                    lambda p, s, x=x: ops.linear_grouped_int8_dynamic(x, p, s, None, True, 0, 255, False), packs, scales
                ),
            },
            baseline="bf16 F.linear",
            targets={"weight-only": [at_most(1 / 0.75, "copy of as many bytes"), at_least(3, "bf16 F.linear")]}
            if tokens == 1
            else None,
        )
    pack8 = ops.linear_int8_pack(torch.randint(-127, 128, (features, features), dtype=torch.int8)).cuda()
    scale8 = torch.full((features,), 0.01, device="cuda")
    input_scale, zero_point = torch.tensor(0.02, device="cuda"), torch.tensor(128, device="cuda")
    for tokens in (16, 512) if report.options.quick else (16, 512, 8192):
        x = torch.randn(tokens, features, device="cuda", dtype=torch.bfloat16)
        report.group(
            f"integer GEMM, {tokens} tokens, {features} x {features}, quantising included",
            {
                "bf16 F.linear": lambda x=x: functional.linear(x, weight),
                "int8": lambda x=x: ops.linear_int8(x, pack8, scale8, None, input_scale, zero_point, 0, 255),
                "int4 group 32 x int8": lambda x=x: ops.linear_grouped_int8(
                    x, packed, scale, None, input_scale, zero_point, 0, 255
                ),
            },
            baseline="bf16 F.linear",
        )
