"""Integer forms, the linear layer between codes, PACT, and the ops made of others, on CUDA: the CPU's bits (see cuda_cases)."""

import pytest
import torch
from cuda_cases import SHIM, assert_same, check, codes, on_cpu, on_device, op, requires_device, values

pytestmark = requires_device
U8 = (torch.tensor(0.031), torch.tensor(7, dtype=torch.int32), 0, 255)
S8 = (torch.tensor(0.05), torch.tensor(-9, dtype=torch.int32), -128, 127)
U4 = (torch.tensor(0.4), torch.tensor(5, dtype=torch.int32), 0, 15)


def quantized(x, grid):
    kind = torch.int8 if grid[2] < 0 else torch.uint8
    return on_cpu("quantize", x, grid[0], grid[1], [], grid[2], grid[3], kind)[0]


@pytest.mark.parametrize("grids", [(U8, S8, U8), (U4, U8, S8), (S8, S8, U4)])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (3,), (), (0, 4), (1, 70, 9, 9), (65,)])
def test_add(shape, grids):
    first, second, out = grids
    a, b = values(shape, torch.float32), values(shape, torch.float32, seed=1)
    if len(shape) == 4:
        a, b = a.to(memory_format=torch.channels_last), b.to(memory_format=torch.channels_last)
    for x in (a, quantized(a, first)):
        for y in (b, quantized(b, second)):
            check("add_int8", x, y, *first, *second)
            for relu in (False, True):
                check("add_int8", x, y, *first, *second, relu, *out)


POOLS = [
    ((2, 5, 17), [4], [3], [2]),
    ((2, 70, 9, 8), [3, 2], [2, 1], [1, 0]),
    ((1, 200, 7, 7), [7, 7], [7, 7], [0, 0]),
    ((2, 3, 5, 6, 7), [2, 3, 2], [1, 2, 2], [0, 1, 1]),
    ((0, 3, 6, 6), [2, 2], [2, 2], [0, 0]),
]


@pytest.mark.parametrize("shape, kernel, stride, padding", POOLS)
@pytest.mark.parametrize("grid", [U8, S8])
def test_pools(shape, kernel, stride, padding, grid):
    x = values(shape, torch.float32, special=False)
    held = quantized(x, grid)
    # Strides of dimensions of one element, and of nothing, are not compared.
    same = lambda name, *args: assert_same(*(f(name, *args)[0].clone(memory_format=torch.contiguous_format) for f in (on_cpu, on_device)), name)
    for value in (x, held):
        for window in ((kernel, stride, padding), ([], [], [])):
            same("avg_pool_int8", value, *grid, *window)
            same("avg_pool_int8", value, *grid, *window, *S8)
    for ceil_mode in (False, True):
        same("max_pool_codes", held, kernel, stride, padding, [1] * len(kernel), ceil_mode)


@pytest.mark.parametrize("grid", [U8, S8, U4])
@pytest.mark.parametrize("shape", [(3, 70), (), (0, 4), (2, 3, 5, 5)])
def test_lookup(shape, grid):
    entries = grid[3] - grid[2] + 1
    x = values(shape, torch.float32)
    for table in (torch.linspace(-1, 1, entries), torch.arange(entries).to(torch.uint8)):
        for value in (x, quantized(x, grid)):
            check("lookup_int8", value, *grid, table)


@pytest.mark.parametrize("grid", [U8, S8, U4])
@pytest.mark.parametrize("shape", [(3, 70), (), (0, 4), (2, 3, 5, 5)])
def test_lookup_in_training(shape, grid):
    entries = grid[3] - grid[2] + 1
    x, dy = values(shape, torch.float32), values(shape, torch.float32, seed=1, special=False)
    table, slope = torch.linspace(-1, 1, entries), torch.linspace(2, -3, entries)
    if len(shape) == 4:
        x = x.to(memory_format=torch.channels_last)
    check("qat_lookup_int8", x, *grid, table, slope)
    check("_qat_lookup_int8_forward", x, *grid, table)
    _, index, mask = on_cpu("_qat_lookup_int8_forward", x, *grid, table)[0]
    check("_qat_lookup_int8_backward", dy, index, mask, slope)


@pytest.mark.parametrize("m, n, k", [(1, 70, 33), (3, 64, 64), (20, 5, 130), (0, 5, 9)])
@pytest.mark.parametrize("grid", [U8, S8])
def test_linear_between_codes(m, n, k, grid):
    packed = on_cpu("linear_int8_pack", codes((n, k)))[0]
    weight_scale, bias = torch.rand(n, generator=torch.Generator().manual_seed(0)) * 0.01 + 1e-3, torch.linspace(-1, 1, n)
    x = values((m, k), torch.float32, special=False)
    for value in (x, quantized(x, grid)):
        for relu in (False, True):
            check("linear_int8_codes", value, packed, weight_scale, bias, *grid, relu)
            check("linear_int8_codes", value, packed, weight_scale, None, *grid, relu, *U8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (33, 100), (3, 2600), (0, 5)])
