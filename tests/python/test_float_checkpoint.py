"""A float model's state_dict loaded into a prepared model: what it holds is loaded whole, under the float model's names."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
import torchqat
from torch import nn
from torchqat import QConfig, QuantSpec


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.down = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.relu(self.bn1(self.conv1(x))) + self.down(x)


class Split(nn.Module):
    """A convolution and its BatchNorm in different children."""

    def __init__(self):
        super().__init__()
        self.convs, self.norms = nn.ModuleList([nn.Conv2d(4, 4, 1)]), nn.ModuleDict({"first": nn.BatchNorm2d(4)})

    def forward(self, x):
        return self.norms["first"](self.convs[0](x))


def net(seed=0, watched=True):
    torch.manual_seed(seed)
    layers = OrderedDict(
        stem=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), block=Block(), split=Split(), flat=nn.Flatten(), head=nn.Linear(4 * 36, 3)
    )
    model = nn.Sequential(layers)
    if watched:
        with torch.no_grad():
            for step in range(3):  # BatchNorm's statistics away from where they start
                model(3 * images(seed + step) + 1)
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(seed=0):
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


SCHEMES = {
    "dynamic": QConfig.int8_dynamic(),
    "int4": QConfig(weight=QuantSpec("int4", granularity="channel")),
    "lsq": QConfig(
        weight=QuantSpec("int4", granularity="channel", estimator="lsq"),
        activation=QuantSpec("uint8", granularity="token", symmetric=False, observer="dynamic"),
    ),
    "lsq per tensor": QConfig(weight=QuantSpec("int4", granularity="tensor", estimator="lsq")),
    "tqt": QConfig(weight=QuantSpec("int8", granularity="channel", estimator="tqt")),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_gives_the_model_that_was_prepared_from_it(scheme):
    other = net(5)
    expected = torchqat.prepare_qat(other, SCHEMES[scheme]).eval()
    for model in (torchqat.prepare_qat(net(0), SCHEMES[scheme]), torchqat.prepare_qat(nn.Sequential(net(0)), SCHEMES[scheme])):
        state = other.state_dict() if "stem" in model._modules else {f"0.{k}": v for k, v in other.state_dict().items()}
        learned = "q" in scheme
        found = model.load_state_dict(state, strict=not learned)
        assert not found.unexpected_keys and all("log_scale" in key or "base_scale" in key for key in found.missing_keys)
        model.eval()
        assert torch.equal(model(images()), expected(images()))
        assert torch.equal(torchqat.convert(model)(images()), torchqat.convert(expected)(images()))


def test_statistics_that_it_lacks_are_named_and_kept():
    model, other = torchqat.prepare_qat(net(0), QConfig.int8()).train(), net(5)
    model(images())
    kept = {k: v.clone() for k, v in model.state_dict().items() if "observer" in k}
    with pytest.raises(RuntimeError, match="Missing key.*stem.activation_fake_quant.observer.min_val") as raised:
        model.load_state_dict(other.state_dict())
    assert "Unexpected" not in str(raised.value) and "bn" not in str(raised.value)
    model = torchqat.prepare_qat(net(0), QConfig.int8()).train()
    model(images())
    found = model.load_state_dict(other.state_dict(), strict=False)
    assert not found.unexpected_keys and all("observer" in key for key in found.missing_keys)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    assert torch.equal(state["block.conv1.bn.running_var"], other.block.bn1.running_var)
    assert torch.equal(state["split.convs.0.bn.weight"], other.split.norms["first"].weight)


def test_parts_copies_and_its_own_state():
    model, other = torchqat.prepare_qat(net(0), QConfig.int8_dynamic()), net(5)
    model.block.load_state_dict(other.block.state_dict())
    assert torch.equal(model.block.down[0].bn.bias, other.block.down[1].bias)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        again.load_state_dict(other.state_dict())
        again.load_state_dict(model.state_dict())
        assert torch.equal(again.eval()(images()), copy.deepcopy(model).eval()(images()))
        again.load_state_dict(other.state_dict(), assign=True)
        assert torch.equal(again.split.convs[0].bn.running_mean, other.split.norms["first"].running_mean)


def test_with_forms_output_and_wrappers():
    spec = QuantSpec("uint8", symmetric=False)
    model = torchqat.prepare_qat(net(0), QConfig.int8(), example_inputs=images(), output=spec)
    found = model.load_state_dict(net(5).state_dict(), strict=False)
    assert not found.unexpected_keys and torch.equal(model.get_submodule("block.conv1").bn.weight, net(5).block.bn1.weight)
    parallel = nn.DataParallel(torchqat.prepare_qat(net(0), QConfig.int8_dynamic()))
    parallel.load_state_dict({f"module.{key}": value for key, value in net(5).state_dict().items()})
    assert torch.equal(parallel.module.stem.bn.weight, net(5).norm.weight)
    torch.jit.script(parallel.module)


def test_a_converted_model_refuses_it():
    model = torchqat.convert(torchqat.prepare_qat(net(0), QConfig.int8_dynamic()).eval())
    with pytest.raises(RuntimeError, match="(?s)Missing key.*stem.packed_weight.*Unexpected key.*norm.running_mean"):
        model.load_state_dict(net(5).state_dict())


def test_with_learned_weights_a_prepared_state_keeps_its_scales():
    model, again = (torchqat.prepare_qat(net(seed), SCHEMES["lsq"]) for seed in (0, 5))
    with torch.no_grad():
        model.head.weight_fake_quant.log_scale.add_(0.5)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(images()), model.eval()(images()))
