"""The fake-quantisation family of CUDA kernels against the CPU ops, bit for bit, on a GPU or on the host shim (see cuda_cases)."""

import pytest
import torch
from cuda_cases import (  # noqa: F401
    DTYPES,
    LAYOUTS,
    assert_same,
    check,
    on_cpu,
    on_device,
    qparams,
    requires_device,
    scale_shape,
    shuffled_turns,
    values,
)

pytestmark = requires_device


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


@pytest.mark.parametrize(
    "shape, block_size",
    [
        ((5, 128), [1, -1]),
        ((5, 136), [1, -1]),
        ((9, 96), [1, 32]),
        ((9, 80), [1, 64]),
        ((3, 1024), [1, -1]),
        ((3, 1032), [1, -1]),
        ((2, 8192), [1, -1]),
        ((2, 8200), [1, -1]),
        ((1000,), [-1]),
        ((48, 24), [16, 8]),
        ((47, 24), [16, 8]),
    ],
)
def test_blocks_held_in_registers(shape, block_size):
    """At the longest block of each group of threads, and one packet beyond."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = values(shape, dtype)
        for symmetric, low, high in ((True, -127, 127), (False, 0, 255)):
            check("_fake_quantize_dynamic_forward", x, block_size, low, high, symmetric, True)
    x = torch.full(shape, float("nan"))
    x.view(-1)[: x.numel() // 2] = 0.0
    check("_fake_quantize_dynamic_forward", x, block_size, 0, 255, False, True)


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
    for shape, block_size in (
        ((3, 70001), [1, -1]),
        ((200000,), []),
        ((70, 64, 33), [-1, 1, -1]),
        ((9000, 3), [-1, 1]),
    ):
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
        for view in (
            channels_last,
            x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
            x[:, ::2].repeat_interleave(2, 1),
        ):
            check("_fake_quantize_forward", view, scale, z, block_size, -128, 127)
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


@pytest.mark.parametrize("columns, block", [(160, 80), (1024, 512), (2064, -1), (8192, -1), (8208, -1), (48, 32)])
def test_blocks_of_every_length(columns, block):
    """Held by two threads up to a whole block of them, or read twice."""
    x = values((3, columns), torch.bfloat16, special=False)
    x[1, 40] = float("inf")
    check("_fake_quantize_float_forward", x, None, [1, block], "mxfp8_e4m3", "even")
    check("_fake_quantize_dynamic_forward", x, [1, block], -127, 127, True, True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, block_size", [*LAYOUTS, ((40, 2100), []), ((3, 70001), [1, -1])])
def test_dorefa_weights(shape, block_size, dtype):
    x, grad = values(shape, dtype), values(shape, dtype, seed=4, special=False)
    check("dorefa_weight", x, block_size)
    expected, _ = on_cpu("_dorefa_weight_backward", grad, x, block_size)
    found, _ = on_device("_dorefa_weight_backward", grad, x, block_size)
    # The sums, in another order, reach the elements at their block's limit; the others are the same bits.
    at_limit = on_cpu("dorefa_weight", x, block_size)[0].abs() == 1
    assert_same(expected.masked_fill(at_limit, 0), found.masked_fill(at_limit, 0))
    wanted = expected.double()[at_limit]
    bound = 4 * torch.finfo(dtype).eps * wanted.abs() + 1e-6 * (grad.double().abs().sum() + 1)
    assert ((wanted - found.double()[at_limit]).abs() <= bound).all()
    assert_same(found, on_device("_dorefa_weight_backward", grad, x, block_size)[0])


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
