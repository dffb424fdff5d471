"""Observers, histograms, low-bit scales and stochastic rounding on CUDA against the CPU ops, bit for bit."""

import math

import pytest
import torch
from cuda_cases import (  # noqa: F401
    DTYPES,
    LAYOUTS,
    assert_same,
    check,
    on_device,
    qparams,
    requires_device,
    shuffled_turns,
    values,
)

pytestmark = requires_device


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, block_size", LAYOUTS)
def test_stochastic_rounding(shape, block_size, dtype):
    x = values(shape, dtype)
    scale, zero_point = qparams(shape, block_size)
    for z, seed, offset in ((None, 0, 0), (zero_point, -1, 2**40), (zero_point, 12345, 7)):
        check("fake_quantize_stochastic", x, scale, z, block_size, -30, 25, seed, offset)
        check("_fake_quantize_stochastic_forward", x, scale, z, block_size, -30, 25, seed, offset)


OBSERVED = [*LAYOUTS, ((3, 70000), [1, -1]), ((200003,), []), ((40, 3, 64), [-1, 1, -1])]
# Large tensors in float32 and bfloat16 alone.
OBSERVED_IN_DTYPES = [
    (shape, block_size, dtype)
    for shape, block_size in OBSERVED
    for dtype in DTYPES
    if math.prod(shape) <= 10000 or dtype in (torch.float32, torch.bfloat16)
]


@pytest.mark.parametrize("shape, block_size, dtype", OBSERVED_IN_DTYPES)
def test_quantising_and_observing_in_one_pass(shape, block_size, dtype):
    x = values(shape, dtype)
    scale, zero_point = qparams(shape, block_size)
    for z in (None, zero_point):
        check("_fake_quantize_observed_forward", x, scale, z, block_size, -30, 25)
    _, lo, hi, bad = check("fake_quantize_observed", x, scale, zero_point, block_size, -30, 25)
    for state in (torch.float32, torch.float64):
        running = [torch.full(lo.shape, s * math.inf, dtype=state) for s in (1, -1)] + [torch.tensor(3)]
        for averaging in (1.0, 0.1):
            args = (*running, lo, hi, bad, averaging, 0, 255, False)
            check("merge_range_", *args)
            running = on_device("merge_range_", *args)[1][:3]


def test_observing_an_address_that_takes_no_packets():
    room = values((1001,), torch.float32)
    scale, z = qparams((1000,), [])
    expected = on_device("_fake_quantize_observed_forward", room[:1000].clone(), scale, z, [], -20, 20)[0]
    shifted = torch.cat([room[:1], room[:1000]])[1:]
    assert_same(expected, on_device("_fake_quantize_observed_forward", shifted, scale, z, [], -20, 20)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, block_size", LAYOUTS)
def test_low_bit_scales(shape, block_size, dtype):
    x = values(shape, dtype)
    # Rows of zeros, of one sign, of tiny and huge values.
    if x.dim() > 1 and x.numel() > 100 and x.shape[0] > 2:
        x[0] = 0
        x[1].abs_()
        x[2] *= 1e-30
    for low, high, symmetric in ((-1, 1, True), (-2, 1, True), (0, 3, False), (-8, 7, False)):
        check("choose_qparams_mse", x, block_size, low, high, symmetric)
    scale = check("choose_scale_binary", x, block_size)
    check("fake_quantize_binary", x, scale, block_size)


@pytest.mark.parametrize(
    "shape, block_size", [((2, 2048), [1, -1]), ((2, 2049), [1, -1]), ((5, 1300), []), ((3, 20000), [1, -1])]
)
def test_low_bit_scales_of_long_rows(shape, block_size):
    """Longer rows than a half-warp's: the order of the sums is the same."""
    for dtype, symmetric in ((torch.float32, True), (torch.bfloat16, False)):
        x = values(shape, dtype)
        low, high = (-1, 1) if symmetric else (0, 3)
        check("choose_qparams_mse", x, block_size, low, high, symmetric)
        check("choose_scale_binary", x, block_size)


def test_binary_with_an_invalid_scale_is_nan():
    x = values((4, 16), torch.float32, special=False)
    scale = torch.tensor([[1.0], [0.0], [-1.0], [math.nan]])
    y = on_device("fake_quantize_binary", x, scale, [1, -1])[0]
    assert y[1:].isnan().all() and (y[0].abs() == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bins", [16, 2048, 16384])
def test_histograms_over_steps(bins, dtype):
    histogram, bound = torch.zeros(bins, dtype=torch.int64), torch.tensor(0.0)
    lo, hi, bad = torch.tensor([math.inf]), torch.tensor([-math.inf]), torch.tensor(5)
    state = (histogram, bound, lo, hi, bad)
    inputs = [torch.full((9,), math.nan), values((1,), dtype, seed=9), values((37, 50), dtype, special=False)]
    inputs += [values((3, 1000), dtype, seed=1, special=False) * 300, values((20, 7), dtype), torch.empty(0, 3)]
    for x in inputs:
        args = (x.to(dtype), *state)
        check("observe_histogram_", *args)
        state = on_device("observe_histogram_", *args)[1][1:]
        for method in ("percentile", "mse"):
            for symmetric, low, high in ((True, -127, 127), (False, 0, 255)):
                if method == "mse" and bins > 2048:
                    continue  # the search is slow on the host
                check("qparams_from_histogram", *state[:4], low, high, symmetric, method, 99.0)
    assert int(state[0].sum()) > 3000


def test_percentiles_at_the_ends():
    counts = torch.zeros(64, dtype=torch.int64)
    counts[0], counts[31], counts[32], counts[63] = 10, 5, 5, 10
    state = (counts, torch.tensor(8.0), torch.tensor([-8.0]), torch.tensor([7.9]))
    for percentile in (50.1, 60.0, 66.7, 99.9, 100.0):
        for symmetric in (True, False):
            check("qparams_from_histogram", *state, -127 if symmetric else 0, 127, symmetric, "percentile", percentile)
    empty = (torch.zeros(64, dtype=torch.int64), torch.tensor(0.0), torch.tensor([math.inf]), torch.tensor([-math.inf]))
    for method in ("percentile", "mse"):
        check("qparams_from_histogram", *empty, 0, 255, False, method)
