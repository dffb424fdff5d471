"""prepare_qat: what is swapped, what is kept, overrides and their errors, and which BatchNorms are folded."""

import contextlib

import pytest
import torch
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec
from torchqat.nn import qat
from torchqat.nn.qat._layer import QatLayer

INT4 = QConfig.int4_weight_only()
INT8 = QConfig.int8()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return self.out(torch.relu(self.bn(self.conv(x)) + x).mean((2, 3)))


def kinds(model):
    return [type(m).__name__ for m in model.modules() if not list(m.children())]


def qat_types(model):
    return {name: type(m) for name, m in model.named_modules() if isinstance(m, QatLayer)}


def test_layers_are_swapped_and_the_original_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Conv1d(8, 8, 1), nn.Embedding(5, 4))
    prepared = torchqat.prepare_qat(model, INT8)
    assert qat_types(prepared) == {"0": qat.Linear, "2": qat.Conv1d, "3": qat.Embedding}
    assert not qat_types(model)
    assert all(a is not b for a, b in zip(model.parameters(), prepared.parameters()))


def test_inplace_keeps_parameter_objects_hooks_mode_and_dtype():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).double().eval()
    before = dict(model.named_parameters())
    seen = []
    handle = model[0].register_forward_hook(lambda m, i, o: seen.append(type(m)))
    model[0].weight.note = "kept"
    assert torchqat.prepare_qat(model, QConfig.int8_weight_only(), inplace=True) is model
    after = dict(model.named_parameters())
    assert all(after[name] is p for name, p in before.items()) and after.keys() == before.keys()
    assert not any(m.training for m in model.modules())
    assert model[0].weight.dtype == torch.float64 and model[0].weight.note == "kept"
    model(torch.randn(3, 4).double())
    assert seen == [qat.Linear]
    handle.remove()
    model(torch.randn(3, 4).double())
    assert len(seen) == 1


def test_the_root_itself():
    assert type(torchqat.prepare_qat(nn.Linear(2, 2))) is qat.Linear


def test_shared_modules_and_tied_parameters_stay_shared():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict(
        {"a": shared, "b": nn.Sequential(shared), "table": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)}
    )
    model["head"].weight = model["table"].weight
    prepared = torchqat.prepare_qat(model)
    assert prepared["a"] is prepared["b"][0] and type(prepared["a"]) is qat.Linear
    assert prepared["head"].weight is prepared["table"].weight


def test_overrides_by_name_glob_type_most_specific_wins():
    model = nn.ModuleDict(
        {"body": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "head": nn.Linear(4, 2), "conv": nn.Conv1d(1, 1, 1)}
    )
    prepared = torchqat.prepare_qat(
        model, INT8, overrides={nn.Linear: INT4, "body.*": None, "body.1": INT8, "*conv*": None}
    )
    assert set(qat_types(prepared)) == {"body.1", "head"}
    assert prepared["body"][1].qconfig() == INT8 and prepared["head"].qconfig() == INT4


def test_a_container_covers_what_is_inside():
    model = nn.Sequential(Block(), Block(), nn.Linear(2, 2))
    assert set(qat_types(torchqat.prepare_qat(model, overrides={"0": None}))) == {"1.conv", "1.out", "2"}
    assert set(qat_types(torchqat.prepare_qat(model, overrides={Block: None}))) == {"2"}
    prepared = torchqat.prepare_qat(model, overrides={Block: None, "1": INT4, "1.conv": None})
    assert set(qat_types(prepared)) == {"1.out", "2"}


@pytest.mark.parametrize(
    "error, words, overrides",
    [
        (ValueError, "'haed' matches no module; did you mean 'head'", {"haed": None}),
        (ValueError, "'x.*' matches no module", {"x.*": INT8}),
        (ValueError, "'act' matches no module with a quantised form", {"act": INT8}),
        (ValueError, "no quantisable module of type Conv2d", {nn.Conv2d: None}),
        (TypeError, r"overrides\['head'\] must be a QConfig or None, got str", {"head": "int8"}),
        (TypeError, "must map a name, glob or module type", {3: None}),
        (ValueError, "nothing in the model would be quantised", {"head": None}),
    ],
)
def test_override_errors(error, words, overrides):
    model = nn.Sequential()
    model.add_module("head", nn.Linear(2, 2))
    model.add_module("act", nn.ReLU())
    with pytest.raises(error, match="prepare_qat: .*" + words):
        torchqat.prepare_qat(model, overrides=overrides)


