"""save and load: converted models as safetensors files, written atomically, refused when they are not what they should be.

A file holds canonical codes as a stream of bits, not this machine's packing, and each shared tensor once. Nothing in it
is ever unpickled.
"""

import copy
import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from torchqat.files import replacing
from torchqat.mapping import BARE_WEIGHTS, DEPLOYED_LAYERS, FLOAT_OF_DEPLOYED, SPLIT, stands_for
from torchqat.nn.qat._layer import QatLayer
from torchqat.nn.quantized._form import QuantizedForm
from torchqat.nn.quantized._layer import Description, QuantizedLayer
from torchqat.nn.bare_weight import parameter_of, with_held
from torchqat.nn.norm_act import NormActivation, without_norms
from torchqat.nn.quantized.sequential import run_in_rows
from torchqat.nn.split import split_modules
from torchqat.nn.transformer import leave_fused_paths
from torchqat.rewrite import Refused, fill_places

FORMAT_VERSION = 1
# What convert leaves an nn.Identity for: folded into the layer before it.
_REPLACED_BY_IDENTITY = (nn.modules.batchnorm._BatchNorm, nn.ReLU, nn.ReLU6, nn.Hardtanh)
_FILE_BITS = (1, 2, 3, 4, 8)


def save(model: nn.Module, path) -> None:
    """Write a converted model; a crash or a full disk leaves an older file at path as it was.

    Raises:
        TypeError: model is no nn.Module.
        ValueError: the model is not converted, or its state has what a safetensors file cannot hold.
        OSError: the file cannot be written.

    Example:
        >>> import os, tempfile, torch, torchqat
        >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> model = torchqat.convert(torchqat.prepare_qat(make(), torchqat.QConfig.int8_dynamic()))
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> torchqat.save(model, path)
        >>> x = torch.randn(3, 4)
        >>> torch.equal(torchqat.load(path, make())(x), model(x))
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"torchqat.save: model must be a torch.nn.Module, got {type(model).__name__}")
    if any(isinstance(m, QatLayer) for m in model.modules()):
        raise ValueError(
            "torchqat.save: model has QAT layers; convert it first (to go on training later, torch.save its state_dict)"
        )
    layers = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, QuantizedLayer)}
    if not layers:
        raise ValueError("torchqat.save: model has no quantised layer; prepare and convert it first")
    first_name, tensors, modules, shared = {}, {}, {}, {}
    for name, layer in layers.items():
        if id(layer) in first_name:
            shared[name] = first_name[id(layer)]
            continue
        first_name[id(layer)] = name
        modules[name], own = _to_file(layer.description())
        tensors.update({_join(name, key): value for key, value in own.items()})
    forms = {name: m for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, QuantizedForm)}
    for name, form in forms.items():
        tensors.update({_join(name, key): value for key, value in form.description().tensors.items()})
    prefixes = tuple(_join(name, "") for name in (*layers, *forms))
    for key, value in model.state_dict().items():
        if key.startswith(prefixes):
            continue
        if not isinstance(value, Tensor):
            raise ValueError(f"torchqat.save: state {key!r} is a {type(value).__name__}; only tensors can be saved")
        tensors[key] = value.detach()
    stored, aliases = _once(tensors)
    description = {
        "modules": modules,
        "shared_modules": shared,
        "forms": {name: form.description().config for name, form in forms.items()},
        "identities": [n for n, m in model.named_modules(remove_duplicate=False) if type(m) is nn.Identity],
        "norm_activations": [n for n, m in model.named_modules(remove_duplicate=False) if type(m) is NormActivation],
        "aliases": aliases,
    }
    metadata = {"format": "torchqat", "format_version": str(FORMAT_VERSION), "torchqat": json.dumps(description)}
    _write(stored, metadata, Path(path))


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _to_file(described: Description) -> tuple[dict, dict]:
    codes = described.tensors["codes"]
    bits = next(b for b in _FILE_BITS if b >= described.config["bits"])
    config = {
        **described.config,
        "weight_shape": list(codes.shape),
        "signed": codes.dtype == torch.int8,
        "file_bits": bits,
    }
    if bits == 1:
        codes = (codes > 0).byte()  # -1 and 1 as one bit
    return config, {**described.tensors, "codes": torch.ops.torchqat.pack_bits(codes.cpu(), bits)}


def _once(tensors: dict) -> tuple[dict, dict]:
    """Tensors to store, and aliases of those that hold the same thing as one of them."""
    stored, aliases, known = {}, {}, {}
    for key, value in tensors.items():
        value = value.cpu().contiguous()
        digest = (
            hashlib.blake2b(value.reshape(-1).view(torch.uint8).numpy(), digest_size=16).digest()
            if value.numel()
            else b""
        )
        identity = (value.dtype, tuple(value.shape), digest)
        if identity in known and value.numel() > 1:
            aliases[key] = known[identity]
        else:
            known[identity] = key
            # Its own memory: safetensors refuses tensors that share some.
            stored[key] = value.clone() if value.untyped_storage().nbytes() != value.nbytes else value
    return stored, aliases


def _write(tensors: dict, metadata: dict, path: Path) -> None:
    with replacing(path, "torchqat.save") as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"torchqat.save: cannot write {path}: {error}") from error


def read_description(path) -> dict:
    """What a file says about itself: modules (configs by name), aliases, and the shape and dtype of every tensor.

    Raises:
        FileNotFoundError; ValueError: truncated, foreign or newer file.
    """
    with _opened(path) as file:
        return {**_description(path, file), "tensors": {k: list(file.get_slice(k).get_shape()) for k in file.keys()}}


def _opened(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f"torchqat.load: no such file: {path}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"torchqat.load: {path} is truncated or no safetensors file ({error})") from error


def _description(path, file) -> dict:
    metadata = file.metadata() or {}
    if metadata.get("format") != "torchqat" or "torchqat" not in metadata:
        raise ValueError(f"torchqat.load: {path} was not written by torchqat.save")
    version = metadata.get("format_version", "")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise ValueError(
            f"torchqat.load: {path} has format version {version or 'unknown'}, this torchqat reads up to {FORMAT_VERSION}; update it"
        )
    try:
        return json.loads(metadata["torchqat"])
    except json.JSONDecodeError as error:
        raise ValueError(f"torchqat.load: the description in {path} is damaged ({error})") from error


def load(path, float_model: nn.Module) -> nn.Module:
    """The converted model saved at path, built on the structure of a float model (whose weights do not matter).

    Args:
        path: written by torchqat.save.
        float_model: the model that was given to prepare_qat, or one built the same way; left as it is.

    Returns:
        the model in eval mode, equal to the one saved.

    Raises:
        FileNotFoundError, TypeError.
        ValueError: truncated, foreign or newer file, or one that does not fit float_model.
    """
    if not isinstance(float_model, nn.Module):
        raise TypeError(f"torchqat.load: float_model must be a torch.nn.Module, got {type(float_model).__name__}")
    with _opened(path) as file:
        description = _description(path, file)
        float_model = split_modules(float_model, list(description["modules"]), SPLIT)
        bare = {parameter_of(n): c["summed_axis"] for n, c in description["modules"].items() if c["layer"] in BARE_WEIGHTS}
        float_model = with_held(float_model, bare)
        try:
            float_model = without_norms(float_model, description.get("norm_activations", []))
        except (AttributeError, ValueError) as error:
            raise ValueError(f"torchqat.load: {path} has a folded BatchNorm that float_model lacks: {error}") from None
        aliases = description["aliases"]
        keys = set(file.keys())

        def tensor(key):
            stored = aliases.get(key, key)
            if stored not in keys:
                raise ValueError(f"torchqat.load: {path} lacks tensor {key!r}")
            return file.get_tensor(stored)

        owned = {}
        for key in [*keys, *aliases]:
            for name in (*description["modules"], *description.get("forms", {})):
                if key.startswith(_join(name, "")) and "." not in key[len(_join(name, "")) :]:
                    owned[key] = name
        new = {}
        for name, config in description["modules"].items():
            old = _float_layer(path, float_model, name, config)
            own = {key[len(_join(name, "")) :]: tensor(key) for key, owner in owned.items() if owner == name}
            new[id(old)] = _from_file(path, name, config, own)
        forms = {}
        for name, config in description.get("forms", {}).items():
            own = {key[len(_join(name, "")) :]: tensor(key) for key, owner in owned.items() if owner == name}
            forms[name] = _form_from_file(path, name, config, own)
            if config["place"][0] == "module":
                new[id(_float_module(path, float_model, name, config))] = forms[name]
        for name in description["identities"]:
            old = _submodule(path, float_model, name)
            if isinstance(old, _REPLACED_BY_IDENTITY):
                new[id(old)] = nn.Identity()
        model = _with_layers(float_model, new)
        try:
            model = fill_places(model, forms)
        except (Refused, AttributeError) as error:
            raise ValueError(f"torchqat.load: {path} holds integer forms that do not fit float_model: {error}") from None
        rest = {key: tensor(key) for key in [*keys, *aliases] if key not in owned}
    _load_rest(path, model, rest)
    return run_in_rows(model.eval())


def _submodule(path, model, name) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"torchqat.load: {path} has a module {name!r} that float_model lacks") from None


def _float_layer(path, model, name, config) -> nn.Module:
    layer = _submodule(path, model, name)
    if config["layer"] not in FLOAT_OF_DEPLOYED:
        raise ValueError(f"torchqat.load: {path} has an unknown kind of layer, {config['layer']!r}, at {name!r}")
    expected = config["weight_shape"][::-1] if config.get("transposed") else config["weight_shape"]
    if not stands_for(config, layer) or list(layer.weight.shape) != expected:
        shape = list(layer.weight.shape) if isinstance(getattr(layer, "weight", None), Tensor) else "none"
        raise ValueError(
            f"torchqat.load: {path} has at {name!r} a {config['layer']} with weight {expected}, float_model has a "
            f"{type(layer).__name__} with weight {shape}"
        )
    return layer


def _float_module(path, model, name, config) -> nn.Module:
    module = _submodule(path, model, name)
    if not stands_for(config, module):
        raise ValueError(
            f"torchqat.load: {path} has at {name!r} a {config['layer']}, float_model has a {type(module).__name__}"
        )
    return module


def _form_from_file(path, name, config, tensors) -> QuantizedForm:
    try:
        return DEPLOYED_LAYERS[config["layer"]](Description(config, tensors)).eval()
    except (KeyError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ValueError(f"torchqat.load: module {name!r} in {path} is damaged ({error!r})") from error


def _from_file(path, name, config, tensors) -> QuantizedLayer:
    shape = config["weight_shape"]
    try:
        numel = 1
        for size in shape:
            numel *= size
        bits = config["file_bits"]
        codes = torch.ops.torchqat.unpack_bits(tensors["codes"], bits, numel, config["signed"] and bits > 1).reshape(shape)
        if bits == 1:
            codes = codes.to(torch.int8) * 2 - 1
        return DEPLOYED_LAYERS[config["layer"]](Description(config, {**tensors, "codes": codes})).eval()
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"torchqat.load: module {name!r} in {path} is damaged ({error})") from error


def _with_layers(float_model, new) -> nn.Module:
    # Layers that are replaced are mapped in the memo, so that their float weights are not copied.
    model = copy.deepcopy(float_model, dict(new))
    leave_fused_paths(model, (QuantizedLayer,))
    return model


def _load_rest(path, model, rest: dict) -> None:
    quantized = tuple(
        _join(n, "") for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, (QuantizedLayer, QuantizedForm))
    )
    wanted = {key: value for key, value in model.state_dict(keep_vars=True).items() if not key.startswith(quantized)}
    if missing := sorted(wanted.keys() - rest.keys()):
        raise ValueError(f"torchqat.load: {path} lacks {', '.join(missing[:5])}, which float_model has")
    if extra := sorted(rest.keys() - wanted.keys()):
        raise ValueError(f"torchqat.load: {path} has {', '.join(extra[:5])}, which float_model lacks")
    for key, value in rest.items():
        if wanted[key].shape != value.shape:
            raise ValueError(
                f"torchqat.load: {key} has shape {list(value.shape)} in {path} and {list(wanted[key].shape)} in float_model"
            )
    model.load_state_dict(rest, strict=False, assign=any(v.is_meta for v in wanted.values()))
