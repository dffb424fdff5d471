"""fake_quantize_observed and merge_range_: together the same as fake_quantize beside observe_minmax_."""

import pytest
import torch
from affine_cases import CASES, DTYPES, ISAS, isa, same, sample, threads

ops = torch.ops.torchqat


def state(shape):
    return torch.full(shape, float("inf")), torch.full(shape, -float("inf")), torch.zeros((), dtype=torch.int64)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_pass_equals_two(name, dtype):
    for shape, block_size in CASES:
        x, dy = sample(shape, dtype), sample(shape, dtype, seed=1, special=False)
        scale, zero_point = ops.choose_qparams(x.clamp(-2, 2), block_size, 0, 15, False)
        ours, theirs = state(scale.shape), state(scale.shape)
        want_qparams = ops.observe_minmax_(x, *theirs, block_size, 0.1, 0, 15, False)
        plain = x.clone().requires_grad_()
        want = ops.fake_quantize(plain, scale, zero_point, block_size, 0, 15)
        want.backward(dy)
        for n in (1, 2):
            leaf = x.clone().requires_grad_()
            with isa(name), threads(n):
                y, lo, hi, bad = ops.fake_quantize_observed(leaf, scale, zero_point, block_size, 0, 15)
                without = ops.fake_quantize_observed(x, scale, zero_point, block_size, 0, 15)
            y.backward(dy)
            assert same(y.detach(), want.detach()) and same(leaf.grad, plain.grad), (shape, block_size)
            assert lo.dtype == scale.dtype and lo.shape == scale.shape and not lo.requires_grad
            assert all(same(a.detach(), b) for a, b in zip((y, lo, hi, bad), without, strict=True))
        qparams = ops.merge_range_(*ours, lo, hi, bad, 0.1, 0, 15, False)
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True)), (shape, block_size)
        assert all(same(a, b) for a, b in zip(qparams, want_qparams, strict=True))


def test_threads_and_layouts():
    x = sample((3, 40, 30, 31)).to(memory_format=torch.channels_last)
    for block_size in ([], [-1, 1, -1, -1], [1, -1, -1, -1]):
        scale, zero_point = ops.choose_qparams(x, block_size, 0, 255, False)
        want_lo, want_hi, want_count = state(scale.shape)
        ops.observe_minmax_(x, want_lo, want_hi, want_count, block_size, 1.0, 0, 255, False)
        for n in (1, 2):
            with threads(n):
                y, lo, hi, bad = ops.fake_quantize_observed(x, scale, zero_point, block_size, 0, 255)
            assert same(y, ops.fake_quantize(x, scale, zero_point, block_size, 0, 255)) and y.stride() == x.stride()
            assert same(lo, want_lo) and same(hi, want_hi) and same(bad, want_count)


class Delayed(torch.nn.Module):
    """Quantises with the scale of the steps before and observes in the same pass."""

    def __init__(self):
        super().__init__()
        for name, value in zip(("lo", "hi", "count"), state(()), strict=True):
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, zero_point = torch.ops.torchqat.qparams_from_range(self.lo, self.hi, 0, 255, False)
        y, lo, hi, bad = torch.ops.torchqat.fake_quantize_observed(x, scale, zero_point, [], 0, 255)
        torch.ops.torchqat.merge_range_(self.lo, self.hi, self.count, lo, hi, bad, 0.1, 0, 255, False)
        return y


def test_opcheck_compile_and_script():
    x = sample((6, 40), special=False)
    scale = torch.full((6, 1), 0.3)
    torch.library.opcheck(ops.fake_quantize_observed.default, (x.clone().requires_grad_(), scale, None, [1, -1], -8, 7))
    torch.library.opcheck(ops._fake_quantize_observed_forward.default, (x, scale, None, [1, -1], -8, 7))
    torch.library.opcheck(ops.merge_range_.default, (*state(()), torch.tensor(-1.0), torch.tensor(2.0), torch.tensor(3), 0.1, -8, 7, True))
    modules = [Delayed(), torch.compile(Delayed(), fullgraph=True, dynamic=True), torch.jit.script(Delayed())]
    for step in range(3):
        results = []
        for module in modules:
            leaf = sample((6 + step, 40), seed=step, special=False).requires_grad_()
            y = module(leaf)
            (y * y.detach()).sum().backward()
            results.append((y.detach(), leaf.grad, module.lo.clone(), module.hi.clone()))
        for other in results[1:]:
            assert all(same(a, b) for a, b in zip(results[0], other, strict=True)), step


def test_versions_are_bumped():
    lo, hi, count = state(())
    before = [t._version for t in (lo, hi, count)]
    ops.merge_range_(lo, hi, count, torch.tensor(-1.0), torch.tensor(1.0), torch.tensor(2), 1.0, -8, 7, True)
    assert all(t._version > b for t, b in zip((lo, hi, count), before, strict=True))
    assert (lo, hi, count) == (-1, 1, 2)


def test_bad_arguments():
    x = torch.zeros(4, 8)
    with pytest.raises(ValueError, match="fake_quantize_observed: scale must be finite and > 0, got -1"):
        ops.fake_quantize_observed(x, torch.tensor(-1.0), None, [], -8, 7)
    one = torch.zeros(())
    with pytest.raises(ValueError, match=r"merge_range_: new_max must have as many entries as min_val \(1\), got \[2\]"):
        ops.merge_range_(*state(()), one, torch.zeros(2), torch.tensor(0), 1.0, -8, 7, True)
    with pytest.raises(TypeError, match="merge_range_: new_nonfinite must be int64, got float32"):
        ops.merge_range_(*state(()), one, one, one, 1.0, -8, 7, True)
    with pytest.raises(ValueError, match=r"merge_range_: averaging_constant must be in \(0, 1\], got 2"):
        ops.merge_range_(*state(()), one, one, torch.tensor(0), 2.0, -8, 7, True)
