"""quantize_ptq: quantisation without training, the baseline that training must beat."""

import torch
from torch import nn

from torchqat.config import QConfig
from torchqat.convert import convert
from torchqat.fake_quantize import FakeQuantize
from torchqat.prepare import prepare_qat
from torchqat.verify import call

_METHODS = ("minmax", "ema")


def quantize_ptq(
    model: nn.Module,
    qconfig: QConfig | None = None,
    calibration_batches=(),
    method: str = "minmax",
    *,
    overrides: dict | None = None,
) -> nn.Module:
    """A converted model whose static activation ranges come from the calibration batches; no weight is trained.

    Args:
        qconfig: the scheme; QConfig.int8() by default.
        calibration_batches: inputs; a tuple or list is a call's arguments, a dict its keywords. Not needed for dynamic and
            weight-only schemes.
        method: "minmax" takes the extremes over all batches, "ema" their moving average.
        overrides: as prepare_qat's.

    Raises:
        ValueError: unknown method.
        RuntimeError: a static activation saw no data.

    Example:
        >>> import torch, torchqat
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> quantized = torchqat.quantize_ptq(model, torchqat.QConfig.int8(), [torch.randn(8, 4)])
        >>> quantized(torch.randn(3, 4)).shape
        torch.Size([3, 2])
    """
    if method not in _METHODS:
        raise ValueError(f"quantize_ptq: method must be one of {', '.join(_METHODS)}, got {method!r}")
    prepared = prepare_qat(model, qconfig, overrides=overrides).eval()
    calibrate(prepared, calibration_batches, method)
    return convert(prepared, inplace=True)


@torch.no_grad()
def calibrate(prepared: nn.Module, batches, method: str = "minmax") -> nn.Module:
    """Let the static activation ranges of a prepared model see some batches; everything else stays in eval mode.

    Layers compute in float meanwhile, so that no range depends on another layer's rounding. Returns the model.
    """
    quantizers = [m for m in prepared.modules() if isinstance(m, FakeQuantize)]
    modes = {m: (m.training, m.enabled) for m in quantizers}
    constants = {}
    training = {m: m.training for m in prepared.modules()}
    prepared.eval()
    try:
        for quantizer in quantizers:
            quantizer.enabled = False
            quantizer.training = True
            if quantizer.observer is not None and method == "minmax":
                constants[quantizer.observer] = quantizer.observer.averaging_constant
                quantizer.observer.averaging_constant = 1.0
        for batch in batches:
            call(prepared, batch)
    finally:
        for module, mode in training.items():
            module.training = mode
        for quantizer, (_, enabled) in modes.items():
            quantizer.enabled = enabled
        for observer, constant in constants.items():
            observer.averaging_constant = constant
    return prepared