def test_pact(shape, dtype):
    x, grad = values(shape, dtype), values(shape, dtype, seed=1, special=False)
    scale = torch.tensor([0.02], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    check("fake_quantize_pact", x, scale, [], 0, 255, 0.5)
    expected, _ = on_cpu("_fake_quantize_pact_backward", grad, x, scale, [], 0, 255, 0.5)
    found, _ = on_device("_fake_quantize_pact_backward", grad, x, scale, [], 0, 255, 0.5)
    assert_same(expected[0], found[0])
    torch.testing.assert_close(expected[1], found[1], rtol=1e-6, atol=1e-4)


def test_ops_made_of_others():
    """Nothing in them waits, and no tensor of theirs stays behind on the CPU."""
    x = values((33, 96), torch.float32, special=False)
    check("choose_scale_ternary", x, [1, 32])
    check("fake_quantize_ternary", x, torch.rand(33, 3, generator=torch.Generator().manual_seed(2)) + 0.1, [1, 32])
    check("quantize_binary", x)
    log, base, grad = torch.linspace(-2, 2, 33), torch.rand(33) + 0.1, torch.linspace(-1, 1, 33)
    for name in ("learned_scale", "power_of_two_scale"):
        scale, _ = on_cpu(name, log, base)
        found, _ = on_device(name, log, base)
        torch.testing.assert_close(scale, found, rtol=1e-6 if name == "learned_scale" else 0, atol=0)
    on = lambda name, *args: (on_cpu(name, *args)[0], on_device(name, *args)[0])
    torch.testing.assert_close(*on("_learned_scale_backward", grad, log, base), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(*on("_power_of_two_scale_backward", grad, scale), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape, stride, padding", [((2, 6, 9), [3], [1]), ((2, 12, 3, 5), [2, 3], [1, 0]), ((1, 8, 2, 3, 4), [2, 2, 1], [0, 1, 0])])
def test_phases_of_a_transposed_convolution(shape, stride, padding):
    x = values(shape, torch.float32)
    lengths = [n * s - 2 * p for n, s, p in zip(shape[2:], stride, padding)]
    image = check("_interleave_phases", x, stride, padding, lengths)
    check("_interleave_phases_backward", values(image.shape, torch.float32, seed=1), stride, padding, list(shape[2:]))
    if len(shape) == 4:
        check("_interleave_phases", x.to(memory_format=torch.channels_last), stride, padding, lengths)


def test_float8_layers_and_the_observed_layer():
    x, w = values((9, 64), torch.float32, special=False), values((32, 64), torch.float32, seed=1, special=False)
    bias = torch.linspace(-1, 1, 32)
    on = lambda name, *args: (on_cpu(name, *args)[0], on_device(name, *args)[0])
    tolerance = dict(rtol=1e-5, atol=1e-4) if SHIM else dict(rtol=1e-3, atol=0.3)  # FP8 tensor cores keep some 13 bits of a sum
    torch.testing.assert_close(*on("qat_linear_float8", x, w, bias, None, None, "e4m3fn", "e4m3fn"), **tolerance)
    held, scale, _ = on_cpu("_float8_rows", w, None, "e4m3fn", False)[0]
    torch.testing.assert_close(*on("linear_float8", x, held, scale, bias, None, "e4m3fn", "e4m3fn"), **tolerance)
    state = torch.tensor(float("inf")), torch.tensor(-float("inf")), torch.zeros((), dtype=torch.int64)
    check("qat_linear_int8_observed", x, w, bias, *state, 1.0, 0, 255, False, -127, 127)


def test_the_gradient_of_block_scaled_layers():
    x, w, grad = values((9, 64), torch.float32, special=False), values((32, 64), torch.float32, seed=1), values((9, 32), torch.float32, seed=2)
    for a, b in zip(*(f("_linear_block_float_backward", grad, x, w, [True, True, True])[0] for f in (on_cpu, on_device))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_rows_of_layers_in_one_call_need_no_kernel_of_their_own():
    """_run_layers is made of public ops on every device; it reads its program on the host."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has("torchqat::_run_layers", "CompositeImplicitAutograd") and not has("torchqat::_run_layers", "CPU")
    relu = torch.tensor([2, 11, 1, 0, 1])  # two values; relu makes value 1 of value 0, which nobody reads again
    x = values((3, 5), torch.float32)
    if SHIM:
        found = on_device("_run_layers", x, [], relu)[0]
    else:
        found = op("_run_layers")(x.cuda(), [], relu).cpu()
    assert_same(found, x.relu())
