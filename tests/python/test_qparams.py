"""choose_qparams, qparams_from_range and observe_minmax_."""

import numpy as np
import pytest
import reference
import torch
from affine_cases import CASES, DTYPES, ISAS, isa, same, sample, threads
from hypothesis import given, settings
from hypothesis import strategies as st

ops = torch.ops.torchqat
GRIDS = [(-8, 7, True), (-127, 127, True), (0, 255, False), (-128, 127, False)]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_choose_qparams_equals_the_reference(name, dtype):
    for shape, block_size in CASES:
        x = sample(shape, dtype)
        for low, high, symmetric in GRIDS:
            want = reference.choose_qparams(x, block_size, low, high, symmetric)
            with isa(name):
                got = ops.choose_qparams(x, block_size, low, high, symmetric)
            assert all(same(a, b) for a, b in zip(got, want, strict=True)), (shape, block_size, low)
            assert got[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert got[1].dtype == torch.int32


@pytest.mark.parametrize("values", [[0.0], [-0.0, 0.0], [1e-45], [-1e-45], [3.4e38, -3.4e38], [np.inf], [np.nan], [np.inf, 2.0, np.nan]])
@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_are_finite_and_positive(values, symmetric):
    scale, zero_point = ops.choose_qparams(torch.tensor(values), [], -8, 7, symmetric)
    assert torch.isfinite(scale) and scale > 0 and -8 <= zero_point <= 7
    if symmetric:
        assert zero_point == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=30), st.booleans(), st.sampled_from([(-8, 7), (0, 1), (0, 65535), (-(2**24), 2**24)]))
def test_any_values(values, symmetric, grid):
    x = torch.tensor(values, dtype=torch.float32)
    got = ops.choose_qparams(x, [], *grid, symmetric)
    want = reference.choose_qparams(x, [], *grid, symmetric)
    assert all(same(a, b) for a, b in zip(got, want, strict=True))
    assert torch.isfinite(got[0]) and got[0] > 0


def test_zero_is_on_the_affine_grid():
    for x in (torch.tensor([2.0, 5.0]), torch.tensor([-3.0, -1.0])):
        scale, zero_point = ops.choose_qparams(x, [], 0, 255, False)
        assert ops.fake_quantize(torch.zeros(1), scale, zero_point, [], 0, 255) == 0
        assert zero_point in (0, 255)


@pytest.mark.parametrize("name", ISAS)
def test_qparams_from_range(name):
    lo = torch.tensor([[-1.0, 0.5, float("inf"), -2.0, 0.0] * 5])
    hi = torch.tensor([[3.0, 4.0, -float("inf"), -1.0, 0.0] * 5])
    for low, high, symmetric in GRIDS:
        with isa(name):
            got = ops.qparams_from_range(lo, hi, low, high, symmetric)
        want = reference.qparams(lo.numpy(), hi.numpy(), low, high, symmetric)
        assert all(same(a, b) for a, b in zip(got, want, strict=True))
        assert got[0][0, 2] == 1 and got[1][0, 2] == min(max(0, low), high)


def state(shape, dtype=torch.float32):
    return torch.full(shape, float("inf"), dtype=dtype), torch.full(shape, -float("inf"), dtype=dtype), torch.zeros((), dtype=torch.int64)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("averaging", [1.0, 0.01])
@pytest.mark.parametrize("shape, block_size, entries", [((40, 9), [], ()), ((40, 9), [-1, 1], (1, 9)), ((6, 8, 3), [-1, 4, -1], (1, 2, 1))])
def test_observer_equals_the_reference(name, averaging, shape, block_size, entries):
    lo, hi, count = state(entries)
    want_lo = want_hi = None
    bad = 0
    c = np.float32(averaging)
    for step in range(4):
        x = sample(shape, seed=step)
        batch_lo, batch_hi, n = reference.block_ranges(x, block_size)
        bad += n
        if want_lo is None:
            want_lo, want_hi = batch_lo, batch_hi
        elif averaging == 1:
            want_lo, want_hi = np.minimum(want_lo, batch_lo), np.maximum(want_hi, batch_hi)
        else:
            want_lo = (np.float32(1) - c) * want_lo + c * batch_lo
            want_hi = (np.float32(1) - c) * want_hi + c * batch_hi
        with isa(name):
            got = ops.observe_minmax_(x, lo, hi, count, block_size, averaging, 0, 255, False)
        assert same(lo, torch.from_numpy(np.asarray(want_lo))) and same(hi, torch.from_numpy(np.asarray(want_hi)))
        want = reference.qparams(want_lo, want_hi, 0, 255, False)
        assert all(same(a, b) for a, b in zip(got, want, strict=True))
    assert count == bad > 0


def test_observer_agrees_with_torch():
    from torch.ao.quantization import MinMaxObserver, MovingAverageMinMaxObserver

    theirs = [MinMaxObserver(dtype=torch.quint8), MovingAverageMinMaxObserver(averaging_constant=0.1, dtype=torch.quint8)]
    ours = [(1.0, state(())), (0.1, state(()))]
    for step in range(5):
        x = sample((10, 10), seed=step, special=False)
        for observer, (averaging, (lo, hi, count)) in zip(theirs, ours, strict=True):
            observer(x)
            scale, zero_point = ops.observe_minmax_(x, lo, hi, count, [], averaging, 0, 255, False)
            want_scale, want_zero_point = observer.calculate_qparams()
            torch.testing.assert_close(scale.reshape(1), want_scale, rtol=1e-6, atol=0)
            assert zero_point.reshape(1) == want_zero_point


