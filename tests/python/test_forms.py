"""Integer forms of operations without weights: the ops against ATen on the same grids, on every instruction set."""

import pytest
import torch
import torch.nn.functional as F
import torchqat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

ops = torch.ops.torchqat
ISAS = torchqat._C.supported_isas()
U8 = (torch.tensor(0.031), torch.tensor(7, dtype=torch.int32), 0, 255)
S8 = (torch.tensor(0.05), torch.tensor(-9, dtype=torch.int32), -128, 127)
U4 = (torch.tensor(0.4), torch.tensor(5, dtype=torch.int32), 0, 15)
SHAPES = [(2, 3, 5, 7), (3,), (), (0, 4), (1, 70, 9, 9), (65,)]


def fake(x, grid):
    return ops.fake_quantize(x, grid[0], grid[1], [], grid[2], grid[3])


def codes(x, grid):
    return ops.quantize(x, grid[0], grid[1], [], grid[2], grid[3], torch.int8 if grid[2] < 0 else torch.uint8)


def centred(x, grid):
    return ops.fake_quantize(x / grid[0], torch.tensor(1.0), grid[1], [], grid[2], grid[3])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("grids", [(U8, S8, U8), (U4, U8, S8), (S8, S8, U4)])
@pytest.mark.parametrize("shape", SHAPES)
def test_add_is_the_sum_of_the_rounded_values(isa, grids, shape):
    ops._set_cpu_isa(isa)
    g = torch.Generator().manual_seed(len(shape))
    a, b = torch.randn(shape, generator=g) * 4, torch.randn(shape, generator=g) * 4
    first, second, out = grids
    expected = fake(a, first) + fake(b, second)
    for x in (a, codes(a, first)):
        for y in (b, codes(b, second)):
            assert torch.equal(ops.add_int8(x, y, *first, *second), expected)
            for relu in (False, True):
                result = ops.add_int8(x, y, *first, *second, relu, *out)
                assert torch.equal(result, codes(expected.relu() if relu else expected, out))


def test_add_keeps_nan_and_memory_format():
    a, b = torch.randn(2, 5, 4, 3).to(memory_format=torch.channels_last), torch.randn(2, 5, 4, 3)
    a[1, 2, 3, 1] = float("nan")
    y = ops.add_int8(a, b, *U8, *U8)
    assert y.isnan().sum() == 1 and y[1, 2, 3, 1].isnan() and y.is_contiguous(memory_format=torch.channels_last)
    assert ops.add_int8(a, b, *U8, *U8, False, *S8)[1, 2, 3, 1] == -9


