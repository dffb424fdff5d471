"""convert: every QAT layer becomes its deployed form, made from the weights of that moment."""

import copy
import warnings

import torch
from torch import nn

from torchqat.calls import call_example, tensors_in
from torchqat.computed_weights import computes_weight, settle, settled
from torchqat.edges import Edge, Edges, find_edges
from torchqat.mapping import FORM_TO_DEPLOYED, deployed_class
from torchqat.nn.qat._form import QatForm
from torchqat.nn.qat._layer import IntegerWeights, QatLayer
from torchqat.nn.qat.relu import release, released
from torchqat.nn.quantized._form import QuantizedForm
from torchqat.nn.quantized._layer import QuantizedLayer
from torchqat.nn.quantized.pool import MaxPool
from torchqat.nn.quantized.sequential import run_in_rows
from torchqat.prepare import swap_modules
from torchqat.wrappers import unwrapped


def convert(model: nn.Module, *, example_inputs=None, inplace: bool = False) -> nn.Module:
    """The model with integer weights and integer kernels, in eval mode; no fake-quantiser and no float weight is left, and no
    parameter that is left asks for a gradient.

    In integer schemes its outputs equal the prepared model's in eval mode bit for bit.

    Args:
        model: from prepare_qat, trained or calibrated; DistributedDataParallel or torch.compile around it is left behind.
        example_inputs: what the model can be called with: a tuple of arguments, a dict of keywords, or one tensor. Given, codes flow between integer
            kernels without a float round trip where the model can be traced: from convolutions, linear layers and integer forms,
            through ReLU, ReLU6, max-pooling, concatenation, dropout and reshaping (bit-equal; the result is checked on these inputs).
            Where it cannot be traced, or does not compute in float32, a warning says so and it is converted without. For use under
            autocast, which rounds between layers, convert under autocast too, or without example_inputs.
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
    model = unwrapped(model)
    names = {id(m): name for name, m in model.named_modules() if isinstance(m, (QatLayer, QatForm))}
    if not names and any(isinstance(m, QuantizedLayer) for m in model.modules()):
        raise ValueError("convert: model is converted already")
    if not names:
        raise ValueError("convert: model has no QAT layer; prepare it with prepare_qat first")
    expected = None
    edges = Edges({}, set(), set())
    if example_inputs is not None:
        edges = _edges(model, example_inputs)
        expected = _evaluate(model, example_inputs)
    new = {}
    # The list must not keep what was replaced.
    pending = [m for m in model.modules() if id(m) in names][::-1]
    while pending:
        module = pending.pop()
        deployed = _deployed(names[id(module)], module, edges.outputs.get(id(module)))
        if inplace:
            model = swap_modules(model, {id(module): deployed})
        else:
            new[id(module)] = deployed
        del module
    for module in list(model.modules()):
        if id(module) in edges.dropped:
            new[id(module)] = nn.Identity()
        elif id(module) in edges.pools:
            new[id(module)] = MaxPool.from_float(module)
    if inplace:
        model = swap_modules(model, new)
    else:
        for module in model.modules():
            settle(module)
        # Old layers map to new ones through the memo, so that their float weights are not copied.
        model = copy.deepcopy(model, dict(new))
    # No gradient passes a deployed layer, so that a compiler which were to trace one would fail.
    model.eval().requires_grad_(False)
    release(model)
    if edges.outputs and not _same(_evaluate(model, example_inputs), expected):
        raise RuntimeError(
            "convert: with codes flowing between layers the outputs on example_inputs are not the prepared model's; "
            "convert without example_inputs, and please report it"
        )
    return run_in_rows(model)


def _edges(model: nn.Module, example_inputs) -> Edges:
    tensors = [*model.parameters(), *tensors_in(example_inputs)]
    others = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    devices = {t.device.type for t in tensors}
    others |= {torch.get_autocast_dtype(kind) for kind in devices if torch.is_autocast_enabled(kind)}
    if others:
        # Each layer would round its float result to that type, and the codes would be those of the rounded values.
        warnings.warn(f"convert: the model computes in {others.pop()}; it is converted without integer edges", stacklevel=3)
        return Edges({}, set(), set())
    try:
        with released(model):
            return find_edges(model)
    except Exception as error:  # noqa: BLE001 - tracing runs the model's own code
        warnings.warn(
            f"convert: the model cannot be traced ({type(error).__name__}: {str(error).splitlines()[0]}); it is converted "
            "without integer edges, and every layer's result is a float tensor",
            stacklevel=3,
        )
        return Edges({}, set(), set())


@torch.no_grad()
def _evaluate(model: nn.Module, example_inputs):
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        return call_example("convert", model, example_inputs)
    finally:
        for module, training in modes:
            module.training = training


def _same(a, b) -> bool:
    """Whether the tensors and plain values of two results are equal; other objects (a cache) are not compared."""
    flat_a, flat_b = torch.utils._pytree.tree_leaves(a), torch.utils._pytree.tree_leaves(b)
    return len(flat_a) == len(flat_b) and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y or not isinstance(x, (bool, int, float, str)) for x, y in zip(flat_a, flat_b)
    )


def _deployed(name: str, layer: QatLayer | QatForm, edge: Edge | None = None) -> QuantizedLayer | QuantizedForm:
    is_form = isinstance(layer, QatForm)
    try:
        for quantizer in layer.quantizers() if is_form else (layer.weight_fake_quant, layer.activation_fake_quant):
            if quantizer is not None and not quantizer.enabled:
                raise ValueError("quantisation is switched off; call set_fake_quant(model, True) first")
        cls = FORM_TO_DEPLOYED[type(layer)] if is_form else deployed_class(layer)
        with settled(layer):
            description = cls.describe(layer)
        if edge is not None:
            device = next(iter(description.tensors.values())).device
            description.tensors["output_scale"] = edge.scale.to(device)
            description.tensors["output_zero_point"] = edge.zero_point.to(device)
            description.config["output"] = {"relu": edge.relu, "quant_min": edge.quant_min, "quant_max": edge.quant_max}
        deployed = cls(description).eval()
    except (RuntimeError, ValueError) as error:
        raise type(error)(f"convert: module {name!r}: {error}") from error
    # Their own registries: a hook put on the converted layer is none of the prepared one.
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"):
        setattr(deployed, hooks, getattr(layer, hooks).copy())
    for key, hook in layer._forward_pre_hooks.items():
        if computes_weight(hook):
            del deployed._forward_pre_hooks[key]
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
    with settled(module):
        return module.integer_weights()


@torch.no_grad()
def dequantized_weight(module: nn.Module) -> torch.Tensor:
    """The float weight that a prepared or converted layer's codes stand for."""
    codes, scale, zero_point, block_size = integer_weights(module)
    return torch.ops.torchqat.dequantize(codes, scale, zero_point, block_size, torch.float32)
