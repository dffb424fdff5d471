"""Suite train_step, whole networks: a QAT step (forward, backward, statistics, weight quantisation) against the float
step and bf16 autocast of the same network, and against the QAT of the peers that are installed."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import nn

import torchqat
from torchqat.bench import models
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


def _torch_ao(model: nn.Module) -> nn.Module:
    """torch.ao's eager QAT with fused observers, BatchNorm folded."""
    from torch.ao import quantization as ao

    prepared = copy.deepcopy(model).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared.qconfig = ao.get_default_qat_qconfig("x86")
        if any(isinstance(m, nn.Conv2d) for m in prepared):
            triples = [[str(i), str(i + 1), str(i + 2)] for i, m in enumerate(prepared) if isinstance(m, nn.Conv2d)]
            prepared = ao.fuse_modules_qat(prepared, triples)
        return ao.prepare_qat(prepared)


def _torchao(model: nn.Module, weight_bits: int) -> nn.Module:
    """torchao's QAT: int8 activations per token, weights int8 per channel or int4 in groups of 32."""
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup, PerToken
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    activation = IntxFakeQuantizeConfig(torch.int8, PerToken(), is_symmetric=False)
    granularity = PerGroup(32) if weight_bits == 4 else PerAxis(0)
    weight = IntxFakeQuantizeConfig(torch.int4 if weight_bits == 4 else torch.int8, granularity)
    prepared = copy.deepcopy(model)
    quantize_(prepared, QATConfig(activation_config=activation, weight_config=weight, step="prepare"))
    return prepared


def _peer(report: Report, name: str, build: Callable[[], nn.Module]) -> nn.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build()
    except Exception as error:  # noqa: BLE001 - a peer may be missing or refuse this torch; the table says so
        report.note(f"{name}: not measured ({type(error).__name__}: {str(error).splitlines()[0][:100]})")
        return None


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
        "torch.ao w8a8": (_peer(report, "torch.ao", lambda: _torch_ao(net)), None),
        "torchao w8a8": (_peer(report, "torchao", lambda: _torchao(net, 8)), None),
        "torchao int4 g32 x int8": (_peer(report, "torchao", lambda: _torchao(net, 4)), None),
    }
    _network(report, "MLP 512 tokens", net, x, variants, {"torchqat w8a8": 12.0})

    net, x = models.cnn(), torch.randn(2 if quick else 16, 3, 32, 32)
    variants = {
        "torchqat w8a8": (_prepared(net, int8), 0.50),
        "torch.ao w8a8": (_peer(report, "torch.ao", lambda: _torch_ao(net)), None),
    }
    _network(report, "CNN 16 x 3 x 32 x 32", net, x, variants, {"torchqat w8a8": 36.0})

    block, x = models.TransformerBlock(), torch.randn(1, 64 if quick else 512, 1024)
    variants = {"torchqat int8 dynamic": (_prepared(block, torchqat.QConfig.int8_dynamic()), 0.60)}
    _network(report, "transformer block, 512 tokens, width 1024", block, x, variants, {})
