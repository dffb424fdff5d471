"""prepare_qat: which modules are quantised and how (overrides), and their replacement in the model."""

import contextlib
import copy
import difflib
import fnmatch

from torch import nn

from torchqat.computed_weights import float_type, settle, settled
from torchqat.config import LEARNED, QConfig, QuantSpec
from torchqat.fake_quantize import FakeQuantize
from torchqat.flow import is_static
from torchqat.float_state import accept_float_names
from torchqat.folding import find_conv_bn, find_relus, observe_calls
from torchqat.forms import insert_forms
from torchqat.mapping import CONV_BN_TO_QAT, FLOAT_TO_QAT, INDEX_INPUT, SPLIT, qat_class
from torchqat.nn.bare_weight import FloatWeight, hold, let_go, parameter_of
from torchqat.nn.norm_act import norm_of, without_norm
from torchqat.nn.qat._form import QatForm
from torchqat.nn.qat._layer import QatLayer
from torchqat.nn.qat.output import Output, check_output_spec
from torchqat.nn.qat.relu import stand_in_for
from torchqat.nn.quantized._layer import QuantizedLayer
from torchqat.nn.transformer import leave_fused_paths
from torchqat.rewrite import Refused, append_outputs
from torchqat.wrappers import unwrapped

_GLOB = set("*?[")


