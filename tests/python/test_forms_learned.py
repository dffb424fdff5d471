"""Integer forms whose grids are learned, and forms with a grid of their own: bits, gradients and overrides."""

import warnings

import pytest
import torch
import torch.nn.functional as F
import torchqat
from torch import nn
from torchqat import QConfig, QuantSpec
from torchqat.nn import qat

SPECS = {
    "lsq": QuantSpec("uint4", symmetric=False, estimator="lsq"),
    "lsq_signed": QuantSpec("int4", estimator="lsq"),
    "lsq+": QuantSpec("uint8", symmetric=False, estimator="lsq+"),
    "tqt": QuantSpec("int8", estimator="tqt"),
    "pact": QuantSpec("uint4", estimator="pact"),
}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.act, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Hardswish(), nn.Conv2d(width, width, 1)

    def forward(self, x):
        return torch.relu(x + self.second(self.act(self.first(x))))


def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )


def forms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, qat._form.QatForm)}


@pytest.mark.parametrize("name", SPECS)
def test_learned_forms_train_and_ship_bit_for_bit(name, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(6, 3, 10, 10)
    config = QConfig(QuantSpec("int4", "channel", estimator="lsq"), SPECS[name])
    prepared = torchqat.prepare_qat(network(), config, example_inputs=x).train()
    assert sorted(type(m).__name__ for m in forms(prepared).values()) == ["Activation", "Activation", "Add", "Add", "AvgPool"]
    optimizer = torch.optim.SGD(prepared.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(torch.randn(6, 3, 10, 10)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in prepared.parameters())
        optimizer.step()
    prepared.eval()
    converted = torchqat.convert(prepared, example_inputs=x)
    assert torchqat.verify(prepared, converted, [x, torch.randn(3, 3, 10, 10)]).equal
    torchqat.save(converted, tmp_path / "m.safetensors")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        expected = prepared(x)
        for model in (converted, torch.jit.script(converted), torch.jit.script(prepared), torchqat.load(tmp_path / "m.safetensors", network())):
            assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kind", ["activation", "pool", "windows"])
def test_gradients_are_those_of_the_function_of_rounded_values(name, kind):
    torch.manual_seed(1)
    form, function = {
        "activation": (qat.Activation(SPECS[name], "silu"), F.silu),
        "pool": (qat.AvgPool(SPECS[name], [], [], []), lambda v: v.mean([2, 3], keepdim=True)),
        "windows": (qat.AvgPool(SPECS[name], [3, 2], [2, 1], [1, 0]), lambda v: F.avg_pool2d(v, [3, 2], [2, 1], [1, 0])),
    }[kind]
    quantizer = form.activation_fake_quant
    form(torch.randn(2, 3, 9, 8))  # learned values start
    x = torch.randn(2, 3, 9, 8) * 2
    found = []
    for call in (form, lambda v: function(quantizer(v))):
        quantizer.zero_grad()
        own = x.clone().requires_grad_()
        y = call(own)
        y.backward(torch.linspace(-1, 2, y.numel()).reshape(y.shape))
        found.append([y.detach(), own.grad, *(p.grad.clone() for p in quantizer.parameters())])
    assert len(found[0]) == (4 if name == "lsq+" else 3)
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_class_of_forms_may_have_its_own_grid():
    x = torch.randn(6, 3, 10, 10)
    config = QConfig(QuantSpec("int4", "channel"), QuantSpec("uint4", symmetric=False, observer="ema"))
    prepared = torchqat.prepare_qat(network(), config, example_inputs=x, overrides={qat.Add: QConfig.int8(), qat.Activation: None})
    found = forms(prepared)
    assert {type(m) for m in found.values()} == {qat.Add, qat.AvgPool}
    for module in found.values():
        assert all(q.quant_max == (255 if isinstance(module, qat.Add) else 15) for q in module.quantizers())
    prepared(x).sum().backward()
    prepared.eval()
    assert torch.equal(torchqat.convert(prepared, example_inputs=x)(x), prepared(x))


def test_grids_that_forms_cannot_have():
    x = torch.randn(6, 3, 10, 10)
    assert not forms(torchqat.prepare_qat(network(), QConfig.int8_dynamic(), example_inputs=x))
    mixed = torchqat.prepare_qat(network(), QConfig.int8_dynamic(), example_inputs=x, overrides={qat.Add: QConfig.int8()})
    assert not forms(mixed)  # what surrounds the sums is quantised from each input
    with pytest.raises(ValueError, match=r"overrides\[Add\] must have activations on an integer grid of at most 8 bits .* got QuantSpec"):
        torchqat.prepare_qat(network(), QConfig.int8(), example_inputs=x, overrides={qat.Add: QConfig.int8_dynamic()})
    with pytest.raises(ValueError, match=r"overrides\[Add\] must have .* got None"):
        torchqat.prepare_qat(network(), QConfig.int8(), example_inputs=x, overrides={qat.Add: QConfig.int8_weight_only()})
