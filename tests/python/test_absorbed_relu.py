"""BatchNorm and ReLU absorbed by the convolution before them: training as torch's own modules, where a ReLU stays, what is saved."""

import copy
import pickle

import pytest
import torch
import torchqat
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchqat.nn.qat.relu import AbsorbedReLU


def net(**relu):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(**relu), nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1), nn.ReLU(),
    )  # fmt: skip


def with_modules_of_torch(prepared):
    """The same prepared model with BatchNorm and ReLU computed by torch's own modules."""
    other = copy.deepcopy(prepared)
    torchqat.nn.qat.relu.release(other)
    for module in other.modules():
        if isinstance(module, torchqat.nn.qat.ConvBn2d):
            module.absorbed = None
            module.bn.register_forward_hook(lambda *_: None)
    return other


@pytest.mark.parametrize("inplace", [False, True])
def test_training_is_that_of_torchs_modules(inplace):
    prepared = torchqat.prepare_qat(net(inplace=inplace))
    assert [type(m).__name__ for m in prepared][:3] == ["ConvBn2d", "Identity", "AbsorbedReLU"]
    assert type(prepared[6]) is nn.ReLU and prepared[2].inplace is inplace
    other = with_modules_of_torch(prepared)
    assert [n for n, _ in prepared.named_modules() if "relu" in n.lower()] == []
    x = torch.randn(4, 3, 9, 9)
    for _ in range(3):
        results = []
        for model in (prepared, other):
            model.zero_grad()
            y = model(x)
            y.square().mean().backward()
            results.append([y.detach(), *(p.grad for p in model.parameters())])
        for a, b in zip(*results, strict=True):
            # Another rounding of BatchNorm's result moves a code here and there.
            assert (a - b).norm() <= 0.05 * b.norm() + 1e-6
        for a, b in zip(prepared.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=0.02, atol=1e-3)
    assert int(prepared[0].bn.num_batches_tracked) == 3


def test_frozen_training_equals_eval_and_deployment():
    prepared = torchqat.prepare_qat(net())
    keys = set(torchqat.prepare_qat(nn.Sequential(*net()[:2], nn.Identity(), *net()[3:])).state_dict())
    assert set(prepared.state_dict()) == keys
    x = torch.randn(4, 3, 9, 9)
    for _ in range(3):
        prepared(x)
    torchqat.freeze_observers(prepared)
    torchqat.freeze_batch_norm(prepared)
    trained = prepared(x).detach()
    assert torch.equal(prepared.eval()(x), trained)
    for arguments in ({}, {"example_inputs": x}):
        converted = torchqat.convert(prepared, **arguments)
        # With integer edges the ReLU may have gone into the codes.
        assert type(converted[2]) is nn.ReLU or arguments
        assert type(prepared[2]) is AbsorbedReLU
        assert torch.equal(converted(x), trained)
    assert torchqat.verify(prepared, torchqat.convert(prepared), [x]).equal
    again = pickle.loads(pickle.dumps(prepared))
    assert again[0].absorbed[0] is again[2] and torch.equal(again.train()(x), trained)
    copied = copy.deepcopy(prepared)
    assert copied[0].absorbed[0] is copied[2]
    final = torchqat.convert(copied, inplace=True)
    assert type(final[2]) is nn.ReLU and torch.equal(final(x), trained)


def test_relu6_is_absorbed_too():
    model = net()
    model[2] = nn.ReLU6(inplace=True)
    with torch.no_grad():
        model[1].weight.mul_(10)
    prepared = torchqat.prepare_qat(model)
    assert type(prepared[2]).__name__ == "AbsorbedReLU6"
    x = torch.randn(4, 3, 9, 9)
    y = prepared[0](x)
    assert y.min() == 0 and y.max() == 6 and torch.equal(prepared[2](y), y)
    other = with_modules_of_torch(prepared)
    assert type(other[2]) is nn.ReLU6
    results = []
    for owner in (prepared, other):
        leaf = x.clone().requires_grad_()
        owner[:3](leaf).sum().backward()
        results.append(leaf.grad)
    assert (results[0] - results[1]).norm() <= 1e-2 * results[1].norm()
    prepared(x)
    torchqat.freeze_observers(prepared)
    torchqat.freeze_batch_norm(prepared)
    trained = prepared(x).detach()
    converted = torchqat.convert(prepared)
    assert type(converted[2]) is nn.ReLU6 and torch.equal(converted(x), trained)
    assert torch.equal(torch.jit.script(prepared)(x), trained) and torch.equal(prepared.eval()(x), trained)
    assert torchqat.verify(prepared, converted, [x]).equal