def prepare_qat(
    model: nn.Module,
    qconfig: QConfig | None = None,
    *,
    overrides: dict | None = None,
    example_inputs=None,
    output: QuantSpec | None = None,
    inplace: bool = False,
) -> nn.Module:
    """A model that trains with quantisation in place of its Linear, convolution and embedding layers.

    Parameters stay the same objects when `inplace=True`, so that an optimiser made before still works. Modules and
    parameters used in several places stay shared. A BatchNorm that certainly follows a convolution is folded into it.

    Args:
        qconfig: the scheme; QConfig.int8() by default.
        overrides: {module name, glob over names, or module type: QConfig, or None to leave in float}. A name or type also
            covers what is inside that module; the most specific wins: a module's own name, then names and globs by the
            number of characters that are not wildcards, then types, the innermost first.
        example_inputs: a tuple of arguments, a dict of keywords, or one tensor. The model is run on it once, in eval mode, so that BatchNorms can be
            folded in models that torch.fx cannot trace, and modules that are never called stay in float. 3-D parameters that a module
            of your own multiplies (mixtures of experts: F.linear, matmul, bmm, einsum, grouped_mm) are then quantised too, weight
            only: `w` moves into a child `w_quant`, and overrides may name it. Where torch.fx can trace the model, adds, average
            pooling and element-wise functions that lie between integer layers get integer forms (nn.qat.Add, AvgPool, Activation),
            which train as they are deployed, where qconfig's activations have a static or learned scale. An override of a form's class
            gives all of that class their grids (8 bits for the residual sums of a 4-bit network); None for such a class, for a module
            type or for a name keeps them in float. A module that calls such a function itself becomes a torch.fx.GraphModule with the same children and names: use what
            is returned.
        output: an integer QuantSpec with one static scale for the model's own output, so that a deployed graph ends in integers. The
            model then returns values on that grid, prepared and converted alike; `nn.quantized.Output` says how to get the codes. A
            model that is not an nn.Sequential becomes a torch.fx.GraphModule with the same children and names.
        inplace: change the given model instead of a copy; with output, use what is returned.

    Raises:
        TypeError: model is no nn.Module, qconfig no QConfig, output no QuantSpec.
        ValueError: an override matches nothing; nothing would be quantised; the model is prepared or converted already,
            or wrapped (DistributedDataParallel, torch.compile); the forward of a model with output cannot be traced.

    Example:
        >>> import torch, torchqat
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> prepared = torchqat.prepare_qat(model, torchqat.QConfig.int8(), overrides={"2": None})
        >>> [type(m).__module__.split(".")[0] for m in prepared]
        ['torchqat', 'torch', 'torch']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"prepare_qat: model must be a torch.nn.Module, got {type(model).__name__}")
    qconfig = QConfig.int8() if qconfig is None else qconfig
    if not isinstance(qconfig, QConfig):
        raise TypeError(f"prepare_qat: qconfig must be a QConfig, got {type(qconfig).__name__}")
    if output is not None:
        check_output_spec(output)
    if any(isinstance(m, (QatLayer, QatForm)) for m in model.modules()):
        raise ValueError("prepare_qat: model is already prepared")
    if any(isinstance(m, QuantizedLayer) for m in model.modules()):
        raise ValueError("prepare_qat: model is converted; prepare the float model")
    if unwrapped(model) is not model:
        raise ValueError(
            f"prepare_qat: model is wrapped in {type(model).__name__}; prepare what is inside, and wrap the prepared model"
        )
    if not inplace:
        for module in model.modules():
            settle(module)  # a weight that a hook computed with gradients could not be copied
        model = copy.deepcopy(model)
    called = pairs = None
    held = {}
    if example_inputs is not None:
        called, pairs, axes = observe_calls(model, example_inputs)
        held = hold(model, axes)
        called |= {id(weight) for weight in held.values()}
    try:
        chosen = resolve(model, qconfig, overrides or {})
        if called is not None:
            chosen = {key: config if key in called else None for key, config in chosen.items()}
        if not any(config is not None for config in chosen.values()):
            raise ValueError(
                "prepare_qat: nothing in the model would be quantised; it has no "
                f"{', '.join(t.__name__ for t in FLOAT_TO_QAT)} that is called and that overrides do not leave in float"
            )
        pairs = find_conv_bn(model) if pairs is None else pairs
        names = {id(m): name for name, m in model.named_modules()}
        new = _replacements(model, chosen, pairs)
        folded = [(names[id(conv)], names[id(bn)]) for conv, bn in pairs if id(bn) in new]
    except BaseException:
        let_go(model, held)
        raise
    let_go(model, [name for name, weight in held.items() if id(weight) not in new])
    model = swap_modules(model, new)
    if example_inputs is not None and qconfig.integer:
        model = insert_forms(model, lambda *form: _form_spec(qconfig, overrides or {}, *form))
    if output is not None:
        model = _with_output(model, output)
    accept_float_names(model, folded)
    return model


def _form_spec(qconfig: QConfig, overrides: dict, form: type, name: str, module: nn.Module | None) -> QuantSpec | None:
    """The grids of a form, or None where it stays in float."""
    if _left_out(overrides, form, name, module):
        return None
    spec = overrides.get(form, qconfig).activation
    fits = spec is not None and (spec.estimator == "ste" or spec.estimator in LEARNED) and is_static(FakeQuantize.from_spec(spec))
    if not fits and form in overrides:
        raise ValueError(
            f"prepare_qat: overrides[{form.__name__}] must have activations on an integer grid of at most 8 bits with one static or "
            f"learned scale, got {spec}"
        )
    return spec if fits else None


def _left_out(overrides: dict, form: type, name: str, module: nn.Module | None) -> bool:
    """Whether an override of None names the form's class, the module it would replace, or what is around it."""
    for key, value in overrides.items():
        if value is not None:
            continue
        if isinstance(key, type):
            if key is form or module is not None and isinstance(module, key):
                return True
        elif name == key or name.startswith(f"{key}.") or fnmatch.fnmatchcase(name, key):
            return True
    return False


def _with_output(model: nn.Module, spec: QuantSpec) -> nn.Module:
    tensor = next((t for t in (*model.parameters(), *model.buffers())), None)

    def make(i: int) -> Output:
        form = Output(spec, None if tensor is None else tensor.device, model.training)
        form.place = ("output", i)
        return form

    try:
        # A layer cannot be given a child and keep computing as it does; around it is room.
        return append_outputs(nn.Sequential(model).train(model.training) if isinstance(model, QatLayer) else model, make)
    except Refused as error:
        raise ValueError(
            f"prepare_qat: output cannot be put behind {type(model).__name__}: {error}; wrap the model, "
            "torch.nn.Sequential(model)"
        ) from error


