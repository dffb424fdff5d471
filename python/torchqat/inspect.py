"""`python -m torchqat inspect TARGET`: what a saved or importable model contains: size, schemes, coverage, every tensor.

Each kind of target is read into an Inventory, which is then printed the same way. Nothing is unpickled from a file.
"""

import argparse
import importlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Entry:
    """One tensor. scheme: how it is quantised, or "float"; elements: what it stands for; stored_bytes: what it takes."""

    name: str
    scheme: str
    shape: tuple[int, ...]
    dtype: str
    elements: int
    stored_bytes: int
    quantized: bool = False
    weight: bool = False


@dataclass
class Inventory:
    """What a target holds. notes: lines printed after the summary; total_bytes: the file's size, or the tensors' sum."""

    title: str
    total_bytes: int
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def coverage(self) -> tuple[int, int]:
        """(weight elements held as integers, all weight elements)."""
        weights = [entry for entry in self.entries if entry.weight]
        return sum(e.elements for e in weights if e.quantized), sum(e.elements for e in weights)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the inspect command."""
    parser.add_argument(
        "target",
        help="a .safetensors file (from torchqat.save, or any other), a TorchScript or state_dict .pt file, or an "
        "importable model, package.module:name (an nn.Module, or a function that makes one)",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run_options(options: argparse.Namespace) -> int:
    """Print what the target holds; returns the exit status."""
    try:
        inventory = inspect_target(options.target)
    except (OSError, ValueError, TypeError, ImportError) as error:
        print(f"torchqat inspect: {error}", file=sys.stderr)
        return 2
    print(as_json(inventory) if options.json else as_text(inventory))
    return 0


def inspect_target(target: str) -> Inventory:
    """Read a file or an importable model.

    Raises:
        FileNotFoundError: neither a file nor of the form package.module:name.
        ValueError: a damaged or unknown file, or one of a newer format version.
        ImportError, TypeError: an importable name that is missing or is no model.
    """
    path = Path(target)
    if path.is_file():
        if path.suffix == ".safetensors":
            return _safetensors(path)
        return _torch_file(path)
    if ":" in target and not path.exists():
        return of_model(_imported(target), target)
    raise FileNotFoundError(f"target must be a file or package.module:name, got {target!r}")


def _block_text(block_size: Sequence[int]) -> str:
    if not block_size:
        return "per tensor"
    if block_size[0] == 1 and all(block == -1 for block in block_size[1:]):
        return "per channel"
    if list(block_size[:1]) == [1] and block_size[1] > 0 and all(block in (-1, 1) for block in block_size[2:]):
        return f"groups of {block_size[1]}"
    return "blocks of " + "x".join("all" if block == -1 else str(block) for block in block_size)


def _activation_text(activation: dict | None) -> str:
    if activation is None:
        return "float activations"
    if activation.get("format"):
        grid = activation["format"]
    else:
        low, high = activation["quant_min"], activation["quant_max"]
        grid = f"{'int' if low < 0 else 'uint'}{(high - low).bit_length()}"
    where = {"tensor": "per tensor", "last": "per token", "sample": "per sample"}.get(
        activation["granularity"], activation["granularity"]
    )
    return f"{grid} activations {where}, {'static' if activation['static'] else 'dynamic'}"


def _scheme_text(config: dict) -> str:
    """A deployed layer's config in words: "int4 per channel, uint8 activations per tensor, static"."""
    kind = "int" if config.get("signed", config["quant_min"] < 0) else "uint"
    weight = f"{kind}{config['bits']} {_block_text(config['block_size'])}"
    return f"{weight}, {_activation_text(config.get('activation'))}"


