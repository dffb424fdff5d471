"""export_onnx: a prepared or converted model as an ONNX file with QuantizeLinear and DequantizeLinear on the trained grid.

torch.onnx writes the float ops; the integer weights come from the layers' descriptions. The file is read again, checked, and
its codes and scales compared with the model's, before the function returns.
"""

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchqat.convert import convert
from torchqat.export.onnx_layers import ONNX_LAYERS, OnnxWeight
from torchqat.files import replacing
from torchqat.nn.qat._layer import QatLayer
from torchqat.nn.quantized._form import QuantizedForm
from torchqat.nn.quantized._layer import QuantizedLayer
from torchqat.wrappers import unwrapped

# torch's tracing exporter ends at 20; 21 adds only types and blocks (4-bit integers, scales in groups) to what it writes.
_TRACED_OPSET, _OPSET, _IR_VERSION = 20, 21, 10


def export_onnx(
    model: nn.Module,
    args: Tensor | tuple | dict,
    path,
    style: str = "qdq",
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_axes: dict | None = None,
) -> None:
    """Write an ONNX file (opset 21) that computes on the grid the model was trained with.

    Weights are integer initializers (4-bit ones up to 4 bits) behind DequantizeLinear, static activations a
    QuantizeLinear and DequantizeLinear pair; dynamic activations are written with elementary ops. An ONNX runtime sums
    in float where torchqat sums in integers, so results may differ by float rounding.

    Args:
        model: prepared (it is converted first, on a copy) or converted; left as it is.
        args: an example input, a tuple of arguments (a dict at its end holds keywords) or a dict of keywords. Tensors become the file's
            inputs, under their keywords' names; any other value is a constant of the file. Of a dictionary that the model returns, as
            Hugging Face's do, the tensors become outputs under their keys.
        path: the file to write.
        style: "qdq".
        input_names, output_names, dynamic_axes: as torch.onnx.export's; {"input": {0: "batch"}} leaves the batch open. A key of dynamic_axes
            is a name of an input or output of the file.

    Raises:
        TypeError, ValueError: a model that is neither prepared nor converted, a layer without a Q/DQ form, another style.
        ImportError: onnx is not installed (the extra torchqat[onnx]).
        RuntimeError: what was read back from the file is not what the model holds.

    Example:
        >>> import os, tempfile, torch, torchqat
        >>> model = torchqat.prepare_qat(torch.nn.Sequential(torch.nn.Linear(4, 2)), torchqat.QConfig.int8_dynamic())
        >>> path = os.path.join(tempfile.mkdtemp(), "model.onnx")
        >>> torchqat.export_onnx(model, torch.randn(3, 4), path)
    """
    if style != "qdq":
        raise ValueError(f"export_onnx: style must be 'qdq', got {style!r}")
    if not isinstance(model, nn.Module):
        raise TypeError(f"export_onnx: model must be a torch.nn.Module, got {type(model).__name__}")
    onnx = _onnx()
    model = unwrapped(model)
    if any(isinstance(module, QatLayer) for module in model.modules()):
        model = convert(model)
    stand_in = _stand_in(model)
    _check_float32(stand_in, args)
    call = _Call(stand_in, args)
    if input_names is None:
        input_names = call.input_names
    if output_names is None:
        output_names = call.output_names
    # As it is where that says the same: its parameters then keep their names.
    traced = stand_in if call.is_plain else call
    with replacing(path, "export_onnx") as temporary:
        with warnings.catch_warnings():
            # The tracing exporter is deprecated, yet the only one that needs no further package.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                traced, tuple(call.inputs), temporary, dynamo=False, opset_version=_TRACED_OPSET, input_names=input_names,
                output_names=output_names, dynamic_axes=dynamic_axes, keep_initializers_as_inputs=False,
            )  # fmt: skip
        written = onnx.load(temporary)
        _check_axes(written.graph, dynamic_axes)
        weights = {name: m for name, m in stand_in.named_modules() if isinstance(m, OnnxWeight)}
        _finish(onnx, written, weights)
        onnx.save(written, temporary)
        _verify(onnx, onnx.load(temporary), weights)


