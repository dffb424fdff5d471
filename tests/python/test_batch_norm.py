"""batch_norm_relu against BatchNorm and ReLU in float64: values, gradients, bits on every path, running statistics, refusals."""


import pytest
import torch
import torch.nn.functional as F
import torchqat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.library import opcheck

ops = torch.ops.torchqat
ISAS = torchqat._C.supported_isas()


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
