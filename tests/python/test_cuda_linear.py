"""Linear layers on CUDA against the CPU ops: deployed bit for bit, gradients within a tolerance, on a GPU or on the host shim (see cuda_cases)."""

import pytest
import torch
from cuda_cases import assert_same, check, codes, on_cpu, on_device, requires_device, shuffled_turns, values  # noqa: F401

pytestmark = requires_device

# M, N, K: one row to the tile sizes and beyond, odd K, short panels.
GEMMS = [
    (1, 70, 33),
    (2, 64, 64),
    (3, 5, 7),
    (8, 200, 130),
    (9, 65, 64),
    (70, 100, 200),
    (65, 8200, 40),
    (1, 3, 0),
    (0, 5, 9),
]


# The slow one of many blocks in float32 alone.
GEMMS_IN_DTYPES = [
    (*sizes, dtype)
    for sizes in GEMMS
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    if sizes[1] <= 1000 or dtype == torch.float32
]


@pytest.mark.parametrize("m, n, k, dtype", GEMMS_IN_DTYPES)
def test_linear_int8(m, n, k, dtype):
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


@pytest.mark.parametrize("m, k", [(3, 200), (3, 600), (2, 4100), (1, 8192), (2, 8300), (1030, 200), (1030, 600)])
def test_dynamic_rows_of_every_length(m, k):
    """Held by a warp or a block in registers, or read twice."""
    packed, x = on_device("linear_int8_pack", codes((2, k)))[0], values((m, k), torch.bfloat16, special=False)
    x[-1] = 0
    if m > 2:
        x[1, k - 1] = float("inf")
        x[0, 3] = float("nan")
    for symmetric, low, high in ((False, 0, 255), (True, -127, 127)):
        check("linear_int8_dynamic", x, packed, torch.tensor([0.01, 0.02]), None, True, low, high, symmetric)


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


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "m, n, k, group", [(1, 64, 64, 32), (3, 70, 100, 32), (5, 33, 50, 7), (2, 5, 3000, 32), (4, 128, 40, 200)]
)
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


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "m, n, k, group",
    [
        (17, 64, 64, 32),
        (33, 70, 200, 32),
        (70, 65, 96, 64),
        (130, 128, 160, 128),
        (18, 5, 300, 96),
        (20, 3, 64, 200),
        (19, 9, 50, 31),
        (65, 64, 256, 256),
    ],
)
def test_linear_grouped_on_tensor_cores(bits, m, n, k, group):
    g = torch.Generator().manual_seed(bits)
    low, groups = -(2 ** (bits - 1)), -(-k // group)
    packed = check("linear_grouped_pack", torch.randint(low, -low, (n, k), generator=g).to(torch.int8), bits, group)
    scale, bias = torch.rand(n, groups, generator=g) * 0.01 + 1e-3, torch.randn(n, generator=g)
    per_row = torch.rand(m, generator=g) * 0.1 + 0.01, torch.randint(-100, 100, (m,), generator=g)
    x = values((m, k), torch.float32, special=False)
    y = check("linear_grouped_int8", x, packed, scale, bias, *per_row, -128, 127)
    one = on_device("linear_grouped_int8", x[m - 1 :], packed, scale, bias, *(p[m - 1 :] for p in per_row), -128, 127)[0]
    assert_same(y[m - 1 :], one)  # a row's bits do not depend on the others
    check("linear_grouped_int8_dynamic", x.bfloat16(), packed, scale.bfloat16(), None, True, 0, 255, False)
    x[1, 2] = float("nan")
    assert check("linear_grouped_int8", x, packed, scale, bias, *per_row, -128, 127)[1].isnan().all()
    packed[24] += 64
    assert on_device("linear_grouped_int8", x, packed, scale, bias, *per_row, -128, 127)[0].isnan().all()


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "m, n, k, group", [(3, 5, 7, 4), (20, 70, 64, 32), (9, 33, 130, 32), (2, 64, 96, 200), (1, 3, 50, 7)]
)
def test_qat_linear_grouped(m, n, k, group, dtype):
    g = torch.Generator().manual_seed(3)
    x, weight = values((m, k), dtype, special=False), values((n, k), dtype, seed=6, special=False)
    weight_scale = torch.rand(n, -(-k // group), generator=g) * 0.5 + 0.1
    bias, grad = torch.randn(n, generator=g), torch.randn(m, n, generator=g).to(dtype)
    per_tensor = torch.tensor(0.02), torch.tensor(120)
    per_row = torch.rand(m, generator=g) * 0.1 + 0.01, torch.randint(-100, 100, (m,), generator=g)
    for (scale, z), low, high in ((per_tensor, 0, 255), (per_row, -128, 127)):
        args = (x, weight, bias, scale, z, weight_scale, group, low, high, -8, 7)
        check("qat_linear_grouped", *args)
        expected = on_cpu("_qat_linear_grouped_forward", *args, False, False)[0]
        found = on_device("_qat_linear_grouped_forward", *args, False, False)[0]
        for number, (a, b) in enumerate(zip(expected, found)):
            if number == 1:  # codes: what is beyond K is padding
                a, b = a[:, :k].contiguous(), b[:, :k].contiguous()
            assert_same(a, b, f"forward {number}")
        _, codes_, mask, weight_codes, weight_mask = expected
        for masks in ((mask, weight_mask), (None, None)):
            rest = (scale, z, weight_scale, group, low, high, dtype, torch.float32)
            saved = (grad, codes_, masks[0], weight_codes, masks[1], *rest)
            exact = on_cpu("_qat_linear_grouped_backward", *saved, "float32", [True] * 3)[0]
            for mode, tolerance in (("float32", 1e-5), ("int16", 1e-5), ("bfloat16", 0.02), ("auto", 0.02)):
                got = on_device("_qat_linear_grouped_backward", *saved, mode, [True] * 3)[0]
                for a, b in zip(exact, got):
                    assert (a.shape, a.dtype) == (b.shape, b.dtype)
                    slack = 0.01 if dtype == torch.bfloat16 else 0.0
                    assert (a.double() - b.double()).norm() <= (tolerance + slack) * a.double().norm()
