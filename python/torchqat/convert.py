"""convert: every QAT layer becomes its deployed form, made from the weights of that moment."""

import copy

import torch
from torch import nn

from torchqat.mapping import deployed_class
from torchqat.nn.qat._layer import IntegerWeights, QatLayer
from torchqat.nn.quantized._layer import QuantizedLayer
from torchqat.prepare import swap_modules


def convert(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The model with integer weights and integer kernels, in eval mode; no fake-quantiser and no float weight is left.

    In integer schemes its outputs equal the prepared model's in eval mode bit for bit.

    Args:
        model: from prepare_qat, trained or calibrated.
        inplace: change the given model, freeing float weights as it goes, instead of a copy.

    Raises:
        TypeError: model is no nn.Module.
        ValueError: nothing in it was prepared; a layer has quantisation switched off.
        RuntimeError: a static activation saw no data.

    Example:
        >>> import torch, torchqat
        >>> model = torchqat.prepare_qat(torch.nn.Sequential(torch.nn.Linear(4, 2)), torchqat.QConfig.int8_dynamic())
        >>> type(torchqat.convert(model)[0]).__module__
        'torchqat.nn.quantized.linear'
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert: model must be a torch.nn.Module, got {type(model).__name__}")
    names = {id(m): name for name, m in model.named_modules() if isinstance(m, QatLayer)}
    if not names:
        raise ValueError("convert: model has no QAT layer; prepare it with prepare_qat first")
    new = {}
    for module in [m for m in model.modules() if id(m) in names]:
        new[id(module)] = _deployed(names[id(module)], module)
        if inplace:
            model = swap_modules(model, {id(module): new[id(module)]})
            del module
    if not inplace:
        # Old layers map to new ones through the memo, so that their float weights are not copied.
        model = copy.deepcopy(model, dict(new))
    return model.eval()


def _deployed(name: str, layer: QatLayer) -> QuantizedLayer:
    try:
        for quantizer in (layer.weight_fake_quant, layer.activation_fake_quant):
            if quantizer is not None and not quantizer.enabled:
                raise ValueError("quantisation is switched off; call set_fake_quant(model, True) first")
        cls = deployed_class(layer)
        deployed = cls(cls.describe(layer)).eval()
    except (RuntimeError, ValueError) as error:
        raise type(error)(f"convert: module {name!r}: {error}") from error
    deployed._forward_hooks, deployed._forward_pre_hooks = layer._forward_hooks, layer._forward_pre_hooks
    deployed._forward_hooks_with_kwargs = layer._forward_hooks_with_kwargs
    deployed._forward_pre_hooks_with_kwargs = layer._forward_pre_hooks_with_kwargs
    return deployed


def integer_weights(module: nn.Module) -> IntegerWeights:
    """Codes, scale, zero point and block size of a prepared or converted layer's weight.

    Returns:
        codes int8 (uint8 on an unsigned grid) of the weight's shape; `(codes - zero_point) * scale` is the weight that the
        layer computes with, blocks of block_size sharing a scale.

    Raises:
        TypeError: module is not such a layer.

    Example:
        >>> import torch, torchqat
        >>> layer = torchqat.nn.qat.Linear.from_float(torch.nn.Linear(4, 2), torchqat.QConfig.int8())
        >>> codes, scale, zero_point, block_size = torchqat.integer_weights(layer)
        >>> codes.dtype, block_size
        (torch.int8, [1, -1])
    """
    if not isinstance(module, (QatLayer, QuantizedLayer)):
        raise TypeError(
            f"integer_weights: module must be a prepared or converted layer, got {type(module).__name__}; "
            "for a whole model go through its named_modules()"
        )
    return module.integer_weights()


@torch.no_grad()
def dequantized_weight(module: nn.Module) -> torch.Tensor:
    """The float weight that a prepared or converted layer's codes stand for."""
    codes, scale, zero_point, block_size = integer_weights(module)
    return torch.ops.torchqat.dequantize(codes, scale, zero_point, block_size, torch.float32)
