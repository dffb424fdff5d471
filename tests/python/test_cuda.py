"""Every CUDA kernel against its CPU op, bit for bit; on a GPU where there is one, else on the host shim (see cuda_cases)."""

import pytest
import torch
from cuda_cases import AVAILABLE, WHY_NOT, assert_same, check, on_cpu, on_device, set_order

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

# shape, block_size: one run, short last blocks, packets across runs, columns, several dimensions, long rows.
LAYOUTS = [
    ((1,), []),
    ((7,), []),
    ((3, 1000), []),
    ((2051,), [-1]),
    ((5, 9), [1, -1]),
    ((4, 64), [1, -1]),
    ((33, 100), [1, 32]),
    ((33, 96), [1, 32]),
    ((17, 130), [-1, 1]),
    ((300, 3), [-1, 1]),
    ((3, 2600), [1, -1]),
    ((20, 40), [16, 16]),
    ((21, 43), [8, 9]),
    ((2, 5, 7, 3), [1, -1, 1, -1]),
    ((3, 6, 4, 4), [-1, 1, -1, -1]),
    ((2, 8, 3, 2), [1, 3, -1, 1]),
    ((), []),
    ((0, 5), [1, -1]),
    ((4, 0), [1, -1]),
]


@pytest.fixture(autouse=True)
def turns():
    """On the shim threads take turns in shuffled order: a result that depends on it misses a barrier."""
    set_order(2)
    yield
    set_order(0)


def values(shape, dtype, seed=0, special=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g, dtype=torch.float64) * 3
    if special and x.numel() > 12:
        flat = x.view(-1)
        at = torch.randperm(flat.numel(), generator=g)[:8]
        flat[at] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e30, -1e30, 1e-40, 0.5], dtype=x.dtype)
    return x.to(dtype)