POOLS = {
    "1d": ((2, 5, 17), [4], [3], [2]),
    "2d": ((2, 70, 9, 8), [3, 2], [2, 1], [1, 0]),
    "wide": ((1, 200, 7, 7), [7, 7], [7, 7], [0, 0]),
    "3d": ((2, 3, 5, 6, 7), [2, 3, 2], [1, 2, 2], [0, 1, 1]),
    "no samples": ((0, 3, 6, 6), [2, 2], [2, 2], [0, 0]),
}
AVERAGE = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}
MAXIMUM = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("grid", [U8, S8])
@pytest.mark.parametrize("name", POOLS)
def test_average_is_an_exact_sum_times_a_factor(isa, grid, name):
    ops._set_cpu_isa(isa)
    shape, kernel, stride, padding = POOLS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 3
    count = torch.tensor(kernel).prod()
    sums = torch.round(AVERAGE[x.dim()](centred(x, grid).double(), kernel, stride, padding) * count)
    windows = sums.float() * (grid[0] / count)
    dims = list(range(2, x.dim()))
    whole = centred(x, grid).double().sum(dims, keepdim=True).float() * (grid[0] / x[0, 0].numel() if len(x) else 1)
    for value in (x, codes(x, grid)):
        for format in (torch.contiguous_format, FORMATS.get(x.dim(), torch.contiguous_format)):
            v = value.contiguous(memory_format=format)
            y = ops.avg_pool_int8(v, *grid, kernel, stride, padding)
            assert torch.equal(y, windows) and y.is_contiguous(memory_format=format)
            assert torch.equal(ops.avg_pool_int8(v, *grid, [], [], []), whole)
            assert torch.equal(ops.avg_pool_int8(v, *grid, kernel, stride, padding, *S8), codes(windows, S8))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_max_pooling_of_codes_is_atens_of_floats(isa, dtype, data):
    ops._set_cpu_isa(isa)
    draw = lambda low, high: data.draw(st.integers(low, high))
    dims = draw(1, 3)
    kernel = [draw(1, 4) for _ in range(dims)]
    stride, dilation = [draw(1, 3) for _ in range(dims)], [draw(1, 2) for _ in range(dims)]
    padding, ceil = [draw(0, k // 2) for k in kernel], data.draw(st.booleans())
    size = [draw(d * (k - 1) + 1, 12) for k, d in zip(kernel, dilation)]
    low = 0 if dtype == torch.uint8 else -128
    x = torch.randint(low, low + 256, (draw(1, 2), draw(1, 70), *size)).to(dtype)
    expected = MAXIMUM[dims + 2](x.float(), kernel, stride, padding, dilation, ceil)
    assert torch.equal(ops.max_pool_codes(x, kernel, stride, padding, dilation, ceil).float(), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("grid", [U8, S8, U4])
@pytest.mark.parametrize("shape", SHAPES)
def test_lookup_reads_the_entry_of_each_code(isa, grid, shape):
    ops._set_cpu_isa(isa)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 4
    index = codes(x, grid).long() - grid[2]
    size = grid[3] - grid[2] + 1
    for table in (torch.randn(size), torch.arange(size).to(torch.uint8), (torch.arange(size) - 9).to(torch.int8)):
        for value in (x, codes(x, grid)):
            assert torch.equal(ops.lookup_int8(value, *grid, table), table[index])


def test_lookup_of_nan():
    x = torch.tensor([float("nan"), 1.0])
    assert ops.lookup_int8(x, *U8, torch.ones(256)).isnan().tolist() == [True, False]
    assert ops.lookup_int8(x, *U8, torch.arange(256).to(torch.uint8))[0] == 7


def test_threads_do_not_change_bits():
    x, y = torch.randn(3, 70, 40, 40) * 4, torch.randn(3, 70, 40, 40)
    table = torch.randn(256)
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        results = ops.add_int8(x, y, *U8, *S8), ops.avg_pool_int8(x, *U8, [3, 3], [1, 1], [1, 1]), ops.lookup_int8(x, *U8, table)
        first = results if threads == 1 else first
        assert all(map(torch.equal, results, first))


def test_opcheck():
    x, y = torch.randn(2, 5, 6, 6), torch.randn(2, 5, 6, 6)
    q = codes(x, U8)
    for grid in ((), U8):
        opcheck(ops.add_int8.default, (x, q, *S8, *U8, True, *grid))
        opcheck(ops.avg_pool_int8.default, (q, *U8, [3, 3], [2, 2], [1, 1], *grid))
    opcheck(ops.max_pool_codes.default, (q, [3, 3], [2, 2], [1, 1], [1, 1], True))
    opcheck(ops.lookup_int8.default, (y, *S8, torch.randn(256)))


def test_bad_arguments_are_named():
    x, q = torch.randn(1, 3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    scale, zero, low, high = U8
    with pytest.raises(TypeError, match=r"add_int8: b must be float32, or .*Byte.* codes .* got Char"):
        ops.add_int8(q, q.to(torch.int8), *U8, *U8)
    with pytest.raises(ValueError, match=r"add_int8: a and b must have one shape"):
        ops.add_int8(q, q[0], *U8, *U8)
    with pytest.raises(ValueError, match=r"add_int8: b_zero_point must lie within \[0, 255\], got 300"):
        ops.add_int8(q, q, *U8, scale, torch.tensor(300), low, high)
    with pytest.raises(ValueError, match=r"add_int8: a_scale must be finite and > 0, got 0"):
        ops.add_int8(q, q, torch.tensor(0.0), zero, low, high, *U8)
    with pytest.raises(ValueError, match=r"output_scale and output_zero_point must be given together"):
        ops.avg_pool_int8(q, *U8, [], [], [], scale)
    with pytest.raises(ValueError, match=r"avg_pool_int8: stride must have 2 entries"):
        ops.avg_pool_int8(q, *U8, [2, 2], [2], [0, 0])
    with pytest.raises(ValueError, match=r"avg_pool_int8: kernel_size .* must fit the input"):
        ops.avg_pool_int8(q, *U8, [5, 5], [1, 1], [0, 0])
    with pytest.raises(ValueError, match=r"a window must have from 1 to 65536 elements, got 90000"):
        ops.avg_pool_int8(torch.zeros(1, 1, 300, 300), *U8, [], [], [])
    with pytest.raises(TypeError, match=r"max_pool_codes: codes must be uint8 or int8, got Float"):
        ops.max_pool_codes(x, [2, 2], [2, 2], [0, 0], [1, 1])
    with pytest.raises(ValueError, match=r"max_pool_codes: padding must be at most half of kernel_size"):
        ops.max_pool_codes(q, [2, 2], [2, 2], [2, 2], [1, 1])
    with pytest.raises(ValueError, match=r"lookup_int8: table must have shape \[256\]"):
        ops.lookup_int8(q, *U8, torch.zeros(255))
    with pytest.raises(TypeError, match=r"lookup_int8: table must be float32, uint8 or int8, got Double"):
        ops.lookup_int8(q, *U8, torch.zeros(256, dtype=torch.float64))
