"""observe_histogram_ and qparams_from_histogram: exact counts, percentiles, least squares."""

import numpy as np
import pytest
import torch
from affine_cases import DTYPES, same, sample, threads

ops = torch.ops.torchqat


def state(bins=2048):
    return (
        torch.zeros(bins, dtype=torch.int64),
        torch.zeros(()),
        torch.tensor(float("inf")),
        torch.tensor(-float("inf")),
        torch.zeros((), dtype=torch.int64),
    )


def counts(values, bound, bins):
    """numpy's counts over [-bound, bound); the last bin takes +bound too."""
    return np.histogram(values, bins=bins, range=(-bound, bound))[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bins", [16, 2048])
def test_counts_equal_numpy_however_the_range_grew(dtype, bins):
    histogram, bound, lo, hi, bad = state(bins)
    seen = []
    for step, factor in enumerate((0.01, 1.0, 0.3, 40.0)):
        x = (sample((50, 41), torch.float32, seed=step, special=False) * factor).to(dtype)
        x.view(-1)[3] = float("nan")
        x.view(-1)[5] = float("inf")
        count = ops.observe_histogram_(x, histogram, bound, lo, hi, bad)
        assert count == x.numel() - 2
        seen.append(x.float()[torch.isfinite(x)])
    values = torch.cat(seen).numpy()
    limit = float(bound)
    assert limit / 2 < np.abs(values).max() <= limit and np.log2(limit) % 1 == 0
    assert bad == 8 and lo == values.min() and hi == values.max()
    assert np.array_equal(histogram.numpy(), counts(values, limit, bins))


def test_threads_layouts_and_repeats_give_the_same_counts():
    x = sample((8, 16, 40, 30)).to(memory_format=torch.channels_last)
    results = []
    for n in (1, 2):
        with threads(n):
            for data in (x, x.contiguous(), x[:, ::2].contiguous(), x[:, ::2]):
                s = state()
                ops.observe_histogram_(data, *s)
                results.append(s)
    for a, b in ((0, 1), (0, 4), (2, 3), (2, 6), (2, 7)):
        assert all(same(p, q) for p, q in zip(results[a], results[b], strict=True))


def test_order_of_batches_does_not_matter():
    batches = [sample((100,), seed=i, special=False) * 3.0**i for i in range(5)]
    forward, backward = state(), state()
    for x in batches:
        ops.observe_histogram_(x, *forward)
    for x in reversed(batches):
        ops.observe_histogram_(x, *backward)
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))


def observed(x, bins=2048):
    s = state(bins)
    ops.observe_histogram_(x, *s)
    return s[:4]


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentile_ranges_hold_what_they_say(percentile):
    x = sample((200, 500), special=False)
    width = 2 * float(observed(x)[1]) / 2048
    scale, zero_point = ops.qparams_from_histogram(*observed(x), -127, 127, True, "percentile", percentile)
    below, above = (np.percentile(x.abs().numpy(), percentile, method=m) for m in ("lower", "higher"))
    assert below - width <= 127 * float(scale) <= above + width and zero_point == 0
    scale, zero_point = ops.qparams_from_histogram(*observed(x), 0, 255, False, "percentile", percentile)
    lo, hi = -float(zero_point) * float(scale), (255 - float(zero_point)) * float(scale)
    slack = width + float(scale)
    for got, p in ((hi, percentile), (lo, 100 - percentile)):
        below, above = (np.percentile(x.numpy(), p, method=m) for m in ("lower", "higher"))
        assert below - slack <= got <= above + slack


def test_the_whole_percentile_is_min_and_max():
    x = sample((100, 50), special=False)
    for low, high, symmetric in ((-127, 127, True), (0, 255, False)):
        got = ops.qparams_from_histogram(*observed(x), low, high, symmetric, "percentile", 100.0)
        assert all(same(a, b) for a, b in zip(got, ops.choose_qparams(x, [], low, high, symmetric), strict=True))