def test_nothing_finite_leaves_the_state_alone():
    lo, hi, count = state(())
    scale, zero_point = ops.observe_minmax_(torch.full((3,), float("nan")), lo, hi, count, [], 1.0, 0, 255, False)
    assert lo == float("inf") and hi == -float("inf") and count == 3 and scale == 1 and zero_point == 0
    ops.observe_minmax_(torch.empty(0), lo, hi, count, [], 1.0, 0, 255, False)
    assert lo == float("inf") and count == 3
    ops.observe_minmax_(torch.tensor([1.0, -2.0]), lo, hi, count, [], 0.5, 0, 255, False)
    assert (lo, hi) == (-2.0, 1.0)


def test_observer_state_of_other_dtypes_and_layouts():
    x = sample((6, 9), special=False)
    want = state((1, 9))
    ops.observe_minmax_(x, *want, [-1, 1], 1.0, 0, 255, False)
    for dtype in (torch.float64, torch.bfloat16):
        lo, hi, count = state((1, 9), dtype)
        ops.observe_minmax_(x, lo, hi, count, [-1, 1], 1.0, 0, 255, False)
        assert same(lo, want[0].to(dtype)) and same(hi, want[1].to(dtype))
    lo = torch.full((9, 2), float("inf"))[:, 0]
    hi = torch.full((9, 2), -float("inf"))[:, 0]
    ops.observe_minmax_(x, lo, hi, torch.zeros(1, dtype=torch.int64), [-1, 1], 1.0, 0, 255, False)
    assert same(lo.contiguous().view(1, 9), want[0]) and same(hi.contiguous().view(1, 9), want[1])


def test_observer_bumps_versions_and_records_nothing():
    lo, hi, count = state(())
    before = lo._version
    scale, _ = ops.observe_minmax_(torch.randn(5, requires_grad=True), lo, hi, count, [], 1.0, 0, 255, False)
    assert lo._version > before and hi._version > before and count._version > before
    assert not lo.requires_grad and not scale.requires_grad


@pytest.mark.parametrize("block_size", [[], [1, -1], [-1, 1], [64, 64]])
def test_threads(block_size):
    x = sample((700, 130))
    results = []
    for n in (1, 2):
        with threads(n):
            results.append(ops.choose_qparams(x, block_size, 0, 255, False))
    assert all(same(a, b) for a, b in zip(*results, strict=True))


class Observed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, value in zip(("lo", "hi", "count"), state(()), strict=True):
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, zero_point = torch.ops.torchqat.observe_minmax_(x, self.lo, self.hi, self.count, [], 0.1, 0, 255, False)
        return torch.ops.torchqat.fake_quantize(x, scale, zero_point, [], 0, 255)


def test_opcheck_compile_script_and_export():
    x = sample((6, 40), special=False)
    torch.library.opcheck(ops.choose_qparams.default, (x, [1, 16], 0, 255, False))
    torch.library.opcheck(ops.choose_qparams.default, (x, [], 0, 255, False))
    torch.library.opcheck(ops.qparams_from_range.default, (-x.abs(), x.abs(), 0, 255, False))
    torch.library.opcheck(ops.observe_minmax_.default, (x, *state((1, 40)), [-1, 1], 0.1, 0, 255, False))
    modules = [Observed(), torch.compile(Observed(), fullgraph=True, dynamic=True), torch.jit.script(Observed())]
    for step in range(4):
        x = sample((6 + step, 40), seed=step, special=False)
        results = []
        for module in modules:
            leaf = x.clone().requires_grad_()
            y = module(leaf)
            (y * y.detach()).sum().backward()
            results.append((y.detach(), leaf.grad, module.lo.clone(), module.hi.clone()))
        for other in results[1:]:
            assert all(same(a, b) for a, b in zip(results[0], other, strict=True)), step
    exported = torch.export.export(Observed(), (x,)).module()
    assert same(exported(x), Observed()(x))


X = torch.zeros(4, 8)


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, "choose_qparams: quant_max must be > 0 for symmetric scales, got -1", lambda: ops.choose_qparams(X, [], -8, -1, True)),
        (ValueError, r"choose_qparams: block_size must have one entry per input dimension \(2\)", lambda: ops.choose_qparams(X, [1, 1, 1], -8, 7, True)),
        (TypeError, "choose_qparams: input must be float32", lambda: ops.choose_qparams(X.int(), [], -8, 7, True)),
        (ValueError, r"qparams_from_range: max_val must have the shape of min_val \[4, 8\], got \[4\]", lambda: ops.qparams_from_range(X, X[:, 0], -8, 7, True)),
        (TypeError, "qparams_from_range: max_val must have the dtype", lambda: ops.qparams_from_range(X, X.double(), -8, 7, True)),
        (TypeError, "qparams_from_range: min_val must be float32", lambda: ops.qparams_from_range(X.int(), X, -8, 7, True)),
        (ValueError, r"observe_minmax_: averaging_constant must be in \(0, 1\], got 0", lambda: ops.observe_minmax_(X, *state(()), [], 0.0, 0, 7, False)),
        (ValueError, r"observe_minmax_: min_val and max_val must have 8 entries \(shape \[1, 8\]\), got \[\]", lambda: ops.observe_minmax_(X, *state(()), [-1, 1], 1.0, 0, 7, False)),
        (TypeError, "observe_minmax_: nonfinite_count must be int64, got float32", lambda: ops.observe_minmax_(X, *state(())[:2], torch.zeros(()), [], 1.0, 0, 7, False)),
        (ValueError, "observe_minmax_: nonfinite_count must have one element", lambda: ops.observe_minmax_(X, *state(())[:2], torch.zeros(2).long(), [], 1.0, 0, 7, False)),
    ],
)
def test_bad_arguments(error, message, call):
    with pytest.raises(error, match=message):
        call()