def test_leaving_something_unquantisable_in_float_is_no_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    torchqat.prepare_qat(model, overrides={"1": None, nn.ReLU: None})


def test_other_errors():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got list"):
        torchqat.prepare_qat([nn.Linear(2, 2)])
    with pytest.raises(TypeError, match="qconfig must be a QConfig, got str"):
        torchqat.prepare_qat(nn.Linear(2, 2), "int8")
    with pytest.raises(ValueError, match="nothing in the model would be quantised"):
        torchqat.prepare_qat(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="already prepared"):
        torchqat.prepare_qat(torchqat.prepare_qat(nn.Linear(2, 2)))


def test_schemes_that_do_not_fit_a_layer_name_it():
    groups = QuantSpec("uint8", "group:4", symmetric=False, observer="dynamic")
    with pytest.raises(
        ValueError, match="module '0': nn.qat.Conv2d: activation granularity must be tensor or token, got 'group:4'"
    ):
        torchqat.prepare_qat(nn.Sequential(nn.Conv2d(4, 4, 1)), QConfig(QuantSpec(), groups))


def test_embeddings_that_change_as_they_are_read_are_refused():
    model = nn.Sequential(nn.Embedding(4, 4, max_norm=1.0), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="module '0': nn.qat.Embedding: max_norm"):
        torchqat.prepare_qat(model)
    assert set(qat_types(torchqat.prepare_qat(model, overrides={"0": None}))) == {"1"}


def test_a_failed_inplace_prepare_leaves_the_model_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(ValueError):
        torchqat.prepare_qat(model, overrides={"nope": None}, inplace=True)
    assert not qat_types(model)


def test_subclasses_are_left_in_float():
    class Own(nn.Linear):
        pass

    assert set(qat_types(torchqat.prepare_qat(nn.Sequential(Own(2, 2), nn.Linear(2, 2))))) == {"1"}


def test_batch_norm_is_folded_in_sequentials_and_forwards():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Block())
    prepared = torchqat.prepare_qat(model)
    assert qat_types(prepared) == {"0": qat.ConvBn2d, "3.conv": qat.ConvBn2d, "3.out": qat.Linear}
    assert isinstance(prepared[1], nn.Identity) and isinstance(prepared[3].bn, nn.Identity)
    assert "3.conv.bn.running_var" in prepared.state_dict()
    assert len(list(prepared.parameters())) == len(list(model.parameters()))


class Twice(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        if self.how == "two users":
            return self.bn(y) + y
        if self.how == "between":
            return self.bn(torch.relu(y))
        if self.how == "conv twice":
            return self.bn(self.conv(y))
        if self.how == "bn twice":
            return self.bn(self.bn(y))
        if self.how == "bn first":
            return self.conv(self.bn(x))
        return self.bn(y)


@pytest.mark.parametrize("how", ["two users", "between", "conv twice", "bn twice", "bn first"])
def test_nothing_is_folded_that_is_not_certain(how):
    prepared = torchqat.prepare_qat(Twice(how))
    assert qat_types(prepared) == {"conv": qat.Conv2d} and type(prepared.bn) is nn.BatchNorm2d
    assert qat_types(torchqat.prepare_qat(Twice("plain"))) == {"conv": qat.ConvBn2d}


def test_blocks_of_an_untraceable_model_are_folded():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.stem = Block(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x):
            return self.block(self.stem(x) if x.sum() > 0 else x)

    assert qat_types(torchqat.prepare_qat(Dynamic())) == {
        "block.conv": qat.ConvBn2d,
        "block.out": qat.Linear,
        "stem.0": qat.ConvBn2d,
    }


def test_batch_norm_without_statistics_or_of_other_size_is_not_folded():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert qat_types(torchqat.prepare_qat(model)) == {"0": qat.Conv2d}


def test_mode_of_new_modules():
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval())
    assert not any(m.training for m in prepared.modules())