def test_modes_may_differ():
    prepared = torchqat.prepare_qat(net())
    x = torch.randn(4, 3, 9, 9)
    prepared(x)
    for layer_mode in (True, False):
        for relu_mode in (True, False):
            prepared[0].train(layer_mode)
            prepared[2].train(relu_mode)
            assert (prepared[:3](x) >= 0).all()


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x):
        return self.relu(self.relu(self.bn(self.conv(x))) + x)


class Reused(Shared):
    def forward(self, x):
        y = self.bn(self.conv(x))
        return self.relu(y) + y


class Hooked(Shared):
    def __init__(self, name):
        super().__init__()
        getattr(self, name).register_forward_hook(lambda *_: None)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


class Kept(Shared):
    forward = Hooked.forward


@pytest.mark.parametrize("make", [Shared, Reused, lambda: Hooked("relu"), lambda: Hooked("conv")])
def test_a_relu_stays_where_it_would_be_noticed(make):
    prepared = torchqat.prepare_qat(make())
    assert type(prepared.relu) is nn.ReLU and type(prepared.conv) is torchqat.nn.qat.ConvBn2d
    assert type(torchqat.prepare_qat(Kept()).relu) is AbsorbedReLU


@pytest.mark.parametrize("example_inputs", [None, torch.randn(2, 3, 5, 5)])
def test_hooked_or_odd_batch_norms_run_themselves(example_inputs):
    seen = []
    model = Kept()
    model.bn.register_forward_hook(lambda *_: seen.append(1))
    prepared = torchqat.prepare_qat(model, example_inputs=example_inputs)
    assert type(prepared.relu) is AbsorbedReLU
    seen.clear()
    assert (prepared(torch.randn(2, 3, 5, 5)) >= 0).all() and seen == [1]
    model = Kept()
    model.bn.momentum = None
    prepared = torchqat.prepare_qat(model)
    for _ in range(2):
        assert (prepared(torch.randn(2, 3, 5, 5)) >= 0).all()
    assert int(prepared.conv.bn.num_batches_tracked) == 2


def test_what_is_saved_for_backward():
    prepared = torchqat.prepare_qat(Kept())
    x = torch.randn(4, 3, 16, 16, requires_grad=True)
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        y = prepared(x)
    size = sum(t.numel() * t.element_size() for t in held if t.dim() != 1 and t.numel() >= x.numel() // 8)
    # Codes and mask of the convolution's input, and its result in float.
    assert size <= (1 + 0.125 + 4) * y.numel() and y.grad_fn is not None


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_moves_the_statistics_once(use_reentrant):
    prepared = torchqat.prepare_qat(Kept())
    plain = copy.deepcopy(prepared)
    x = torch.randn(4, 3, 8, 8)
    for model, run in ((plain, lambda v: plain(v)), (prepared, lambda v: checkpoint(prepared, v, use_reentrant=use_reentrant))):
        run(x.clone().requires_grad_()).square().sum().backward()
        assert int(model.conv.bn.num_batches_tracked) == 1
    for a, b in zip(prepared.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(prepared.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_autocast_compile_and_script():
    prepared = torchqat.prepare_qat(net())
    x = torch.randn(4, 3, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        y = prepared(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    models = [copy.deepcopy(prepared) for _ in range(3)]
    runs = [models[0], torch.compile(models[1], backend="aot_eager", fullgraph=True), torch.jit.script(models[2])]
    results = []
    for run, model in zip(runs, models, strict=True):
        model.zero_grad()
        for _ in range(2):
            y = run(x)
        y.square().mean().backward()
        results.append([y.detach(), *(p.grad for p in run.parameters()), *run.buffers()])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            torch.testing.assert_close(a, b)
    for run in runs:
        run.eval()
        assert torch.equal(run(x), runs[0](x))
