"""Weights computed by parametrizations and hooks: their sources train, and what ships is what was computed last."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import torchqat
from torchqat import QConfig
from torchqat.convert import dequantized_weight

pytestmark = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")


def pruned(module):
    prune.random_unstructured(module, "weight", amount=0.5)
    return module


WAYS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm hook": nn.utils.weight_norm,
    "spectral_norm hook": nn.utils.spectral_norm,
    "pruned": pruned,
}
CONFIGS = {"int8": QConfig.int8(), "int8_dynamic": QConfig.int8_dynamic(), "int4": QConfig.int4_weight_only(8), "fp8": QConfig.fp8()}


def make(way):
    torch.manual_seed(0)
    return nn.Sequential(
        WAYS[way](nn.Conv2d(3, 8, 3, bias=False)), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), WAYS[way](nn.Linear(8 * 16, 6))
    )


def train(prepared, x):
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("way", WAYS)
def test_trains_converts_and_loads(way, config, tmp_path):
    model = make(way)
    x = torch.randn(4, 3, 6, 6)
    model(x).sum().backward()  # leaves computed weights that have gradients behind
    prepared = torchqat.prepare_qat(model, CONFIGS[config])
    before = {name: p.detach().clone() for name, p in prepared.named_parameters()}
    train(prepared, x)
    assert all(not torch.equal(before[n], p) for n, p in prepared.named_parameters() if p.requires_grad and "4." in n)
    # Converted straight after a step of the optimiser: the weight of the last forward is not the one to ship.
    converted = torchqat.convert(prepared)
    prepared.eval()
    with torch.no_grad():
        expected = prepared(x)
    assert torch.equal(converted(x), expected) or not CONFIGS[config].integer
    torch.testing.assert_close(converted(x), expected)
    assert not any(n.endswith(("_g", "_v", "_orig")) or "parametrizations" in n for n, _ in converted.named_parameters())
    torchqat.save(converted, tmp_path / "m")
    assert torch.equal(torchqat.load(tmp_path / "m", make(way))(x), converted(x))
    assert torch.equal(torch.jit.script(converted)(x), converted(x))
    assert torch.equal(copy.deepcopy(prepared)(x), expected)


@pytest.mark.parametrize("way", WAYS)
def test_the_sources_stay_the_same_parameters(way):
    model = make(way)
    before = dict(model.named_parameters())
    prepared = torchqat.prepare_qat(model, QConfig.int8_dynamic(), inplace=True)
    after = dict(prepared.named_parameters())
    assert all(after[name] is before[name] for name in before if name.startswith("4."))
    assert torchqat.coverage(prepared).rows[-1].quantized
    assert isinstance(prepared[4], torchqat.nn.qat.Linear)


def test_integer_weights_are_those_of_the_current_source():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 4)))
    prepared = torchqat.prepare_qat(model, QConfig.int8_dynamic())
    with torch.no_grad():
        prepared[0].weight_g.mul_(3)
    assert dequantized_weight(prepared[0]).norm(dim=1).sub(prepared[0].weight_g[:, 0]).abs().max() < 0.05


def test_a_power_iteration_is_taken_once_in_a_forward_and_none_by_convert():
    layer = nn.Linear(8, 8)
    twin = parametrizations.spectral_norm(copy.deepcopy(layer))
    prepared = torchqat.prepare_qat(nn.Sequential(copy.deepcopy(twin)), QConfig.int8())
    x = torch.randn(4, 8)
    prepared(x), twin(x)
    assert torch.equal(prepared[0].parametrizations.weight[0]._u, twin.parametrizations.weight[0]._u)
    torchqat.convert(prepared.eval())
    assert torch.equal(prepared[0].parametrizations.weight[0]._u, twin.parametrizations.weight[0]._u)
    hooked = torchqat.prepare_qat(nn.Sequential(nn.utils.spectral_norm(layer)), QConfig.int8_dynamic())
    u = hooked[0].weight_u.clone()
    torchqat.convert(hooked)
    assert torch.equal(hooked[0].weight_u, u) and hooked.training


def test_a_parametrization_can_be_removed_from_a_prepared_layer():
    prepared = torchqat.prepare_qat(nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4))), QConfig.int8_dynamic()).eval()
    x = torch.randn(3, 6)
    expected = prepared(x)
    parametrize.remove_parametrizations(prepared[0], "weight")
    assert type(prepared[0]) is torchqat.nn.qat.Linear and torch.equal(prepared(x), expected)


def test_trains_compiled():
    prepared = torchqat.prepare_qat(make("weight_norm"), QConfig.int8_dynamic())
    x = torch.randn(4, 3, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(prepared, backend="aot_eager", fullgraph=True)
        train(compiled, x)
        prepared.eval()
        torch.testing.assert_close(compiled(x), prepared(x))


def test_parametrized_attention_stays_float_and_says_why():
    attention = nn.MultiheadAttention(8, 2)
    parametrizations.weight_norm(attention, "in_proj_weight")
    model = nn.ModuleDict({"attention": attention, "head": nn.Linear(8, 2)})
    prepared = torchqat.prepare_qat(model)
    row = next(row for row in torchqat.coverage(prepared).rows if row.name == "attention")
    assert not row.quantized and "subclass of MultiheadAttention" in row.why
