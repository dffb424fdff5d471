"""QAT of other libraries, for the tables of training steps: each takes a float module and gives the prepared one."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import nn

from torchqat.bench.harness import Report

__all__ = ["torch_ao", "torchao", "brevitas", "build"]


def torch_ao(model: nn.Module) -> nn.Module:
    """torch.ao's eager QAT with fused observers; in a Sequential, Conv-BatchNorm-ReLU triples are folded."""
    from torch.ao import quantization as ao

    prepared = copy.deepcopy(model).train()
    if not isinstance(prepared, nn.Sequential):
        prepared = nn.Sequential(prepared)
    prepared.qconfig = ao.get_default_qat_qconfig("x86")
    if any(isinstance(m, nn.Conv2d) for m in prepared):
        triples = [[str(i), str(i + 1), str(i + 2)] for i, m in enumerate(prepared) if isinstance(m, nn.Conv2d)]
        prepared = ao.fuse_modules_qat(prepared, triples)
    return ao.prepare_qat(prepared.train())


def torchao(model: nn.Module, weight_bits: int) -> nn.Module:
    """torchao's QAT: int8 activations per token, weights int8 per channel or int4 in groups of 32."""
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup, PerToken
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig

    activation = IntxFakeQuantizeConfig(torch.int8, PerToken(), is_symmetric=False)
    granularity = PerGroup(32) if weight_bits == 4 else PerAxis(0)
    weight = IntxFakeQuantizeConfig(torch.int4 if weight_bits == 4 else torch.int8, granularity)
    prepared = copy.deepcopy(model)
    if not isinstance(prepared, nn.Sequential):
        prepared = nn.Sequential(prepared)  # it swaps children
    quantize_(prepared, QATConfig(activation_config=activation, weight_config=weight, step="prepare"))
    return prepared


def brevitas(model: nn.Module) -> nn.Module:
    """brevitas: Linear with int8 weights per channel and int8 activations per tensor, float scales from the data."""
    import brevitas.nn as bnn
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat

    def layer(linear: nn.Linear) -> nn.Module:
        new = bnn.QuantLinear(
            linear.in_features, linear.out_features, bias=linear.bias is not None,
            weight_quant=Int8WeightPerChannelFloat, input_quant=Int8ActPerTensorFloat,
        )  # fmt: skip
        with torch.no_grad():
            new.weight.copy_(linear.weight)
            if linear.bias is not None:
                new.bias.copy_(linear.bias)
        return new

    if isinstance(model, nn.Linear):
        return layer(model).train()
    if any(list(m.parameters()) for m in model if not isinstance(m, nn.Linear)):
        raise TypeError("brevitas is built here for nets of Linear layers and functions without weights")
    parts = [layer(m) if isinstance(m, nn.Linear) else copy.deepcopy(m) for m in model]
    return nn.Sequential(*parts).train()


def build(report: Report, name: str, make: Callable[[], nn.Module]) -> nn.Module | None:
    """make(), or None with a note where the peer is missing or refuses this torch."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except Exception as error:  # noqa: BLE001 - the table says what happened
        report.note(f"{name}: not measured ({type(error).__name__}: {str(error).splitlines()[0][:100]})")
        return None
