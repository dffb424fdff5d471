"""Suite train_step, whole networks: a QAT step (forward, backward, statistics, weight quantisation) against the float
step and bf16 autocast of the same network, and against the QAT of the peers that are installed."""

import copy
from collections.abc import Callable

import torch
from torch import nn

import torchqat
from torchqat.bench import models, peak_memory, training_peers
from torchqat.bench.harness import Report, at_most, saved_bytes


def _step(model: nn.Module, x: torch.Tensor, autocast: bool = False, optimizer: bool = False) -> Callable[[], None]:
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(parameters, lr=1e-6) if optimizer else None

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model(x)
        out.float().square().mean().backward()
        if sgd is not None:
            sgd.step()
        for p in parameters:
            p.grad = None

    return step


def _network(
    report: Report,
    title: str,
    model: nn.Module,
    x: torch.Tensor,
    variants: dict[str, tuple[nn.Module | None, float | None]],
    megabytes: dict[str, float],
) -> None:
    """One table: fp32, bf16 autocast and each variant (a prepared model and its target over fp32)."""
    float_model = copy.deepcopy(model)
    lines = {"fp32": _step(float_model, x), "bf16 autocast": _step(copy.deepcopy(model), x, autocast=True)}
    targets = {}
    for name, (prepared, bound) in variants.items():
        if prepared is None:
            continue
        lines[name] = _step(prepared, x)
        if bound is not None:
            targets[name] = at_most(bound, "fp32")
    report.group(f"{title}: forward + backward", lines, baseline="fp32", targets=targets)
    ours = {name: prepared for name, (prepared, _) in variants.items() if prepared is not None and "torchqat" in name}
    with_sgd = {"fp32 + SGD": _step(copy.deepcopy(model), x, optimizer=True)}
    with_sgd |= {f"{name} + SGD": _step(copy.deepcopy(prepared), x, optimizer=True) for name, prepared in ours.items()}
    report.group(f"{title}: with SGD", with_sgd, baseline="fp32 + SGD")

    def activations(module: nn.Module) -> float:
        """What grows with the batch: twice the batch less the batch, so that weights and their codes do not count."""
        module.train()
        return (saved_bytes(lambda: module(torch.cat([x, x]))) - saved_bytes(lambda: module(x))) / 1e6

    saved = {"fp32": activations(float_model)}
    saved |= {name: activations(prepared) for name, (prepared, _) in variants.items() if prepared is not None}
    report.values(f"{title}: saved for backward, the part that grows with the batch", saved, "MB", megabytes)


def _peaks(report: Report, net: str) -> None:
    """Peak resident memory of a step beside fp32's, each in a process of its own."""
    peaks = {way: peak_memory.peak(net, way) for way in peak_memory.WAYS}
    report.values(f"{net}: peak resident memory of a step above what the process held before", peaks, "MB",
                  {"int8": peaks["fp32"]})


def _prepared(model: nn.Module, config: torchqat.QConfig) -> nn.Module:
    return torchqat.prepare_qat(copy.deepcopy(model), config)


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    torch.manual_seed(0)
    net, x = models.mlp(), torch.randn(64 if quick else 512, 1024)
    int8 = torchqat.QConfig.int8()
    variants = {
        "torchqat w8a8": (_prepared(net, int8), 0.45),
        "torchqat int4 g32 x int8": (_prepared(net, torchqat.QConfig.int4_int8(32)), 0.60),
        "torch.ao w8a8": (training_peers.build(report, "torch.ao", lambda: training_peers.torch_ao(net)), None),
        "brevitas w8a8": (training_peers.build(report, "brevitas", lambda: training_peers.brevitas(net)), None),
        "torchao w8a8": (training_peers.build(report, "torchao", lambda: training_peers.torchao(net, 8)), None),
        "torchao int4 g32 x int8": (training_peers.build(report, "torchao", lambda: training_peers.torchao(net, 4)), None),
    }
    _network(report, "MLP 512 tokens", net, x, variants, {"torchqat w8a8": 12.0})
    if not quick:
        _peaks(report, "linear")
        _peaks(report, "mlp")

    net, x = models.cnn(), torch.randn(2 if quick else 16, 3, 32, 32)
    variants = {
        "torchqat w8a8": (_prepared(net, int8), 0.50),
        "torch.ao w8a8": (training_peers.build(report, "torch.ao", lambda: training_peers.torch_ao(net)), None),
    }
    _network(report, "CNN 16 x 3 x 32 x 32", net, x, variants, {"torchqat w8a8": 36.0})
    if not quick:
        _peaks(report, "cnn")

    block, x = models.TransformerBlock(), torch.randn(1, 64 if quick else 512, 1024)
    variants = {"torchqat int8 dynamic": (_prepared(block, torchqat.QConfig.int8_dynamic()), 0.60)}
    _network(report, "transformer block, 512 tokens, width 1024", block, x, variants, {})
