"""fake_quantize where rounding is most in doubt: quotients at and next to ties, extreme scales, on every path, in long runs."""

import numpy as np
import pytest
import reference
import torch
from affine_cases import ISAS, isa, same
from hypothesis import given, settings
from hypothesis import strategies as st

ops = torch.ops.torchqat


def around_ties(scale, low, high, count=4096, seed=0):
    """Multiples k + 1/2 of scale, up to three floats to either side, far beyond the grid too; some special values."""
    rng = np.random.default_rng(seed)
    level = rng.integers(low - 3, high + 4, count).astype(np.float64) + rng.choice([0.0, 0.5, 0.5, 0.5], count)
    with np.errstate(over="ignore"):
        x = (level * float(scale)).astype(np.float32)
        bits = x.view(np.int32) + rng.integers(-3, 4, count).astype(np.int32)
        x = np.where(x == 0, x, bits.view(np.float32))
        x[::97] = rng.standard_normal(len(x[::97])) * 1e4 * float(scale)
    x[5::501] = np.inf
    x[6::501] = -np.inf
    x[7::501] = np.nan
    x[8::501] = -0.0
    x[9::501] = 1e-42
    return torch.from_numpy(x)


def check(x, scale, zero_point, low, high):
    want, inside = reference.fake_quantize(x, scale, zero_point, [], low, high)
    for name in ISAS:
        with isa(name):
            leaf = x.clone().requires_grad_()
            y = ops.fake_quantize(leaf, scale, zero_point, [], low, high)
            y.backward(torch.ones_like(y))
            plain = ops.fake_quantize(x, scale, zero_point, [], low, high)
            observed = ops.fake_quantize_observed(x, scale, zero_point, [], low, high)
        assert same(y.detach(), want) and same(plain, want) and same(observed[0], want), name
        assert torch.equal(leaf.grad, inside.to(x.dtype)), name
        finite = x[x.isfinite()].float()
        assert observed[1] == finite.min() and observed[2] == finite.max(), name
        assert observed[3] == x.numel() - finite.numel(), name


@pytest.mark.parametrize("scale", [0.02, 1 / 3, 0.1, 1.0, 0.007843138, 1e-20, 3e-38, 1e-42, 1e25, 1e36])
@pytest.mark.parametrize("low, high, point", [(-128, 127, 3), (0, 255, 0), (-8, 7, 0), (-32768, 32767, -5), (-(2**24), 2**24, 1)])
def test_ties_at_every_scale(scale, low, high, point):
    scale = torch.tensor(scale)
    check(around_ties(scale, low, high), scale, torch.tensor(point, dtype=torch.int32), low, high)


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(2.0**-120, 2.0**100, width=32),
    low=st.integers(-300, 0),
    steps=st.integers(1, 600),
    seed=st.integers(0, 10**6),
)
def test_any_scale(scale, low, steps, seed):
    check(around_ties(scale, low, low + steps, 1100, seed), torch.tensor(scale), torch.tensor(low), low, low + steps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_ties_in_half_precision(dtype):
    x = (torch.arange(-4000, 4000) * 0.125).to(dtype)
    scale = torch.tensor(0.25)
    check(x, scale, torch.tensor(0), -128, 127)


@settings(max_examples=15, deadline=None)
@given(
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    value=st.integers(1, 2**15 - 1),
    tie=st.integers(0, 2**15),
    ulps=st.integers(-2, 2),
    low=st.integers(-(2**15), 0),
    high=st.integers(1, 2**15),
)
def test_every_half_precision_number(dtype, value, tie, ulps, low, high):
    """All 65536 of them, with a scale that puts one of them at a tie or a few floats beside it."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    near = x[2**15 + value].float().nan_to_num(1.0).clamp(2.0**-60, 2.0**60) / (tie + 0.5)
    scale = (near.view(torch.int32) + ulps).view(torch.float32)
    check(x, scale, torch.tensor(0), low, high)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("columns", [1040, 1056, 1000])
def test_large_rows_that_begin_anywhere(dtype, columns):
    """Large enough to be written past the cache; rows begin at every alignment."""
    x = torch.randn(4200, columns, generator=torch.Generator().manual_seed(2)).to(dtype)
    scale = torch.linspace(0.01, 0.03, 4200).reshape(-1, 1)
    want, inside = reference.fake_quantize(x, scale, None, [1, -1], -128, 127)
    for name in ISAS:
        if name == "scalar":
            continue
        with isa(name):
            leaf = x.clone().requires_grad_()
            y = ops.fake_quantize(leaf, scale, None, [1, -1], -128, 127)
            y.backward(torch.ones_like(y))
            assert same(y.detach(), want) and torch.equal(leaf.grad, inside.to(dtype)), name
            assert same(ops.fake_quantize(x, scale, None, [1, -1], -128, 127), want), name


@pytest.mark.parametrize("low, high", [(-127, 127), (-8, 7), (-2, 1)])
def test_groups_with_scales_of_their_own(low, high):
    """Scales from the data: every group's largest value lies exactly on the grid's end."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(512, 32, generator=generator) * torch.exp2(torch.randint(-60, 60, (512, 1), generator=generator))
    x[3] = 0.0
    x[4] = 1e-41
    x[5] *= 1e-30
    scale, _ = reference.choose_qparams(x, [1, 32], low, high, True)
    want, _ = reference.fake_quantize(x, scale, None, [1, 32], low, high)
    for name in ISAS:
        with isa(name):
            assert same(ops.fake_quantize_dynamic(x, [1, 32], low, high, True), want), name
            assert same(ops.fake_quantize(x, scale, None, [1, 32], low, high), want), name
