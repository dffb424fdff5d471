"""Suite inference, whole networks: the converted model against torch fp32 in its faster layout and, where installed,
onnxruntime's int8 of the same network and OpenVINO on the exported one."""

import copy
from collections.abc import Callable

import torch
from torch import nn

import torchqat
from torchqat.bench import deployed_peers, models
from torchqat.bench.harness import Report, at_least, kept_memory


def _converted(model: nn.Module, config: torchqat.QConfig, x: torch.Tensor) -> nn.Module:
    prepared = torchqat.prepare_qat(copy.deepcopy(model), config, example_inputs=x)
    prepared.train()
    with torch.no_grad():
        for _ in range(2):
            prepared(x)
    return torchqat.convert(prepared.eval(), example_inputs=x)


def _run(model: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(x)

    return run


def _scripted(converted: nn.Module) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        return torch.jit.freeze(torch.jit.script(converted))


def _image_net(report: Report, title: str, model: nn.Module, x: torch.Tensor, bound: float) -> None:
    converted = _converted(model, torchqat.QConfig.int8(), x)
    model = copy.deepcopy(model).eval()
    fused = copy.deepcopy(model).to(memory_format=torch.channels_last)
    last = x.to(memory_format=torch.channels_last)
    lines = {
        "fp32": _run(model, x),
        "fp32 channels_last": _run(fused, last),
        "torchqat int8": _run(converted, last),
        # Without Python between the layers, as the runtimes below.
        "torchqat int8, TorchScript": _run(_scripted(converted), last),
    }
    ours = [name for name in lines if name.startswith("torchqat")]
    targets = {name: [at_least(bound, "fp32"), at_least(bound, "fp32 channels_last")] for name in ours}
    peer = deployed_peers.onnxruntime_int8(report, model, x)
    if peer is not None:
        lines["onnxruntime int8"] = peer
        for name in ours:
            targets[name].append(at_least(1.0, "onnxruntime int8"))
    peer = deployed_peers.openvino_qdq(report, converted, x)
    if peer is not None:
        lines["OpenVINO int8"] = peer
        for name in ours:
            targets[name].append(at_least(1.0, "OpenVINO int8"))
    # Wall time: OpenVINO computes in a thread of its own.
    with kept_memory():
        report.group(title, lines, baseline="fp32", targets=targets, threads=(1,), clock="wall")


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    torch.manual_seed(0)
    for batch, bound in ((1, 4.7), (16, 4.0)):
        _image_net(report, f"CNN, batch {batch}", models.cnn(), torch.randn(batch, 3, 32, 32), bound)
    for batch in (1,) if quick else (1, 16):
        _image_net(report, f"MobileNetV2, batch {batch}", models.mobilenet(), torch.randn(batch, 3, 96, 96), 2.5)
