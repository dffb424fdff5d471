"""A QAT step of a Linear layer on a GPU against bfloat16 autocast, and how often a step waits for the device."""

import torch
from torch import nn

import torchqat
from torchqat.bench.harness import Report, at_most

# Calls of the CUDA runtime that block the host.
BLOCKING = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


def linear_step(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor, autocast: bool):
    """Forward and backward, gradients dropped before."""

    def step():
        layer.zero_grad(set_to_none=True)
        x.grad = None
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            y = layer(x)
        y.backward(grad.to(y.dtype))

    return step


def blocking_calls(events, range_name: str) -> int:
    """How many blocking runtime calls of a profile lie within the ranges of that name."""
    ranges = [e.time_range for e in events if e.name == range_name]
    times = [e.time_range for e in events if e.name in BLOCKING]
    return sum(any(r.start <= t.start and t.end <= r.end for r in ranges) for t in times)


def count_waits(step) -> int:
    """Blocking calls in three warm steps."""
    from torch.profiler import ProfilerActivity, profile, record_function

    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(3):
            with record_function("torchqat_step"):
                step()
    return blocking_calls(trace.events(), "torchqat_step")


def run(report: Report) -> None:
    tokens, features = (256, 512) if report.options.quick else (8192, 4096)
    waits = {}
    for name, config in (("w8a8", torchqat.QConfig.int8()), ("int4 g32 x int8", torchqat.QConfig.int4_int8())):
        torch.manual_seed(0)
        layer = nn.Linear(features, features, device="cuda")
        prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(features, features, device="cuda")), config).cuda()
        x = torch.randn(tokens, features, device="cuda", requires_grad=True)
        grad = torch.randn(tokens, features, device="cuda")
        ours = linear_step(prepared, x, grad, autocast=True)
        report.group(
            f"Linear step, {tokens} tokens, {features} x {features}, {name}",
            {"bf16 autocast": linear_step(layer, x, grad, autocast=True), "torchqat, bf16 autocast": ours},
            baseline="bf16 autocast",
            targets={"torchqat, bf16 autocast": at_most(0.9, "bf16 autocast")} if name == "w8a8" else None,
        )
        waits[name] = count_waits(ours)
    report.values("blocking calls in three steps", waits, "calls", limits=dict.fromkeys(waits, 0))
