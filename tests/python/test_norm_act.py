"""BatchNorm and activation in one module, as timm's networks have them: folded like a BatchNorm with its activation behind it."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torchqat
from torch import nn
from torchqat import QConfig
from torchqat.nn.norm_act import NormActivation, is_norm_act, norm_of, without_norms
from torchqat.nn.qat import ConvBn2d


class BatchNormAct2d(nn.BatchNorm2d):
    """The interface and the arithmetic of timm.layers.BatchNormAct2d."""

    def __init__(self, features, act=None, drop=None):
        super().__init__(features)
        self.drop = nn.Identity() if drop is None else drop
        self.act = nn.ReLU(inplace=True) if act is None else act

    def forward(self, x):
        torch._assert(x.ndim == 4, "expected 4D input")
        if self.training:
            self.num_batches_tracked.add_(1)
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return self.act(self.drop(x))


class SyncBatchNormAct(nn.SyncBatchNorm):
    """The same after a conversion for several processes."""

    forward = BatchNormAct2d.forward


class Separate(nn.Module):
    """The same network of plain modules."""

    def __init__(self, act=None, drop=None):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.drop1, self.act1 = copy.deepcopy(drop) or nn.Identity(), copy.deepcopy(act) or nn.ReLU()
        self.conv2, self.fc = nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.conv2(self.act1(self.drop1(self.bn1(self.conv1(x))))).mean((2, 3)))


class Joint(nn.Module):
    def __init__(self, act=None, drop=None):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), BatchNormAct2d(8, copy.deepcopy(act), copy.deepcopy(drop))
        self.conv2, self.fc = nn.Conv2d(8, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.conv2(self.bn1(self.conv1(x))).mean((2, 3)))


def both(act=None, drop=None):
    torch.manual_seed(0)
    joint, separate = Joint(act, drop), Separate(act, drop)
    renamed = {k.replace("bn1.act", "act1").replace("bn1.drop", "drop1"): v for k, v in joint.state_dict().items()}
    separate.load_state_dict(renamed)
    return joint, separate


X = torch.linspace(-3, 3, 2 * 3 * 8 * 8).sin().reshape(2, 3, 8, 8)
ACTS = {"relu": None, "relu6": nn.ReLU6(), "silu": nn.SiLU(), "prelu": nn.PReLU(8), "identity": nn.Identity()}


def trained(model, **inputs):
    prepared = torchqat.prepare_qat(model, QConfig.int8(), **inputs)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.1)
    for step in range(3):
        optimizer.zero_grad()
        prepared(X + step).square().mean().backward()
        optimizer.step()
    return prepared


@pytest.mark.parametrize("inputs", [{}, {"example_inputs": X}], ids=["traced", "watched"])
@pytest.mark.parametrize("act", ACTS)
def test_trains_and_ships_as_separate_modules(act, inputs, tmp_path):
    joint, separate = both(ACTS[act])
    a, b = trained(joint, **inputs), trained(separate, **inputs)
    assert type(a.conv1) is ConvBn2d and type(a.bn1) is NormActivation
    assert torch.equal(a(X), b(X))
    a.eval(), b.eval()
    assert torch.equal(a(X), b(X))
    for example in (None, X):
        converted, other = torchqat.convert(a, example_inputs=example), torchqat.convert(b, example_inputs=example)
        assert torch.equal(converted(X), a(X)) and torch.equal(other(X), a(X))
        torchqat.save(converted, tmp_path / "model.safetensors")
        loaded = torchqat.load(tmp_path / "model.safetensors", both(ACTS[act])[0])
        assert torch.equal(loaded(X), a(X))
        if act in ("relu", "relu6", "identity") and example is not None:
            assert converted.conv1.output_scale is not None and loaded.conv1.output_scale is not None


def test_dropout_between_norm_and_activation_stays():
    joint, _ = both(drop=nn.Dropout(0.5))
    prepared = trained(joint)
    assert type(prepared.bn1.drop) is nn.Dropout and type(prepared.conv1) is ConvBn2d
    assert not torch.equal(prepared(X), prepared(X))  # still in training mode
    prepared.eval()
    assert torch.equal(torchqat.convert(prepared, example_inputs=X)(X), prepared(X))


def test_a_float_checkpoint_loads_into_the_prepared_model():
    joint, separate = both(nn.PReLU(8))
    prepared = torchqat.prepare_qat(copy.deepcopy(joint), QConfig.int8())
    with torch.no_grad():
        for tensor in joint.state_dict().values():
            tensor.add_(1)
    result = prepared.load_state_dict(joint.state_dict(), strict=False)
    assert not result.unexpected_keys and all("fake_quant" in key for key in result.missing_keys)
    assert torch.equal(prepared.conv1.bn.weight, joint.bn1.weight) and torch.equal(prepared.bn1.act.weight, joint.bn1.act.weight)


def test_synchronised_norms_are_known():
    module = SyncBatchNormAct(8)
    module.drop, module.act = nn.Identity(), nn.ReLU()
    assert is_norm_act(module) and type(norm_of(module)) is nn.SyncBatchNorm
    assert norm_of(module).weight is module.weight and not norm_of(module)._modules


def test_what_is_no_such_module_is_left_alone():
    class Other(BatchNormAct2d):
        pass

    assert not is_norm_act(nn.BatchNorm2d(4)) and not is_norm_act(Other(4))
    plain = nn.BatchNorm2d(4)
    assert norm_of(plain) is plain
    model = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8))
    model[1].register_forward_hook(lambda *args: None)
    assert type(torchqat.prepare_qat(model, QConfig.int8())[1]) is BatchNormAct2d  # the hook still sees it
    with pytest.raises(ValueError, match="not a BatchNorm with an activation"):
        without_norms(model, ["0"])


def test_a_file_that_does_not_fit_says_so(tmp_path):
    joint, separate = both()
    prepared = trained(joint).eval()
    torchqat.save(torchqat.convert(prepared), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="folded BatchNorm that float_model lacks: 'bn1' is a BatchNorm2d"):
        torchqat.load(tmp_path / "model.safetensors", separate)