def scale_shape(shape, block_size):
    return [1 if b == -1 else -(-n // b) for n, b in zip(shape, block_size)]


def qparams(shape, block_size, scale_dtype=torch.float32, seed=1):
    g = torch.Generator().manual_seed(seed)
    sizes = scale_shape(shape, block_size)
    scale = (torch.rand(sizes, generator=g) * 0.1 + 0.01).to(scale_dtype)
    zero_point = torch.randint(-20, 20, sizes, generator=g, dtype=torch.int32)
    return scale, zero_point


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, block_size", LAYOUTS)
def test_fake_quantize_forward_and_backward(shape, block_size, dtype):
    x = values(shape, dtype)
    scale, zero_point = qparams(shape, block_size)
    for z in (None, zero_point):
        check("fake_quantize", x, scale, z, block_size, -30, 25)
        _, mask = check("_fake_quantize_forward", x, scale, z, block_size, -30, 25)
    check("_fake_quantize_backward", values(shape, dtype, seed=2), mask, [])


@pytest.mark.parametrize("shape, block_size", LAYOUTS)
def test_quantize_and_dequantize(shape, block_size):
    scale, zero_point = qparams(shape, block_size)
    grids = {torch.int8: (-100, 127), torch.uint8: (0, 255), torch.int16: (-3000, 3000), torch.int32: (-(2**24), 2**24)}
    for dtype, (code, (low, high)) in zip(DTYPES, grids.items()):
        z = zero_point.clamp(min=low)
        codes = check("quantize", values(shape, dtype), scale, z, block_size, low, high, code)
        check("dequantize", codes, scale, z, block_size, dtype)
    for code, (low, high) in grids.items():
        check("quantize", values(shape, torch.float32), scale, None, block_size, low, high, code)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, block_size", LAYOUTS)
def test_qparams_of_data(shape, block_size, dtype):
    x = values(shape, dtype)
    for symmetric, low, high in ((True, -127, 127), (False, 0, 255)):
        check("choose_qparams", x, block_size, low, high, symmetric)
        check("fake_quantize_dynamic", x, block_size, low, high, symmetric)
        for save_mask in (True, False):
            check("_fake_quantize_dynamic_forward", x, block_size, low, high, symmetric, save_mask)


@pytest.mark.parametrize("averaging", [1.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, block_size", LAYOUTS)
def test_observer_over_steps(shape, block_size, dtype, averaging):
    sizes = scale_shape(shape, block_size)
    for state in (torch.float32, torch.float64):
        lo, hi = torch.full(sizes, float("inf"), dtype=state), torch.full(sizes, -float("inf"), dtype=state)
        bad = torch.tensor(5)
        for step in range(3):
            args = (values(shape, dtype, seed=step), lo, hi, bad, block_size, averaging, 0, 255, False)
            check("observe_minmax_", *args)
            _, (_, lo, hi, bad, *_) = on_device("observe_minmax_", *args)
    check("qparams_from_range", lo, hi, -8, 7, True)


def test_large_blocks_are_reduced_in_chunks():
    for shape, block_size in (((3, 70001), [1, -1]), ((200000,), []), ((70, 64, 33), [-1, 1, -1]), ((9000, 3), [-1, 1])):
        for dtype in (torch.float32, torch.bfloat16):
            x = values(shape, dtype)
            check("choose_qparams", x, block_size, 0, 255, False)
            check("_fake_quantize_dynamic_forward", x, block_size, 0, 255, False, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_strides_and_addresses(dtype):
    x = values((4, 6, 5, 7), dtype)
    for block_size in ([], [1, -1, -1, -1], [-1, 1, -1, -1], [-1, 4, -1, 2]):
        scale, z = qparams(x.shape, block_size)
        channels_last = x.to(memory_format=torch.channels_last)
        for view in (channels_last, x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2), x[:, ::2].repeat_interleave(2, 1)):
            y, mask = check("_fake_quantize_forward", view, scale, z, block_size, -128, 127)
            check("choose_qparams", view, block_size, 0, 255, False)
        check("fake_quantize", x.transpose(2, 3), *qparams((4, 6, 7, 5), block_size), block_size, -128, 127)
    order = [0, 2, 3, 1]
    grad = values((4, 6, 5, 7), dtype, seed=3)
    _, mask = check("_fake_quantize_forward", channels_last, scale, z, block_size, -20, 20)
    check("_fake_quantize_backward", grad, mask, order)
    # Not at a multiple of 16 bytes: no packets.
    room = values((1001,), dtype)
    scale, z = qparams((1000,), [])
    for start in (0, 1):
        part = room[start : start + 1000]
        expected, _ = on_device("fake_quantize", part.clone(), scale, z, [], -20, 20)
        assert_same(expected, on_device("fake_quantize", part, scale, z, [], -20, 20)[0])


def test_out_is_written():
    x = values((5, 33), torch.float32)
    scale, z = qparams(x.shape, [1, -1])
    expected, _ = on_device("fake_quantize", x, scale, z, [1, -1], -20, 20)
    for out in (torch.zeros(5, 33), torch.zeros(33, 5).t()):
        check("fake_quantize.out", x, scale, z, [1, -1], -20, 20, out=out)


def test_invalid_scales_and_zero_points_give_nan_and_spare_the_others():
    x = values((6, 40), torch.float32, special=False)
    scale, z = qparams(x.shape, [1, -1])
    expected, _ = on_device("fake_quantize", x, scale, z, [1, -1], -128, 127)
    bad = scale.clone().view(-1)
    bad[:4] = torch.tensor([0.0, -1.0, float("nan"), float("inf")])
    bad_z = z.clone().view(-1).to(torch.int64)
    bad_z[4] = 128
    (y, mask), _ = on_device("_fake_quantize_forward", x, bad.view_as(scale), bad_z.view_as(z), [1, -1], -128, 127)
    assert y[:5].isnan().all() and not mask[: 5 * 40 // 8].any()
    assert_same(expected[5], y[5])
    codes, _ = on_device("quantize", x, bad.view_as(scale), bad_z.view_as(z), [1, -1], -128, 127, torch.int8)
    assert (codes[:4] == z[:4]).all() and (codes[4] == 127).all()


@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("zero_dtype", [torch.int8, torch.uint8, torch.int64])
def test_types_of_scales_and_zero_points(scale_dtype, zero_dtype):
    x = values((4, 50), torch.float32)
    scale, z = qparams(x.shape, [1, -1], scale_dtype)
    check("fake_quantize", x, scale, z.abs().to(zero_dtype), [1, -1], -128, 127)


def test_arguments_are_checked_as_on_the_cpu():
    x = values((4, 50), torch.float32)
    with pytest.raises(ValueError, match="fake_quantize: scale must have shape"):
        on_device("fake_quantize", x, torch.ones(3), None, [1, -1], -8, 7)
    with pytest.raises(ValueError, match="quant_min must be less than quant_max"):
        on_device("choose_qparams", x, [1, -1], 7, 7, False)


FORMATS = ["e4m3fn", "e5m2", "e3m2", "e2m3", "e2m1"]
BLOCK_FORMATS = ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, block_size", LAYOUTS[:-3:2])
def test_float_grids_with_given_scales(shape, block_size, dtype):
    scale, _ = qparams(shape, block_size)
    for number, name in enumerate(FORMATS):
        x = values(shape, dtype, seed=number)
        check("fake_quantize_float", x, scale, block_size, name, "floor")
        check("_fake_quantize_float_forward", x, None, block_size, name, "floor")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 64), (5, 77), (2, 3, 40), (130,), (0, 32), (6, 9)])
def test_block_formats(shape, dtype):
    x = values(shape, dtype, special=False)
    if x.numel() > 100:
        x[..., 33:] *= 1e6
        x.view(-1)[40] = float("inf")
    ones = [1] * (len(shape) - 1)
    for number, name in enumerate(BLOCK_FORMATS):
        rounding = ["floor", "rceil", "ceil", "even"][number % 4]
        for block_size in ([], [*ones, 32], [*ones, 5], [*ones, -1]):
            check("_fake_quantize_float_forward", x, None, block_size, name, rounding)
    check("_fake_quantize_float_forward", x, None, [], "nvfp4", "floor")
    check("_fake_quantize_float_forward", x, torch.tensor(0.03), [], "nvfp4", "floor")


def codes(shape, seed=5):
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)


# M, N, K: one row to the tile sizes and beyond, odd K, short panels.
GEMMS = [(1, 70, 33), (2, 64, 64), (3, 5, 7), (8, 200, 130), (9, 65, 64), (70, 100, 200), (65, 8200, 40), (1, 3, 0), (0, 5, 9)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("m, n, k", GEMMS)
def test_linear_int8(m, n, k, dtype):
    if n > 1000 and dtype != torch.float32:
        pytest.skip("many blocks are tried in float32")
    packed = check("linear_int8_pack", codes((n, k)))
    x = values((m, k), dtype, special=False)
    g = torch.Generator().manual_seed(0)
    weight_scale, bias = torch.rand(n, generator=g) * 0.01 + 1e-3, torch.randn(n, generator=g)
    for low, high in ((0, 255), (-128, 127)):
        per_tensor = torch.tensor(0.03), torch.tensor(low + 100)
        per_row = torch.rand(m, generator=g) * 0.1 + 0.01, torch.randint(low, high, (m,), generator=g)
        for b, (scale, z) in zip((bias, None), (per_tensor, per_row)):
            check("linear_int8", x, packed, weight_scale, b, scale, z, low, high)
    if k > 0 and m > 0:
        check("linear_int8_dynamic", x, packed, weight_scale, bias, True, 0, 255, False)
        check("linear_int8_dynamic", x, packed, weight_scale, None, False, -127, 127, True)
    if m > 1 and k > 1:
        x[1, k // 2] = float("nan")
        y = check("linear_int8", x, packed, weight_scale, bias, *per_tensor, -128, 127)
        assert y[1].isnan().all() and not y[0].isnan().any()


def test_linear_int8_sums_long_rows_in_segments():
    for m in (1, 9):
        x, n, k = values((m, 65536 * 2 + 70), torch.float32, special=False), 3, 65536 * 2 + 70
        packed = check("linear_int8_pack", codes((n, k)))
        check("linear_int8", x, packed, torch.full((n, 1), 0.01), None, torch.tensor(0.05), torch.tensor(128), 0, 255)


def test_linear_int8_refuses_a_foreign_weight_by_nan():
    packed = on_device("linear_int8_pack", codes((8, 40)))[0]
    args = (torch.ones(8), None, torch.tensor(0.1), torch.tensor(0), -128, 127)
    x = values((3, 40), torch.float32, special=False)
    assert not on_device("linear_int8", x, packed, *args)[0].isnan().any()
    for byte in (0, 8, 12, 16, 24):
        foreign = packed.clone()
        foreign[byte] += 1
        assert on_device("linear_int8", x, foreign, *args)[0].isnan().all()
    with pytest.raises(ValueError, match="linear_int8: packed_weight must hold 65 x 40 codes"):
        on_device("linear_int8", x, packed, torch.ones(65), *args[1:])
    bad = torch.ones(8)
    bad[2] = -1.0
    y = on_device("linear_int8", x, packed, bad, *args[1:])[0]
    assert y[:, 2].isnan().all() and not y[:, 3].isnan().any()
    assert_same(codes((8, 40)), on_device("linear_int8_unpack", packed)[0])


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_bit_streams(bits):
    for count in (0, 1, 7, 8, 9, 2500):
        stored = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(count)).to(torch.uint8)
        packed = check("pack_bits", stored, bits)
        for signed in (False, True):
            check("unpack_bits", packed, bits, count, signed)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dim, group", [(1, -1), (5, -1), (64, 32), (70, 32)])
def test_embeddings(bits, signed, dim, group):
    g = torch.Generator().manual_seed(bits)
    low = -(2 ** (bits - 1)) if signed else 0
    table = torch.randint(low, low + 2**bits, (11, dim), generator=g).to(torch.int8 if signed else torch.uint8)
    packed = check("embedding_pack", table, bits)
    check("embedding_unpack", packed)
    groups = 1 if group == -1 else -(-dim // group)
    scale = torch.rand(11, groups, generator=g) + 0.01
    zero_point = torch.randint(0, 3, (11, groups), generator=g, dtype=torch.int32)
    indices = torch.randint(0, 11, (4, 6), generator=g)
    for dtype, z in zip(DTYPES, (None, zero_point, None, zero_point)):
        check("embedding_int", indices, packed, scale, z, dim, group, dtype)
        for mode in ("sum", "mean", "max"):
            check("embedding_bag_int", indices, packed, scale, z, dim, group, dtype, mode=mode, padding_idx=3)
    offsets = torch.tensor([0, 0, 7, 24])
    weights = torch.rand(24, generator=g)
    flat = (indices.view(-1), packed, scale, zero_point, dim, group, torch.float32)
    check("embedding_bag_int", *flat, offsets=offsets, per_sample_weights=weights, mode="sum")
    check("embedding_bag_int", *flat, offsets=offsets, mode="max", include_last_offset=True)
    outside = torch.tensor([0, 11, -1])
    found = on_device("embedding_int", outside, packed, scale, None, dim, group, torch.float32)[0]
    assert found[1:].isnan().all() and not found[0].isnan().any()


# input, weight, stride, padding, dilation, groups
CONVS = [
    ((2, 3, 9, 7), (5, 3, 3, 3), 1, 1, 1, 1),
    ((3, 16, 6, 6), (70, 16, 3, 3), 2, 1, 1, 1),
    ((1, 32, 8, 5), (24, 32, 1, 1), 1, 0, 1, 1),
    ((2, 6, 7, 7), (6, 1, 3, 3), 1, 1, 1, 6),
    ((2, 8, 9, 9), (12, 4, 3, 2), 1, 2, 2, 2),
    ((2, 40, 5, 5), (40, 20, 3, 3), 1, 1, 1, 2),
    ((2, 5, 33), (9, 5, 4), 3, 2, 1, 1),
    ((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), 1, 1, 1, 1),
    ((1, 7400, 3, 3), (2, 7400, 3, 3), 1, 1, 1, 1),
    ((0, 3, 5, 5), (2, 3, 3, 3), 1, 0, 1, 1),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CONVS)
def test_conv_int8(case, dtype):
    shape, weight, stride, padding, dilation, groups = case
    if shape[1] > 1000 and dtype != torch.float32:
        pytest.skip("a long K is tried in float32")
    spatial = len(shape) - 2
    lists = [[n] * spatial for n in (stride, padding, dilation)]
    packed = check("conv_int8_pack", codes(weight), groups)
    g = torch.Generator().manual_seed(1)
    weight_scale, bias = torch.rand(weight[0], generator=g) * 0.01 + 1e-3, torch.randn(weight[0], generator=g)
    x = values(shape, dtype, special=False)
    per_tensor = torch.tensor(0.03), torch.tensor(90)
    per_sample = torch.rand(shape[0], generator=g) * 0.1 + 0.01, torch.randint(-100, 100, (shape[0],), generator=g)
    rest = (list(weight[2:]), *lists, groups)
    check("conv_int8", x, packed, weight_scale, bias, *per_tensor, 0, 255, *rest)
    if shape[1] > 1000:  # one pass over a long K is enough
        return
    check("conv_int8", x, packed, weight_scale, None, *per_sample, -128, 127, *rest)
    if spatial == 2 and x.numel() > 0:
        last = x.to(memory_format=torch.channels_last)
        check("conv_int8", last, packed, weight_scale, bias, *per_tensor, 0, 255, *rest)
        if shape[0] > 1:
            x[1, 0, 1, 2] = float("nan")
            y = check("conv_int8", x, packed, weight_scale, None, *per_tensor, 0, 255, *rest)
            assert y[1].isnan().all() and not y[0].isnan().any()
            foreign = on_device("conv_int8_pack", codes(weight), groups)[0]
            foreign[8] += 1
            assert on_device("conv_int8", x, foreign, weight_scale, None, *per_tensor, 0, 255, *rest)[0].isnan().all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("m, n, k, group", [(1, 64, 64, 32), (3, 70, 100, 32), (5, 33, 50, 7), (2, 5, 3000, 32), (4, 128, 40, 200)])
def test_linear_grouped(bits, m, n, k, group):
    g = torch.Generator().manual_seed(bits)
    low, groups = -(2 ** (bits - 1)), -(-k // group)
    signed = torch.randint(low, -low, (n, k), generator=g).to(torch.int8)
    packed = check("linear_grouped_pack", signed, bits, group)
    unsigned = check("linear_grouped_pack", (signed - low).view(torch.uint8), bits, group)
    check("linear_grouped_unpack", packed)
    scale, bias = torch.rand(n, groups, generator=g) * 0.01 + 1e-3, torch.randn(n, generator=g)
    zero_point = torch.randint(0, 4, (n, groups), generator=g)
    scales = [scale, scale.bfloat16(), scale.half().t().contiguous().t()]
    scales += [check("linear_grouped_pack_scale", scale)] if n % 64 == 0 else []
    per_row = torch.rand(m, generator=g) * 0.1 + 0.01, torch.randint(-100, 100, (m,), generator=g)
    for dtype, s in zip((torch.float32, torch.bfloat16, torch.float16, torch.float32), scales):
        x = values((m, k), dtype, special=False)
        check("linear_grouped_int8", x, packed, s, bias, torch.tensor(0.03), torch.tensor(100), 0, 255)
        check("linear_grouped_int8", x, packed, s, None, *per_row, -128, 127)
        check("linear_grouped_int8_dynamic", x, packed, s, bias, True, 0, 255, False)
        check("linear_weight_only", x, packed, s, None, bias)
        check("linear_weight_only", x, unsigned, s, zero_point, None)
    if m > 1:
        x[1, 2] = float("nan")
        y = check("linear_grouped_int8", x, packed, scale, bias, *per_row, -128, 127)
        assert y[1].isnan().all() and not y[0].isnan().any()
    for byte in (0, 8, 16, 24, 32, 40):
        foreign = packed.clone()
        foreign[byte] += 64
        assert on_device("linear_weight_only", x, foreign, scale, None, bias)[0].isnan().all()
    assert on_device("linear_grouped_int8", x, unsigned, scale, bias, *per_row, -128, 127)[0].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, block_size", [*LAYOUTS, ((40, 2100), []), ((3, 70001), [1, -1])])
def test_learned_scales(shape, block_size, dtype):
    x, grad = values(shape, dtype), values(shape, dtype, seed=4, special=False)
    scale, zero_point = qparams(shape, block_size)
    for z in (None, zero_point, zero_point + 0.3):
        args = (scale, z, block_size, -30, 25, 0.5)
        check("fake_quantize_learned", x, *args)
        expected, _ = on_cpu("_fake_quantize_learned_backward", grad, x, *args)
        found, _ = on_device("_fake_quantize_learned_backward", grad, x, *args)
        assert_same(expected[0], found[0])
        # Sums in another order: what cancels is bounded by the sum of magnitudes.
        bound = 1e-6 * (60 * grad.double().abs().sum() + 1)
        for a, b in zip(expected[1:], found[1:]):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert a.numel() == 0 or (a.double() - b.double()).abs().max() <= bound
        assert_same(found, on_device("_fake_quantize_learned_backward", grad, x, *args)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("m, n, k", [(3, 5, 7), (20, 70, 64), (9, 33, 130)])
def test_qat_linear_int8(m, n, k, dtype):
    g = torch.Generator().manual_seed(3)
    x, weight = values((m, k), dtype, special=False), values((n, k), dtype, seed=6, special=False)
    weight_scale, bias = torch.rand(n, 1, generator=g) * 0.02 + 0.01, torch.randn(n, generator=g)
    scale, z = torch.tensor(0.02), torch.tensor(120)
    args = (x, weight, bias, scale, z, weight_scale, 0, 255, -127, 127)
    check("qat_linear_int8", *args)
    for given in (weight_scale, None):
        packed, weight_mask, used = on_cpu("qat_linear_int8_pack", weight, given, -127, 127)[0]
        for a, b in zip((packed, weight_mask, used), on_device("qat_linear_int8_pack", weight, given, -127, 127)[0]):
            assert_same(a, b)
    check("qat_linear_int8", *args[:5], None, *args[6:])
    packed, weight_mask, _ = on_cpu("qat_linear_int8_pack", weight, weight_scale, -127, 127)[0]
    rest = (packed, weight_scale, n, bias, scale, z, 0, 255, False)
    y, codes_, mask = on_cpu("_qat_linear_int8_multiply", x, *rest)[0]
    found = on_device("_qat_linear_int8_multiply", x, *rest)[0]
    for a, b in zip((y, codes_[:, :k], mask), (found[0], found[1][:, :k], found[2])):
        assert_same(a.contiguous(), b.contiguous())
    assert_same(y, on_device("linear_int8", x, packed, weight_scale, bias, scale, z, 0, 255)[0])
    grad = torch.randn(m, n, generator=g).to(dtype)
    for with_masks in (True, False):
        rest = (packed, weight_mask if with_masks else None, scale, z, weight_scale, k, 0, 255, dtype, torch.float32)
        saved = (grad, codes_, mask if with_masks else None, *rest)
        exact = on_cpu("_qat_linear_int8_backward", *saved, "float32", [True] * 3)[0]
        for mode, tolerance in (("float32", 1e-5), ("int16", 1e-5), ("bfloat16", 0.02), ("auto", 0.02)):
            got = on_device("_qat_linear_int8_backward", *saved, mode, [True] * 3)[0]
            for a, b in zip(exact, got):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)
                slack = 0.01 if dtype == torch.bfloat16 else 0.0
                assert (a.double() - b.double()).norm() <= (tolerance + slack) * a.double().norm()
    none = on_device("_qat_linear_int8_backward", *saved, "auto", [False, True, False])[0]
    assert none[0].numel() == 0 and none[2].numel() == 0
