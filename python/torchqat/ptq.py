"""quantize_ptq: quantisation without training, the baseline that training must beat."""

from dataclasses import replace

import torch
from torch import nn

from torchqat.calls import call
from torchqat.config import BLOCK_FORMATS, QConfig
from torchqat.convert import convert
from torchqat.fake_quantize import FakeQuantize
from torchqat.prepare import prepare_qat

_METHODS = ("minmax", "ema", "percentile", "mse", "histogram")


def quantize_ptq(
    model: nn.Module,
    qconfig: QConfig | None = None,
    calibration_batches=(),
    method: str = "minmax",
    *,
    overrides: dict | None = None,
    example_inputs=None,
) -> nn.Module:
    """A converted model whose static activation ranges come from the calibration batches; no weight is trained.

    Args:
        qconfig: the scheme; QConfig.int8() by default.
        calibration_batches: inputs; a tuple or list is a call's arguments, a dict its keywords. Not needed for dynamic and
            weight-only schemes.
        method: "minmax" takes the extremes over all batches, "ema" their moving average; "percentile", "mse" and "histogram" are
            those observers of QuantSpec, and "mse" also takes weight scales of least squared error.
        overrides, example_inputs: as prepare_qat's, so that integer forms and bare parameters are quantised here as there.

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
    qconfig = _with_method(QConfig.int8() if qconfig is None else qconfig, method)
    overrides = {key: _with_method(value, method) for key, value in (overrides or {}).items()}
    prepared = prepare_qat(model, qconfig, overrides=overrides, example_inputs=example_inputs).eval()
    calibrate(prepared, calibration_batches)
    return convert(prepared, inplace=True)


def _with_method(qconfig, method: str):
    """The same scheme with static activations (and for "mse" weights) observed by that method."""
    if not isinstance(qconfig, QConfig):
        return qconfig  # None leaves a module in float; prepare_qat refuses anything else
    weight, activation = qconfig.weight, qconfig.activation
    if activation is not None and activation.observer != "dynamic" and activation.dtype not in BLOCK_FORMATS:
        activation = replace(activation, observer=method)
    if weight is not None and method == "mse" and weight.is_integer:
        weight = replace(weight, observer="mse")
    return replace(qconfig, weight=weight, activation=activation)


@torch.no_grad()
def calibrate(prepared: nn.Module, batches) -> nn.Module:
    """Let the static activation ranges of a prepared model see some batches; everything else stays in eval mode.

    Layers compute in float meanwhile, so that no range depends on another layer's rounding. Returns the model.
    """
    quantizers = [m for m in prepared.modules() if isinstance(m, FakeQuantize)]
    enabled = {m: m.enabled for m in quantizers}
    training = {m: m.training for m in prepared.modules()}
    prepared.eval()
    try:
        for quantizer in quantizers:
            quantizer.enabled = False
            quantizer.training = True
        for batch in batches:
            call(prepared, batch)
    finally:
        for module, mode in training.items():
            module.training = mode
        for quantizer, on in enabled.items():
            quantizer.enabled = on
    return prepared
