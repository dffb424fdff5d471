"""Suite inference: the deployed MLP against torch's float32, torch's own int8, onnxruntime and OpenVINO; two threads
against one; and the CPU paths of older machines."""

import copy
import os
from collections.abc import Callable

import torch
from torch import nn

import torchqat
from torchqat.bench import deployed_peers, models
from torchqat.bench.harness import Report, at_least, measure

FP32 = "fp32 eager"
INT8, DYNAMIC, INT4 = "torchqat int8 static", "torchqat int8 dynamic", "torchqat int4 g32 x int8"
EDGES = "torchqat int8 static, integer edges"
READ = "reading the int8 weights (torch.sum) and GELU"
WEIGHT_ONLY = "torchqat int4 g32, float activations"
CONFIGS = {
    INT8: torchqat.QConfig.int8(),
    DYNAMIC: torchqat.QConfig.int8_dynamic(),
    INT4: torchqat.QConfig.int4_int8(32),
    WEIGHT_ONLY: torchqat.QConfig.int4_weight_only(32),
}
# Where a line takes turns after this long, as a server would call it: the first call after another's pays for its caches, and
# for a matrix unit that slept.
SAMPLE_SECONDS = 0.02
# tokens -> what int8 and int4 x int8 must reach over float32.
GOALS = {1: (9.5, 12.0), 16: (6.2, 7.0), 128: (4.8, 4.5), 512: (4.5, 4.2)}


def _converted(module: nn.Module, config: torchqat.QConfig, x: torch.Tensor, edges: bool = False) -> nn.Module:
    example = x if edges else None
    prepared = torchqat.prepare_qat(copy.deepcopy(module), config, example_inputs=example).train()
    with torch.no_grad():
        for _ in range(1 + edges):
            prepared(x)
    return torchqat.convert(prepared.eval(), example_inputs=example)


def _mlp(report: Report, module: nn.Module, converted: dict[str, nn.Module], tokens: int) -> None:
    x = torch.randn(tokens, 1024)
    calls: dict[str, Callable] = {FP32: lambda: module(x)}
    for name, model in converted.items():
        calls[name] = lambda model=model: model(x)
    int8, int4 = GOALS[tokens]
    targets = {name: [at_least(goal, FP32)] for name, goal in ((INT8, int8), (EDGES, int8), (DYNAMIC, int8), (INT4, int4))}
    targets[WEIGHT_ONLY] = []
    for name, call, ours in (
        ("torch.ao int8 dynamic", deployed_peers.torch_dynamic(report, module, x), (DYNAMIC,)),
        ("torchao int8 dynamic", deployed_peers.torchao_int8_dynamic(report, module, x), (DYNAMIC,)),
        ("onnxruntime int8", deployed_peers.onnxruntime_int8(report, module, x), (INT8, EDGES)),
        ("OpenVINO int8", deployed_peers.openvino_qdq(report, converted[INT8], x), (INT8, EDGES)),
        ("onnxruntime int4 g32 x int8", deployed_peers.onnxruntime_int4(report, module, x), (INT4,)),
        ("aten int4 g32, bf16 activations", deployed_peers.aten_int4(report, module, x), (INT4, WEIGHT_ONLY)),
    ):
        if call is not None:
            calls[name] = call
            for line in ours:
                targets[line].append(at_least(1.0, name))
    title = f"MLP 1024->4096->1024 deployed, {tokens} token{'s' if tokens > 1 else ''}"
    if tokens == 1:
        calls[READ] = _reading(converted[INT8])
    result = report.group(
        title, calls, baseline=FP32, targets=targets, threads=(1,), clock="wall", sample_seconds=SAMPLE_SECONDS
    )[1]
    if tokens == 1:
        report.values("MLP int8, 1 token: time over that of reading the weights (90% of its rate: 1.111)",
                      {name: result[name] / result[READ] for name in (INT8, EDGES, DYNAMIC)}, "x",
                      {name: 1 / 0.9 for name in (INT8, EDGES, DYNAMIC)})  # fmt: skip


def _reading(converted: nn.Module) -> Callable[[], object]:
    """The floor of one token in eager mode: three calls that do no more than read what has to be read."""
    layers = [m.packed_weight for m in converted.modules() if hasattr(m, "packed_weight")]
    first, last = (weight[: weight.numel() // 8 * 8].view(torch.int64) for weight in layers)
    hidden = torch.randn(1, 4096)
    return lambda: (first.sum(), nn.functional.gelu(hidden), last.sum())


def _threads(report: Report, converted: dict[str, nn.Module], tokens: int) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if cores < 2:
        report.note(f"two threads at {tokens} tokens: not measured, this process has one core")
        return
    x = torch.randn(tokens, 1024)
    calls = {name: lambda model=model: model(x) for name, model in converted.items()}
    one, two = (measure(calls, threads=count, clock="wall", seconds=report.seconds) for count in (1, 2))
    values = {name: two[name] / one[name] for name in calls}
    limits = {name: 1 / 1.7 for name in (INT8, EDGES, DYNAMIC, INT4)}
    report.values(f"MLP deployed, {tokens} tokens: time of two threads over one", values, "x", limits)


def _paths(report: Report, module: nn.Module, converted: dict[str, nn.Module], tokens: int) -> None:
    """What machines without AVX-512 get; fp32 keeps this machine's instructions."""
    x = torch.randn(tokens, 1024)
    current = torch.ops.torchqat._cpu_isa()

    def on(isa: str, model: nn.Module) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            torch.ops.torchqat._set_cpu_isa(isa)
            try:
                return model(x)
            finally:
                torch.ops.torchqat._set_cpu_isa(current)

        return call

    calls: dict[str, Callable] = {FP32: lambda: module(x)}
    for isa in torchqat._C.supported_isas():
        if isa == "scalar" and tokens > 16:
            continue  # seconds a call
        for name in (INT8, EDGES, INT4, WEIGHT_ONLY):
            calls[f"{name} [{isa}]"] = on(isa, converted[name])
    title = f"MLP deployed by CPU path, {tokens} token{'s' if tokens > 1 else ''}"
    report.group(title, calls, baseline=FP32, threads=(1,))


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    torch.manual_seed(0)
    module = models.mlp().eval()
    calibration = torch.randn(64, 1024)
    converted = {name: _converted(module, config, calibration) for name, config in CONFIGS.items()}
    converted[EDGES] = _converted(module, CONFIGS[INT8], calibration, edges=True)
    with torch.inference_mode():
        for tokens in (1,) if quick else GOALS:
            _mlp(report, module, converted, tokens)
        for tokens in () if quick else (128, 512):
            _threads(report, converted, tokens)
        for tokens in (1,) if quick else (1, 16, 128):
            _paths(report, module, converted, tokens)