def test_freezing_and_switching():
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)))
    torchqat.freeze_observers(prepared)
    assert not prepared[0].activation_fake_quant.observer_enabled
    torchqat.unfreeze_observers(prepared)
    assert prepared[0].activation_fake_quant.observer_enabled
    torchqat.set_fake_quant(prepared, False)
    assert not prepared[0].weight_fake_quant.enabled
    torchqat.freeze_batch_norm(prepared)
    prepared.train()
    assert not prepared[3].training and prepared[0].bn_frozen
    for call in (torchqat.freeze_observers, lambda m: torchqat.set_fake_quant(m, True)):
        with pytest.raises(ValueError, match="no FakeQuantize"):
            call(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="enabled must be a bool"):
        torchqat.set_fake_quant(prepared, 1)


class Branching(Twice):
    """torch.fx cannot trace it."""

    def __init__(self, how):
        super().__init__(how)
        self.unused = nn.Linear(3, 3)

    def forward(self, x):
        return super().forward(x) if x.sum() < 1e9 else self.unused(x)


@pytest.mark.parametrize("how", ["plain", "two users", "between", "conv twice", "bn twice", "bn first"])
def test_example_inputs_show_what_may_be_folded(how):
    model = Branching(how)
    prepared = torchqat.prepare_qat(model, example_inputs=torch.randn(2, 4, 3, 3))
    expected = qat.ConvBn2d if how == "plain" else qat.Conv2d
    assert qat_types(prepared) == {"conv": expected} and type(prepared.unused) is nn.Linear
    assert model.training and prepared.training and not model._forward_hooks
    again = torchqat.prepare_qat(model, example_inputs=(torch.randn(2, 4, 3, 3),), inplace=True)
    assert again is model and qat_types(model) == {"conv": expected}


def test_reuse_weights():
    prepared = torchqat.prepare_qat(
        nn.Sequential(nn.Linear(4, 4), nn.Conv1d(1, 1, 1), nn.Embedding(9, 4)), QConfig.int8_weight_only()
    )
    layer, table = prepared[0], prepared[2]
    x = torch.randn(3, 4)
    with torchqat.reuse_weights(prepared):
        first = layer(x)
        scale = layer.weight_fake_quant.reused[0]
        assert torch.equal(layer(x), first) and layer.weight_fake_quant.reused[0] is scale
        assert torch.equal(table(torch.tensor([1])), table(torch.tensor([2, 1]))[1:])
        with pytest.raises(ValueError, match="in such a scope already"), torchqat.reuse_weights(prepared):
            pass
    with torch.no_grad():
        layer.weight.mul_(2)
    assert layer.weight_fake_quant.reused is None and not torch.equal(layer(x), first)
    with (
        pytest.raises(ValueError, match="reuse_weights: model has no quantised weight"),
        torchqat.reuse_weights(nn.ReLU()),
    ):
        pass


def test_gradient_accumulation_with_reused_weights_is_the_same():
    grads = []
    for reuse in (False, True):
        torch.manual_seed(0)
        prepared = torchqat.prepare_qat(
            nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), QConfig.int8_dynamic()
        )
        scope = torchqat.reuse_weights(prepared) if reuse else contextlib.nullcontext()
        with scope:
            for batch in torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)):
                prepared(batch).square().sum().backward()
        grads.append([p.grad for p in prepared.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads))


def test_embeddings_stay_float_under_a_float_grid():
    model = nn.Sequential(nn.Embedding(5, 16), nn.Linear(16, 4))
    prepared = torchqat.prepare_qat(model, QConfig.nvfp4())
    assert type(prepared[0]) is nn.Embedding
    assert {r.name: r.quantized for r in torchqat.coverage(prepared).rows} == {"0": False, "1": True}
    with pytest.raises(ValueError, match="module '0': nn.qat.Embedding: weight dtype must be an integer format, got nvfp4"):
        torchqat.prepare_qat(model, overrides={"0": QConfig.nvfp4()})