def _safetensors(path: Path) -> Inventory:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}
            stored = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or no safetensors file ({error})") from error
    if metadata.get("format") != "torchqat":
        inventory = Inventory(f"{path}: safetensors, not written by torchqat.save", path.stat().st_size)
        inventory.entries = [_stored_entry(name, shape, dtype) for name, (shape, dtype) in stored.items()]
        return inventory

    from torchqat.checkpoint import read_description

    description = read_description(path)
    inventory = Inventory(
        f"{path}: torchqat model, format version {metadata['format_version']}", path.stat().st_size
    )
    modules = description["modules"]
    for name, (shape, dtype) in stored.items():
        owner, _, leaf = name.rpartition(".")
        config = modules.get(owner)
        if config is None or leaf != "codes":
            inventory.entries.append(_stored_entry(name, shape, dtype, owner in modules))
            continue
        weight_shape = tuple(config["weight_shape"])
        inventory.entries.append(
            Entry(
                name, _scheme_text(config), weight_shape, f"{config['file_bits']}-bit codes", prod(weight_shape),
                _stored_bytes(shape, dtype), quantized=True, weight=True,
            )
        )  # fmt: skip
    for alias, original in description["aliases"].items():
        inventory.notes.append(f"{alias} holds the same values as {original}, stored once")
    for alias, original in description["shared_modules"].items():
        inventory.notes.append(f"{alias} is the same layer as {original}")
    kinds = Counter(_scheme_text(config) for config in modules.values())
    inventory.notes += [f"{count} layer(s): {text}" for text, count in kinds.most_common()]
    return inventory


_DTYPE_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


def _stored_bytes(shape: tuple[int, ...], dtype: str) -> int:
    return prod(shape) * _DTYPE_BYTES.get(dtype, 1)


def _stored_entry(name: str, shape: tuple[int, ...], dtype: str, belongs: bool = False) -> Entry:
    """belongs: scale, zero point or bias of a quantised layer, and not a weight of its own."""
    weight = dtype in ("F64", "F32", "F16", "BF16") and len(shape) > 1 and not belongs
    scheme = "of a quantised layer" if belongs else "float" if dtype.startswith(("F", "B")) else ""
    return Entry(name, scheme, shape, dtype.lower(), prod(shape), _stored_bytes(shape, dtype), weight=weight)


def _tensor_entry(name: str, tensor: torch.Tensor) -> Entry:
    floating = tensor.is_floating_point()
    return Entry(
        name, "float" if floating else "", tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.numel(),
        tensor.numel() * tensor.element_size(), weight=floating and tensor.dim() > 1,
    )  # fmt: skip


def _torch_file(path: Path) -> Inventory:
    """A TorchScript file, or a state_dict written by torch.save."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)")
            script = torch.jit.load(str(path), map_location="cpu")
    except RuntimeError:
        return _state_dict_file(path)
    return _script(path, script)


def _script(path: Path, script: torch.jit.ScriptModule) -> Inventory:
    """Frozen files hold their tensors as constants of the graph, so both are looked at."""
    inventory = Inventory(f"{path}: TorchScript", path.stat().st_size)
    tensors = dict(script.state_dict())
    graph = script.inlined_graph
    for number, node in enumerate(graph.findAllNodes("prim::Constant", True)):
        if node.hasAttribute("value") and node.kindOf("value") == "t":
            tensors[f"constant {number}"] = node.t("value")
    for name, tensor in tensors.items():
        if name.startswith("constant") and tensor.numel() < 2:
            continue
        entry = _tensor_entry(name, tensor)
        shape = _packed_shape(tensor)
        if shape is not None:
            entry = Entry(name, "packed integer weight", shape, entry.dtype, prod(shape), entry.stored_bytes, True, True)
        inventory.entries.append(entry)
    kinds = Counter(node.kind() for node in _nodes(graph))
    inventory.notes = [f"{count} call(s) of {kind}" for kind, count in sorted(kinds.items()) if kind.startswith("torchqat::")]
    left = sum(count for kind, count in kinds.items() if kind.startswith("aten::"))
    inventory.notes.append(f"{left} call(s) of aten operators")
    return inventory


_UNPACK = ("conv_int8_unpack", "linear_int8_unpack", "linear_grouped_unpack", "embedding_unpack")


def _packed_shape(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The shape of the weight in a packed buffer; None for any other tensor (the ops refuse what is not theirs)."""
    if tensor.dtype != torch.uint8 or tensor.dim() != 1:
        return None
    for name in _UNPACK:
        try:
            return tuple(getattr(torch.ops.torchqat, name)(tensor).shape)
        except (RuntimeError, ValueError, TypeError):
            continue
    return None