@pytest.mark.parametrize("low, high, symmetric", [(-8, 7, True), (0, 15, False), (-2, 1, True), (0, 255, False)])
def test_least_squares_beats_min_and_max_and_is_near_the_best(low, high, symmetric):
    generator = torch.Generator().manual_seed(0)
    for x in (torch.randn(20000, generator=generator), torch.randn(20000, generator=generator).relu(), torch.randn(20000, generator=generator) ** 3):
        def error(qparams, x=x):
            return (ops.fake_quantize(x, *qparams, [], low, high) - x).double().square().mean()

        got = error(ops.qparams_from_histogram(*observed(x), low, high, symmetric, "mse"))
        assert got <= error(ops.choose_qparams(x, [], low, high, symmetric)) * 1.001
        shrunk = [error(ops.qparams_from_range(x.min() * f, x.max() * f, low, high, symmetric)) for f in np.linspace(0.02, 1, 200)]
        assert got <= min(shrunk) * 1.05


def test_nothing_seen():
    for method in ("percentile", "mse"):
        scale, zero_point = ops.qparams_from_histogram(*state()[:4], 0, 255, False, method)
        assert scale == 1 and zero_point == 0
    s = state()
    assert ops.observe_histogram_(torch.full((4,), float("nan")), *s) == 0
    assert ops.observe_histogram_(torch.empty(0), *s) == 0
    assert s[1] == 0 and s[4] == 4


def test_extreme_magnitudes():
    for values in ([0.0], [1e-45, -1e-45], [3.4e38, -3.4e38], [2.0**127], [1.0, 2.0, 4.0]):
        x = torch.tensor(values)
        s = state(16)
        ops.observe_histogram_(x, *s)
        assert s[0].sum() == len(values) and torch.isfinite(s[1])
        for method in ("percentile", "mse"):
            scale, zero_point = ops.qparams_from_histogram(*s[:4], 0, 255, False, method, 100.0)
            assert torch.isfinite(scale) and scale > 0 and 0 <= zero_point <= 255


class Observed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, value in zip(("histogram", "bound", "lo", "hi", "bad"), state(64), strict=True):
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.ops.torchqat.observe_histogram_(x, self.histogram, self.bound, self.lo, self.hi, self.bad)
        scale, zero_point = torch.ops.torchqat.qparams_from_histogram(self.histogram, self.bound, self.lo, self.hi, 0, 15, False, "mse")
        return torch.ops.torchqat.fake_quantize(x, scale, zero_point, [], 0, 15)


def test_opcheck_compile_and_script():
    x = sample((6, 40), special=False)
    torch.library.opcheck(ops.observe_histogram_.default, (x, *state(64)))
    torch.library.opcheck(ops.qparams_from_histogram.default, (*observed(x, 64), 0, 15, False, "percentile", 99.0))
    modules = [Observed(), torch.compile(Observed(), fullgraph=True, dynamic=True), torch.jit.script(Observed())]
    for step in range(3):
        results = []
        for module in modules:
            leaf = (sample((6 + step, 40), seed=step, special=False) * 4.0**step).requires_grad_()
            y = module(leaf)
            (y * y.detach()).sum().backward()
            results.append((y.detach(), leaf.grad, module.histogram.clone(), module.bound.clone()))
        for other in results[1:]:
            assert all(same(a, b) for a, b in zip(results[0], other, strict=True)), step


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, r"observe_histogram_: histogram must be 1-D with a power of two of bins from 16 to 2\^24, got \[100\]", lambda: ops.observe_histogram_(torch.zeros(3), *state(100))),
        (TypeError, "observe_histogram_: input must be float32", lambda: ops.observe_histogram_(torch.zeros(3).int(), *state())),
        (TypeError, "observe_histogram_: bound must be float32, got float64", lambda: ops.observe_histogram_(torch.zeros(3), state()[0], torch.zeros(()).double(), *state()[2:])),
        (TypeError, "observe_histogram_: nonfinite_count must be int64, got float32", lambda: ops.observe_histogram_(torch.zeros(3), *state()[:4], torch.zeros(()))),
        (ValueError, "qparams_from_histogram: method must be 'percentile' or 'mse', got 'kl'", lambda: ops.qparams_from_histogram(*state()[:4], 0, 255, False, "kl")),
        (ValueError, r"qparams_from_histogram: percentile must be in \(50, 100\], got 50", lambda: ops.qparams_from_histogram(*state()[:4], 0, 255, False, "percentile", 50.0)),
        (ValueError, "qparams_from_histogram: quant_max must be > 0 for symmetric scales, got 0", lambda: ops.qparams_from_histogram(*state()[:4], -8, 0, True, "mse")),
    ],
)
def test_bad_arguments(error, message, call):
    with pytest.raises(error, match=message):
        call()
