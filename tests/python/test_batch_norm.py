"""batch_norm_relu against BatchNorm and ReLU in float64, and the convolutions that absorb both."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchqat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint
from torchqat.nn.qat.relu import AbsorbedReLU

ops = torch.ops.torchqat
ISAS = torchqat._C.supported_isas()


@pytest.fixture(autouse=True)
def restore():
    before, threads = ops._cpu_isa(), torch.get_num_threads()
    yield
    ops._set_cpu_isa(before)
    torch.set_num_threads(threads)


def layer(shape, seed=0, offset=0.0, channels_last=False, affine=True, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=g) * 2 + offset).to(dtype)
    if channels_last and len(shape) in (4, 5):
        x = x.contiguous(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    w = (torch.rand(shape[1], generator=g) - 0.3) if affine else None
    b = torch.randn(shape[1], generator=g) if affine else None
    return x, w, b, torch.randn(shape, generator=g).to(dtype)


def ours(x, w, b, grad, relu=True, eps=1e-5, ceiling=None):
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, w, b)]
    y, mean, var = ops.batch_norm_relu(*leaves, eps, relu, ceiling)
    assert not mean.requires_grad and not var.requires_grad
    y.backward(grad)
    return y.detach(), mean, var, *(t.grad for t in leaves if t is not None)


def exact(x, w, b, grad, relu=True, eps=1e-5, ceiling=None):
    leaves = [None if t is None else t.double().requires_grad_() for t in (x, w, b)]
    y = F.batch_norm(leaves[0], None, None, *leaves[1:], True, 0.1, eps)
    y = F.hardtanh(y, 0.0, torch.inf if ceiling is None else ceiling) if relu else y
    y.backward(grad.double())
    dims = [d for d in range(x.dim()) if d != 1]
    moments = (x.double().mean(dims), x.double().var(dims, unbiased=False))
    return y.detach(), *moments, *(t.grad for t in leaves if t is not None)


def assert_close(got, expected, grad, bound):
    """Values by their own size; a gradient that cancels by the size of what goes in."""
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert (a.double() - b).norm() <= bound * (b.norm() + (grad.norm() if i >= 3 else 0)) + 1e-30, (a, b)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 40), st.lists(st.integers(1, 17), min_size=0, max_size=3), st.booleans(), st.booleans(),
    st.booleans(), st.integers(0, 1000), st.sampled_from(ISAS), st.sampled_from([None, 0.5]),
)  # fmt: skip
def test_values_and_gradients_against_float64(n, channels, spatial, relu, channels_last, affine, seed, isa, ceiling):
    shape = (n, channels, *spatial)
    x, w, b, grad = layer(shape, seed, channels_last=channels_last, affine=affine)
    if x.numel() == channels:
        with pytest.raises(ValueError, match="batch_norm_relu: input must have more than one element in each channel"):
            ops.batch_norm_relu(x, w, b, 1e-5, relu)
        return
    ops._set_cpu_isa(isa)
    # A large eps keeps channels of two nearly equal values as well conditioned as the rest.
    got, expected = (f(x, w, b, grad, relu, 0.1, ceiling) for f in (ours, exact))
    # What lies within rounding of the ReLU's corner may open on one side only.
    inside = lambda y: (y > 0) & (y < (torch.inf if ceiling is None else ceiling))
    if relu and (inside(got[0]) != inside(expected[0])).any():
        return
    assert got[0].stride() == x.stride() or not x.is_contiguous()
    assert_close(got, expected, grad, 5e-6)


@pytest.mark.parametrize("shape", [(16, 24, 32, 32), (4, 5, 97, 91), (64, 33), (3, 20, 4, 9, 11)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_at_least_as_exact_as_torch(shape, channels_last, offset):
    x, w, b, grad = layer(shape, 1, offset, channels_last)
    expected = exact(x, w, b, grad, relu=False)
    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    y = F.batch_norm(leaves[0], None, None, *leaves[1:], True, 0.1, 1e-5)
    y.backward(grad)
    theirs = (y.detach(), *(t.grad for t in leaves))
    got = ours(x, w, b, grad, relu=False)
    for mine, other, truth in zip((got[0], *got[3:]), theirs, (expected[0], *expected[3:]), strict=True):
        error = lambda t: ((t.double() - truth).norm() / truth.norm()).item()
        assert error(mine) <= 1.5 * error(other) + 1e-7


@pytest.mark.parametrize("shape", [(5, 19, 13, 11), (2, 70, 9), (300, 3), (2, 3, 80, 90)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_same_bits_on_every_path_and_thread_count(shape, channels_last):
    x, w, b, grad = layer(shape, 2, 1.0, channels_last)
    results = []
    for isa in ISAS:
        for threads in (1, 2, 3):
            ops._set_cpu_isa(isa)
            torch.set_num_threads(threads)
            results.append(ours(x, w, b, grad))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_half_types_round_once():
    x, w, b, grad = layer((4, 6, 7, 5), 3, dtype=torch.bfloat16)
    y, mean, var, dx, _, _ = ours(x, w, b, grad)
    wide = ours(x.float(), w, b, grad.float())
    assert y.dtype == dx.dtype == torch.bfloat16 and mean.dtype == var.dtype == torch.float32
    assert torch.equal(y, wide[0].bfloat16()) and torch.equal(dx, wide[3].bfloat16()) and torch.equal(var, wide[2])


def test_running_statistics_are_torchs():
    x, *_ = layer((4, 6, 7, 5), 4)
    bn = nn.BatchNorm2d(6, momentum=0.3)
    mean, var = bn.running_mean.clone(), bn.running_var.clone()
    for _ in range(3):
        bn(x)
        _, batch_mean, batch_var = ops.batch_norm_relu(x, None, None, 1e-5, False)
        version = mean._version
        unbiased = ops.batch_norm_update_(mean, var, batch_mean, batch_var, 140, 0.3)
        torch.testing.assert_close(unbiased, x.var((0, 2, 3)))
        assert mean._version > version
    torch.testing.assert_close(mean, bn.running_mean)
    torch.testing.assert_close(var, bn.running_var)
    half = torch.zeros(6, dtype=torch.bfloat16)
    ops.batch_norm_update_(half, var, batch_mean, batch_var, 140, 1.0)
    assert torch.equal(half, batch_mean.bfloat16())


def test_nan_empty_and_wanted_gradients():
    x, w, b, grad = layer((2, 3, 4, 4), 5)
    x[0, 1, 0, 0] = float("nan")
    y, *_ = ours(x, w, b, grad)
    assert y[:, 1].isnan().all() and not y[:, [0, 2]].isnan().any()
    y, mean, var = ops.batch_norm_relu(torch.empty(0, 3, 4, 4), w, b, 1e-5)
    assert y.shape == (0, 3, 4, 4) and not mean.any() and not var.any()
    w = w.clone().requires_grad_()
    ops.batch_norm_relu(x.nan_to_num(), w, b, 1e-5)[0].sum().backward()
    assert w.grad.shape == (3,)


@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(channels_last):
    x, w, b, grad = layer((2, 5, 4, 3), 6, channels_last=channels_last)
    opcheck(ops.batch_norm_relu, (x.requires_grad_(), w.requires_grad_(), b.requires_grad_(), 1e-5, True))
    opcheck(ops.batch_norm_relu, (x, None, None, 1e-5, False))
    opcheck(ops.batch_norm_relu, (x, w, b, 1e-5, True, 6.0))
    mean, var = ops.batch_norm_relu(x.detach(), w.detach(), b.detach(), 1e-5)[1:]
    opcheck(ops._batch_norm_relu_backward,
            (grad, x.detach(), w.detach(), b.detach(), mean, var, 1e-5, True, [True, True, True]))  # fmt: skip
    opcheck(ops.batch_norm_update_, (torch.zeros(5), torch.ones(5), mean, var, 24, 0.1))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((torch.zeros(2, 3, dtype=torch.float64), None, None, 1e-5), TypeError, "input must be float32, bfloat16 or float16, got Double"),
        ((torch.zeros(2), None, None, 1e-5), ValueError, r"input must be \[N, C, \*spatial\], got shape \[2\]"),
        ((torch.zeros(2, 3), torch.zeros(2), None, 1e-5), ValueError, r"weight must have shape \[3\], got \[2\]"),
        ((torch.zeros(2, 3), None, torch.zeros(3, dtype=torch.int32), 1e-5), TypeError, "bias must be floating, got Int"),
        ((torch.zeros(2, 3), None, None, 0.0), ValueError, "eps must be > 0, got 0"),
        ((torch.zeros(2, 3), None, None, 1e-5, True, 0.0), ValueError, "ceiling must be > 0, got 0"),
        ((torch.zeros(1, 3), None, None, 1e-5), ValueError, r"more than one element in each channel, got shape \[1, 3\]"),
    ],
)  # fmt: skip
def test_refusals(arguments, kind, message):
    with pytest.raises(kind, match="batch_norm_relu: .*" + message):
        ops.batch_norm_relu(*arguments)


def test_update_refusals():
    good = [torch.zeros(3), torch.ones(3), torch.zeros(3), torch.ones(3), 8, 0.1]
    for at, value, message in [
        (0, torch.zeros(2), r"running_mean must have the shape of mean \[3\], got \[2\]"),
        (1, torch.ones(3, dtype=torch.int64), "running_var must be floating"),
        (4, 1, "count must not be 1"),
        (5, 1.5, r"momentum must be in \[0, 1\], got 1.5"),
    ]:
        with pytest.raises((ValueError, TypeError), match="batch_norm_update_: " + message):
            ops.batch_norm_update_(*good[:at], value, *good[at + 1 :])


# What prepare_qat makes of convolution, BatchNorm, ReLU.


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
