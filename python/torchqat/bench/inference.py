"""Suite inference: deployed int8 linear layers against torch's float32 and torch's own int8."""

import copy
import warnings

import torch
from torch import nn

import torchqat
from torchqat.bench.harness import Report, at_least

FP32 = "fp32 eager"


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024)).eval()


def _converted(module, qconfig, x):
    prepared = torchqat.prepare_qat(copy.deepcopy(module), qconfig).train()
    with torch.no_grad():
        prepared(x)
    return torchqat.convert(prepared.eval()).eval()


def _torch_dynamic(module):
    """torch.ao's eager dynamic int8 (FBGEMM or oneDNN), while torch still has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(module), {nn.Linear}, dtype=torch.qint8)


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    module = _mlp()
    goals = {1: 9.5, 16: 6.2, 128: 4.8, 512: 4.5}
    calibration = torch.randn(64, 1024)
    static = _converted(module, torchqat.QConfig.int8(), calibration)
    dynamic = _converted(module, torchqat.QConfig.int8_dynamic(), calibration)
    with torch.no_grad():
        for tokens, bound in [(1, goals[1])] if quick else goals.items():
            x = torch.randn(tokens, 1024)
            calls = {
                FP32: lambda x=x: module(x),
                "torchqat int8 static": lambda x=x: static(x),
                "torchqat int8 dynamic": lambda x=x: dynamic(x),
            }
            try:
                peer = _torch_dynamic(module)
                peer(x)
                calls["torch.ao int8 dynamic"] = lambda x=x: peer(x)
            except (AttributeError, RuntimeError) as error:
                report.note(f"torch.ao int8 dynamic is not available: {error}")
            targets = {name: at_least(bound, FP32) for name in calls if name.startswith("torchqat")}
            report.group(f"MLP 1024->4096->1024 deployed, {tokens} tokens", calls, baseline=FP32, targets=targets)