def resolve(model: nn.Module, qconfig: QConfig, overrides: dict) -> dict[int, QConfig | None]:
    """The QConfig of every module that has a QAT form, by id(module); None leaves it in float."""
    for key, value in overrides.items():
        if not isinstance(key, str) and not (isinstance(key, type) and issubclass(key, nn.Module)):
            raise TypeError(f"prepare_qat: overrides must map a name, glob or module type, got {key!r}")
        if value is not None and not isinstance(value, QConfig):
            raise TypeError(f"prepare_qat: overrides[{key!r}] must be a QConfig or None, got {type(value).__name__}")
    named = [
        (parameter_of(name) if type(m) is FloatWeight else name, m) for name, m in model.named_modules(remove_duplicate=False)
    ]
    by_name = dict(named)
    chosen, best, used = {}, {}, set()
    for name, module in named:
        if qat_class(module) is None:
            continue
        chosen.setdefault(id(module), qconfig)
        for key, value in overrides.items():
            rank = _rank(key, name, by_name)
            if rank is None:
                continue
            used.add(key)
            if rank > best.get(id(module), (0,)):
                best[id(module)] = rank
                chosen[id(module)] = value
    for key in overrides:
        if key not in used:
            _unmatched(key, overrides[key], by_name)
    for module in by_name.values():
        config = chosen.get(id(module))
        if config is None:
            continue
        if type(module) is FloatWeight and config.weight is None:
            chosen[id(module)] = None  # nothing else of it could be rounded
        if float_type(module) not in INDEX_INPUT:
            continue
        # An embedding has no input to round and no float grid; by name or type one may still be asked for, and refused.
        if config.weight is None or (config.weight.is_float and id(module) not in best):
            chosen[id(module)] = None
    return chosen


def _rank(key, name: str, by_name: dict) -> tuple | None:
    """How specifically an override's key names a module; None when it does not."""
    path = name.split(".") if name else []
    ancestors = [".".join(path[:i]) for i in range(len(path) + 1)]
    if isinstance(key, type):
        inner = [i for i, a in enumerate(ancestors) if isinstance(by_name[a], key)]
        return (1, inner[-1]) if inner else None
    if key == name:
        return (3, 0)
    if any(c in key for c in _GLOB):
        return (2, len([c for c in key if c not in _GLOB])) if fnmatch.fnmatchcase(name, key) else None
    return (2, len(key)) if key in ancestors else None


def _unmatched(key, value, by_name: dict) -> None:
    if isinstance(key, type):
        if issubclass(key, QatForm) or value is None and any(isinstance(m, key) for m in by_name.values()):
            return
        raise ValueError(f"prepare_qat: overrides: no quantisable module of type {key.__name__} in the model")
    whole = next((n for n, m in by_name.items() if type(m) in SPLIT and key.startswith(f"{n}.")), None)
    if whole is not None:
        raise ValueError(f"prepare_qat: overrides: {key!r} is part of {type(by_name[whole]).__name__} {whole!r}; name that")
    known = key in by_name or fnmatch.filter(by_name, key)
    if known and value is None:
        return
    if known:
        raise ValueError(f"prepare_qat: overrides: {key!r} matches no module with a quantised form")
    near = difflib.get_close_matches(key, by_name, 3, 0.5)
    hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"prepare_qat: overrides: {key!r} matches no module{hint}")


def _replacements(model: nn.Module, chosen: dict, pairs: list) -> dict[int, nn.Module]:
    """New modules by id of what they replace."""
    names = {id(m): name for name, m in model.named_modules()}
    new = {}
    relus = find_relus(model, pairs)
    for conv, bn in pairs:
        config = chosen.get(id(conv))
        if config is None or config.weight is None:
            continue
        with settled(conv):
            new[id(conv)] = _named(names[id(conv)], CONV_BN_TO_QAT[type(conv)][1].from_float, conv, norm_of(bn), config)
        stand_in = None
        if (relu := relus.get(id(bn))) is not None:
            new[id(relu)] = stand_in = stand_in_for(relu)
            new[id(conv)].absorb(stand_in)
        new[id(bn)] = without_norm(bn, stand_in)
    for module in list(model.modules()):
        config = chosen.get(id(module))
        if config is not None and id(module) not in new:
            with settled(module):
                new[id(module)] = _named(names[id(module)], qat_class(module).from_float, module, config)
    return new


def _named(name, build, *args):
    try:
        return build(*args)
    except ValueError as error:
        raise ValueError(f"prepare_qat: module {name!r}: {error}") from error


