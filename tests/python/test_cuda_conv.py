"""Integer convolutions on CUDA against the CPU ops, on a GPU or on the host shim (see cuda_cases)."""

import pytest
import torch
from cuda_cases import (  # noqa: F401
    assert_same,
    check,
    codes,
    on_cpu,
    on_device,
    requires_device,
    shuffled_turns,
    values,
)

pytestmark = requires_device

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


def in_dtypes(*dtypes):
    """Every case in every dtype, but the slow long K in float32 alone."""
    return [(case, dtype) for case in CONVS for dtype in dtypes if case[0][1] <= 1000 or dtype == torch.float32]


@pytest.mark.parametrize("case, dtype", in_dtypes(torch.float32, torch.bfloat16, torch.float16))
def test_conv_int8(case, dtype):
    shape, weight, stride, padding, dilation, groups = case
    spatial = len(shape) - 2
    lists = [[n] * spatial for n in (stride, padding, dilation)]
    packed = check("conv_int8_pack", codes(weight), groups)
    check("conv_int8_unpack", packed)
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


def lists_of(case):
    shape, _, stride, padding, dilation, groups = case
    return [[n] * (len(shape) - 2) for n in (stride, padding, dilation)] + [groups]


SHORT = [case for case in CONVS if case[0][1] <= 1000]


@pytest.mark.parametrize("case", SHORT)
def test_codes_in_and_out(case):
    shape, weight = case[:2]
    g = torch.Generator().manual_seed(2)
    packed = check("conv_int8_pack", codes(weight), case[5])
    weight_scale, bias = torch.rand(weight[0], generator=g) * 0.01 + 1e-3, torch.randn(weight[0], generator=g)
    x = values(shape, torch.float32, special=False)
    unsigned = torch.randint(0, 256, shape, generator=g).to(torch.uint8)
    signed = (unsigned.to(torch.int16) - 128).to(torch.int8)
    rest = (list(weight[2:]), *lists_of(case))
    grids = [(torch.tensor(0.03), torch.tensor(90), 0, 255), (torch.tensor(0.05), torch.tensor(-3), -128, 127)]
    formats = [torch.contiguous_format] + ([torch.channels_last] if len(shape) == 4 and x.numel() else [])
    for (scale, z, low, high), stored in zip(grids, (unsigned, signed)):
        for memory_format in formats:
            for given in (x, x.bfloat16(), stored):
                args = (
                    given.contiguous(memory_format=memory_format),
                    packed,
                    weight_scale,
                    bias,
                    scale,
                    z,
                    low,
                    high,
                    *rest,
                )
                check("conv_int8", *args)
                for relu, (s_out, z_out, low_out, high_out) in zip((False, True), grids):
                    check("conv_int8_codes", *args, relu, s_out * 3, z_out, low_out, high_out)
    if shape[0] > 1 and x.numel():
        x[1, 0].view(-1)[0] = float("nan")
        y = check(
            "conv_int8_codes",
            x,
            packed,
            weight_scale,
            None,
            *grids[0],
            *rest,
            True,
            torch.tensor(0.1),
            torch.tensor(7),
            0,
            255,
        )
        assert (y[1] == 7).all() and not (y[0] == 7).all()
        bad = on_device(
            "conv_int8_codes",
            x,
            packed,
            weight_scale,
            None,
            *grids[0],
            *rest,
            True,
            torch.tensor(-1.0),
            torch.tensor(7),
            0,
            255,
        )[0]
        assert (bad == 7).all()