class _Call(nn.Module):
    """One call of the model, with no more inputs than the tensors it is given: torch.onnx makes one of every default value of
    forward's arguments.

    Attributes:
        inputs, input_names: the tensors of the call, in order, and what forward calls them; None where that is not known.
        output_names: the keys of a dictionary that the model returns; None where it returns anything else.
        is_plain: whether tracing the model with inputs as arguments is the same call.
    """

    def __init__(self, model: nn.Module, args):
        super().__init__()
        self.model = model
        args = args if isinstance(args, (tuple, dict)) else (args,)
        keywords = args if isinstance(args, dict) else args[-1] if args and isinstance(args[-1], dict) else {}
        self.keywords = dict(keywords)
        self.positional = [] if isinstance(args, dict) else list(args[:-1] if keywords else args)
        # Tensors inside of lists and dictionaries are inputs too.
        self.leaves, self.structure = pytree.tree_flatten((self.positional, self.keywords))
        self.inputs = [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]
        parameters = [p for p in inspect.signature(model.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.train(model.training)
        with torch.no_grad():
            result = self.called(self.inputs)
        self.output_names = _names_of(result) if isinstance(result, Mapping) else None
        filled_in = any(p.default not in (p.empty, None) for p in parameters[len(self.positional) :])
        self.is_plain = not (keywords or filled_in or isinstance(result, Mapping)) and len(self.inputs) == len(self.positional)
        self.input_names = None if self.is_plain else self._names([p.name for p in parameters])

    def _names(self, parameters: list[str]) -> list[str] | None:
        named = [*zip(parameters, self.positional), *self.keywords.items()]
        names = [name for name, value in named if isinstance(value, Tensor)]
        return names if len(names) == len(self.inputs) else None

    def called(self, inputs) -> object:
        given = iter(inputs)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        positional, keywords = pytree.tree_unflatten(leaves, self.structure)
        return self.model(*positional, **keywords)

    def forward(self, *inputs):
        result = self.called(inputs)
        return tuple(_tensors(result)) if isinstance(result, Mapping) else result


def _names_of(result: Mapping) -> list[str]:
    """One for each tensor: the key, with a number where there are several under it."""
    names = []
    for key, value in result.items():
        names += [str(key)] if isinstance(value, Tensor) else [f"{key}.{i}" for i in range(len(_tensors(value)))]
    return names


def _tensors(value) -> list[Tensor]:
    """Those in a value, in order; of a mapping its values', which may be of a class that pytree does not know."""
    if isinstance(value, Mapping):
        return [tensor for inner in value.values() for tensor in _tensors(inner)]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _check_axes(graph, dynamic_axes: dict | None) -> None:
    names = [entry.name for entry in (*graph.input, *graph.output)]
    for key in dynamic_axes or {}:
        if key not in names:
            raise ValueError(f"export_onnx: dynamic_axes: {key!r} names no input or output of the file; they are {', '.join(names)}")


def _check_float32(model: nn.Module, args) -> None:
    others = {t.dtype for t in (*model.parameters(), *_tensors(args)) if t.is_floating_point()} - {torch.float32}
    if others:
        raise ValueError(
            f"export_onnx: the model and its args must be float32, as Q/DQ files are, got {others.pop()}; "
            "call .float() on both before converting"
        )


def _onnx():
    try:
        import onnx
    except ImportError as error:
        raise ImportError("export_onnx: needs the onnx package: pip install 'torchqat[onnx]'") from error
    return onnx


def _stand_in(model: nn.Module) -> nn.Module:
    """A copy with each deployed layer written as Q/DQ."""
    new: dict[int, nn.Module] = {}
    for name, module in model.named_modules():
        if not isinstance(module, (QuantizedLayer, QuantizedForm)):
            continue
        described = module.description()
        kind = ONNX_LAYERS.get(described.config["layer"])
        if kind is None:
            raise ValueError(f"export_onnx: module {name!r}: no Q/DQ form of {described.config['layer']}")
        try:
            new[id(module)] = kind(described.config, described.tensors).eval()
        except ValueError as error:
            raise ValueError(f"export_onnx: module {name!r}: {error}") from error
    if not new:
        raise ValueError("export_onnx: model is neither prepared nor converted; prepare it with prepare_qat first")
    return copy.deepcopy(model, dict(new)).eval()


def _weights_of_file(onnx, model, weights: dict[str, OnnxWeight]):
    """(name, module, DequantizeLinear node, its initializers) of each weight that holds exactly the module's numbers."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors]
    arrays = {name: onnx.numpy_helper.to_array(tensors[name]) for node in nodes for name in node.input}
    for name, module in weights.items():
        expected = [t.numpy() for t in (module.codes, module.scale, module.code_zero) if t is not None]
        # By value: torch.onnx stores equal initializers once, under the name of one of them.
        for node in nodes:
            found = [arrays[key] for key in node.input]
            if len(found) == len(expected) and all(map(_equal, found, expected)):
                break
        else:
            raise RuntimeError(f"export_onnx: the file lacks the codes, scales or zero points of {name}")
        yield name, module, node, [tensors[key] for key in node.input]


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and np.array_equal(first.astype(np.float64), second.astype(np.float64))


def _finish(onnx, model, weights: dict[str, OnnxWeight]) -> None:
    """Opset 21, and 4-bit types for codes that fit."""
    for entry in model.opset_import:
        if entry.domain == "":
            entry.version = _OPSET
    model.ir_version = _IR_VERSION
    model.producer_name = "torchqat"
    narrowed: set[str] = set()
    for name, module, node, (codes, _, *zero) in list(_weights_of_file(onnx, model, weights)):
        if module.bits > 4 or codes.name in narrowed:
            continue
        kind = onnx.TensorProto.UINT4 if module.codes.dtype == torch.uint8 else onnx.TensorProto.INT4
        narrowed.add(codes.name)
        codes.CopyFrom(_as_4_bits(onnx, codes, codes.name, kind))
        if zero:
            # A tensor of its own: the old one may be shared with an 8-bit weight.
            model.graph.initializer.append(_as_4_bits(onnx, zero[0], f"{name}.zero_point_4", kind))
            node.input[2] = f"{name}.zero_point_4"


def _as_4_bits(onnx, tensor, name: str, kind: int):
    values = onnx.numpy_helper.to_array(tensor)
    return onnx.helper.make_tensor(name, kind, values.shape, values.flatten().astype(int))


def _verify(onnx, model, weights: dict[str, OnnxWeight]) -> None:
    """The checker's opinion, and every code, scale and zero point against the model's."""
    onnx.checker.check_model(model, full_check=True)
    for _ in _weights_of_file(onnx, model, weights):
        pass