def _nodes(block):
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _state_dict_file(path: Path) -> Inventory:
    import pickle

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{path} is neither TorchScript nor a state_dict that loads without pickled code ({first})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; expected a state_dict")
    inventory = Inventory(f"{path}: state_dict", path.stat().st_size)
    inventory.entries = [_tensor_entry(str(k), v) for k, v in content.items() if isinstance(v, torch.Tensor)]
    return inventory


def _imported(target: str) -> nn.Module:
    module_name, _, attribute = target.partition(":")
    sys.path.insert(0, "")  # a module of the working directory, as with python -m
    try:
        found = importlib.import_module(module_name)
    finally:
        sys.path.remove("")
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ImportError(f"module {module_name} has no {attribute!r}")
        found = getattr(found, part)
    model = found() if not isinstance(found, nn.Module) and callable(found) else found
    if not isinstance(model, nn.Module):
        raise TypeError(f"{target} must be an nn.Module or make one, got {type(model).__name__}")
    return model


def of_model(model: nn.Module, title: str) -> Inventory:
    """The inventory of a float, prepared or converted model."""
    from torchqat.coverage import coverage
    from torchqat.nn.qat._layer import QatLayer
    from torchqat.nn.quantized._layer import QuantizedLayer

    inventory = Inventory(f"{title}: {type(model).__name__}", 0)
    owners: dict[str, str] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, QuantizedLayer):
            described = module.description()
            scheme, codes = _scheme_text(described.config), described.tensors["codes"]
            bits = described.config["bits"]
            inventory.entries.append(
                Entry(
                    f"{prefix}weight", scheme, tuple(codes.shape), f"{bits}-bit codes", codes.numel(),
                    codes.numel() * bits // 8, True, True,
                )
            )  # fmt: skip
            owners.update({f"{prefix}packed_weight": "", f"{prefix}codes": ""})
        elif isinstance(module, QatLayer) and module.weight_fake_quant is not None:
            owners[f"{prefix}weight"] = f"trains for {module.weight_fake_quant.spec().dtype}"
    for name, tensor in model.state_dict().items():
        if owners.get(name) == "" or not isinstance(tensor, torch.Tensor):
            continue
        entry = _tensor_entry(name, tensor)
        if name in owners:
            entry = Entry(name, owners[name], entry.shape, entry.dtype, entry.elements, entry.stored_bytes, True, True)
        inventory.entries.append(entry)
    inventory.total_bytes = sum(entry.stored_bytes for entry in inventory.entries)
    inventory.notes = ["", *str(coverage(model)).splitlines()]
    return inventory


def as_json(inventory: Inventory) -> str:
    """The inventory as JSON, with the coverage in elements."""
    quantized, weights = inventory.coverage()
    return json.dumps(
        {
            "title": inventory.title,
            "bytes": inventory.total_bytes,
            "weight_elements": weights,
            "quantized_weight_elements": quantized,
            "tensors": [{**vars(entry), "shape": list(entry.shape)} for entry in inventory.entries],
            "notes": inventory.notes,
        },
        indent=2,
    )


def as_text(inventory: Inventory) -> str:
    """The inventory as a table with a summary."""
    rows = [("tensor", "shape", "stored as", "bytes", "scheme")]
    rows += [(e.name, _shape_text(e.shape), e.dtype, f"{e.stored_bytes:,}", e.scheme) for e in inventory.entries]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [inventory.title, ""]
    for row in rows:
        cells = [cell.rjust(w) if index == 3 else cell.ljust(w) for index, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    quantized, weights = inventory.coverage()
    lines += ["", f"size: {inventory.total_bytes:,} bytes"]
    if weights:
        lines.append(f"coverage: {100 * quantized / weights:.1f}% of {weights:,} weights are integers or train for them")
    return "\n".join(lines + inventory.notes)


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"