def check_forward(*args):
    """What is kept, but for the bits beyond a row's end, which no one reads."""
    expected, found = on_cpu("_qat_conv_int8_forward", *args)[0], on_device("_qat_conv_int8_forward", *args)[0]
    for number, (a, b) in enumerate(zip(expected, found)):
        if number in (2, 4) and a.numel():
            columns = expected[number - 1][0].numel()
            a, b = (m[..., : columns // 8] if columns % 8 == 0 else m & bits_inside(m, columns) for m in (a, b))
        assert_same(a, b, f"result {number}")
    return expected


def bits_inside(mask, columns):
    inside = torch.full_like(mask, 255)
    inside[..., -1] = 2 ** (columns % 8) - 1
    return inside


@pytest.mark.parametrize("case, dtype", in_dtypes(torch.float32, torch.bfloat16))
def test_training_forward(case, dtype):
    shape, weight = case[:2]
    g = torch.Generator().manual_seed(3)
    x, w = values(shape, dtype, special=False), values(weight, dtype, seed=6, special=False)
    weight_scale, bias = torch.rand(weight[0], generator=g) * 0.05 + 0.01, torch.randn(weight[0], generator=g)
    per_sample = torch.rand(shape[0], generator=g) * 0.1 + 0.01, torch.randint(-100, 100, (shape[0],), generator=g)
    rest = lists_of(case)
    args = (x, w, bias, torch.tensor(0.02), torch.tensor(120), weight_scale, 0, 255, -127, 127, *rest)
    check("qat_conv_int8", *args)
    check_forward(*args, False)
    if shape[1] > 1000:
        return
    args = (x, w, None, *per_sample, weight_scale[:1], -128, 127, -8, 7, *rest)
    check_forward(*args, False)
    # Learned: the scale is clamped to the smallest normal number, a floating zero point is rounded.
    args = (x, w, bias, torch.tensor(0.02), torch.tensor(3.4), -weight_scale, -128, 127, -127, 127, *rest)
    check_forward(*args, True)
    if len(shape) == 4 and x.numel():
        last = x.to(memory_format=torch.channels_last)
        last[0, 0, 0, 0] = float("nan")
        y, *_ = check_forward(last, *args[1:5], weight_scale, *args[6:], False)
        assert y[0].isnan().all() and (shape[0] == 1 or not y[1].isnan().any())


@pytest.mark.parametrize("case", [case for case in SHORT if case[0][0] > 0])
def test_training_backward(case):
    shape, weight = case[:2]
    g = torch.Generator().manual_seed(4)
    x, w = values(shape, torch.float32, special=False), values(weight, torch.float32, seed=6, special=False)
    weight_scale = torch.rand(weight[0], generator=g) * 0.05 + 0.01
    per_tensor = torch.tensor(0.02), torch.tensor(120)
    per_sample = torch.rand(shape[0], generator=g) * 0.1 + 0.01, torch.randint(-100, 100, (shape[0],), generator=g)
    rest = lists_of(case)
    for (scale, z), low, high in ((per_tensor, 0, 255), (per_sample, -128, 127)):
        y, kept, mask, weight_codes, weight_mask = on_cpu(
            "_qat_conv_int8_forward", x, w, None, scale, z, weight_scale, low, high, -20, 20, *rest, False
        )[0]
        grad = torch.randn(y.shape, generator=g)
        for masks in ((mask, weight_mask), (None, None)):
            saved = (grad, kept, masks[0], weight_codes, masks[1], scale, z, weight_scale, low, high, *rest)
            exact = on_cpu("_qat_conv_int8_backward", *saved, [True] * 3, "float32")[0]
            for mode, tolerance in (("float32", 1e-5), ("int16", 1e-5), ("bfloat16", 0.02), ("auto", 0.02)):
                got = on_device("_qat_conv_int8_backward", *saved, [True] * 3, mode)[0]
                for a, b in zip(exact, got):
                    assert (a.shape, a.dtype) == (b.shape, b.dtype)
                    assert (a.double() - b.double()).norm() <= tolerance * a.double().norm()
            none = on_device("_qat_conv_int8_backward", *saved, [False, True, False], "float32")[0]
            assert none[0].numel() == 0 and none[2].numel() == 0
            assert_same(none[1], on_device("_qat_conv_int8_backward", *saved, [True] * 3, "float32")[0][1])