def swap_modules(model: nn.Module, replacements: dict[int, nn.Module]) -> nn.Module:
    """The model with modules replaced, by id of the old one, at every place where they are registered."""
    root = replacements.get(id(model), model)
    for parent in list(root.modules()):
        for key, child in list(parent._modules.items()):
            if child is not None and id(child) in replacements:
                parent._modules[key] = replacements[id(child)]
    leave_fused_paths(root, (QatLayer, QuantizedLayer))
    return root


def freeze_observers(model: nn.Module) -> nn.Module:
    """Static ranges stop moving, in training mode too. Returns the model."""
    return _set_on_quantizers(model, "freeze_observers", "observer_enabled", False)


def unfreeze_observers(model: nn.Module) -> nn.Module:
    """Undo freeze_observers. Returns the model."""
    return _set_on_quantizers(model, "unfreeze_observers", "observer_enabled", True)


def set_fake_quant(model: nn.Module, enabled: bool) -> nn.Module:
    """Switch quantisation on or off; off, the model computes in float and static ranges still watch in training mode."""
    if not isinstance(enabled, bool):
        raise TypeError(f"set_fake_quant: enabled must be a bool, got {type(enabled).__name__}")
    return _set_on_quantizers(model, "set_fake_quant", "enabled", enabled)


def _set_on_quantizers(model, function, attribute, value):
    found = [m for m in model.modules() if isinstance(m, FakeQuantize)]
    if not found:
        raise ValueError(f"{function}: model has no FakeQuantize; prepare it with prepare_qat first")
    for module in found:
        setattr(module, attribute, value)
    return model


@contextlib.contextmanager
def reuse_weights(model: nn.Module):
    """Within this scope the weights of a prepared model are quantised once (scales, and codes of Linear) for all forwards.

    For gradient accumulation and for weights that are frozen: the weights must not change inside, by an optimiser or in
    place; a change is seen by the first forward after the scope. Nothing is reused
    outside such a scope, because no version counter tells reliably whether a weight has changed.

    Raises:
        ValueError: model has no quantised weight, or is in such a scope already.

    Example:
        >>> import torch, torchqat
        >>> model = torchqat.prepare_qat(torch.nn.Sequential(torch.nn.Linear(4, 2)), torchqat.QConfig.int8_dynamic())
        >>> with torchqat.reuse_weights(model):
        ...     for batch in torch.randn(3, 8, 4):
        ...         model(batch).sum().backward()
    """
    layers = [m for m in model.modules() if isinstance(m, QatLayer) and m.weight_fake_quant is not None]
    if not layers:
        raise ValueError("reuse_weights: model has no quantised weight; prepare it with prepare_qat first")
    quantizers = [m.weight_fake_quant for m in layers if m.quantizes_whole_weight]
    if any(m.reused is not None for m in quantizers):
        raise ValueError("reuse_weights: model is in such a scope already")
    for quantizer in quantizers:
        quantizer.reused = []
    try:
        yield model
    finally:
        for quantizer in quantizers:
            quantizer.reused = None


class _FrozenBatchNorm:
    """Mixed into a BatchNorm class: stays in eval mode whatever train() says."""

    def train(self, mode: bool = True):
        return super().train(False)


class FrozenBatchNorm1d(_FrozenBatchNorm, nn.BatchNorm1d):
    pass


class FrozenBatchNorm2d(_FrozenBatchNorm, nn.BatchNorm2d):
    pass


class FrozenBatchNorm3d(_FrozenBatchNorm, nn.BatchNorm3d):
    pass


class FrozenSyncBatchNorm(_FrozenBatchNorm, nn.SyncBatchNorm):
    pass


_FROZEN = {
    nn.BatchNorm1d: FrozenBatchNorm1d,
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.BatchNorm3d: FrozenBatchNorm3d,
    nn.SyncBatchNorm: FrozenSyncBatchNorm,
}


def freeze_batch_norm(model: nn.Module) -> nn.Module:
    """BatchNorm uses its running statistics from here on, in training mode too, folded or not. Returns the model."""
    for module in list(model.modules()):
        if hasattr(module, "bn_frozen"):
            module.bn_frozen = True
        frozen = _FROZEN.get(type(module))
        if frozen is not None and module.running_var is not None:
            module.__class__ = frozen
            module.train(False)
    return model
