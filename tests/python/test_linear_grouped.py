"""Linear layers on weights in groups against the documented formula in numpy with libm's fmaf: equal bits."""

import ctypes
import ctypes.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import torchqat
from torchqat import _C

ops = torch.ops.torchqat
ISAS = _C.supported_isas()

_libm = ctypes.CDLL(ctypes.util.find_library("m"))
_libm.fmaf.restype = ctypes.c_float
_libm.fmaf.argtypes = [ctypes.c_float] * 3
fma = np.frompyfunc(lambda a, b, c: _libm.fmaf(a, b, c), 3, 1)


def quantised(x, scale, zero, low, high):
    """Codes of a float32 array, as the contract has them."""
    q = np.rint((x / scale).astype(np.float32)) + np.float32(zero)
    return np.where(np.isnan(q), zero, np.clip(q, low, high)).astype(np.int64)


def oracle(x, codes, weight_scale, bias, scale, zero, low, high, group):
    """y of linear_grouped_int8, one row's scale and zero point or one per row."""
    x = x.numpy().astype(np.float32)
    rows = x.shape[0]
    scale = np.broadcast_to(np.asarray(scale, np.float32), rows)
    zero = np.broadcast_to(np.asarray(zero, np.int64), rows)
    q = np.stack([quantised(x[i], scale[i], zero[i], low, high) for i in range(rows)]) - zero[:, None]
    w, s_w = codes.numpy().astype(np.int64), weight_scale.float().numpy()
    t = np.zeros((rows, w.shape[0]), np.float32)
    for g in range(s_w.shape[1]):
        k = slice(g * group, (g + 1) * group)
        acc = (q[:, k] @ w[:, k].T).astype(np.float32)
        t = fma(acc, np.broadcast_to(s_w[:, g], acc.shape), t).astype(np.float32)
    y = t * scale[:, None]
    if bias is not None:
        y = y + bias.float().numpy()
    y[np.isnan(x).any(1)] = np.nan
    return torch.from_numpy(y)


def problem(m, n, k, group, bits, seed=0, scale_dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=g)
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k), generator=g, dtype=torch.int8)
    scale = (torch.rand(n, -(-k // group), generator=g) + 0.01).to(scale_dtype)
    bias = torch.randn(n, generator=g)
    return x, codes, scale, bias


def equal(a, b):
    return torch.equal(a.nan_to_num(123.0), b.nan_to_num(123.0)) and torch.equal(a.isnan(), b.isnan())


@settings(max_examples=40, deadline=None)
@given(
    m=st.sampled_from([1, 2, 3, 7, 16, 17]), n=st.sampled_from([1, 3, 63, 64, 65, 130]), k=st.integers(1, 150),
    group=st.sampled_from([1, 3, 8, 16, 31, 32, 33, 64, 100, 1000]), bits=st.sampled_from([2, 3, 4, 8]),
    per_row=st.booleans(), signed=st.booleans(), scale_dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 100),
)
def test_every_isa_gives_the_bits_of_the_formula(m, n, k, group, bits, per_row, signed, scale_dtype, seed):
    x, codes, weight_scale, bias = problem(m, n, k, min(group, k), bits, seed, scale_dtype)
    low, high = (-128, 127) if signed else (0, 255)
    rng = np.random.default_rng(seed)
    count = m if per_row else 1
    scale = torch.from_numpy(rng.uniform(0.005, 0.05, count).astype(np.float32))
    zero = torch.from_numpy(rng.integers(low, high + 1, count).astype(np.int32))
    if m > 2:
        x[1, 0] = float("nan")
        x[2, 0] = float("inf")
    packed = ops.linear_grouped_pack(codes, bits, group)
    assert torch.equal(ops.linear_grouped_unpack(packed), codes)
    wanted = oracle(x, codes, weight_scale, bias, scale.numpy(), zero.numpy(), low, high, min(group, k))
    for isa in ISAS:
        ops._set_cpu_isa(isa)
        for form in (weight_scale, ops.linear_grouped_pack_scale(weight_scale)):
            y = ops.linear_grouped_int8(x, packed, form, bias, scale, zero, low, high)
            assert equal(y, wanted), isa


@pytest.mark.parametrize("isa", ISAS)
def test_rows_do_not_depend_on_each_other_nor_on_threads(isa):
    ops._set_cpu_isa(isa)
    x, codes, scale, bias = problem(70, 300, 320, 32, 4)
    packed = ops.linear_grouped_pack(codes, 4, 32)
    before = torch.get_num_threads()
    results = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results[threads] = (
            ops.linear_grouped_int8_dynamic(x, packed, scale, bias, True, 0, 255, False),
            ops.linear_weight_only(x, packed, scale, None, bias),
        )
    torch.set_num_threads(before)
    for a, b in zip(results[1], results[2], strict=True):
        assert torch.equal(a, b)
    for rows in ([0], [69], [3, 4], list(range(17))):
        assert torch.equal(ops.linear_grouped_int8_dynamic(x[rows], packed, scale, bias, True, 0, 255, False), results[1][0][rows])
        assert torch.equal(ops.linear_weight_only(x[rows], packed, scale, None, bias), results[1][1][rows])


@pytest.mark.parametrize("per_token, symmetric", [(True, False), (True, True), (False, False)])
def test_dynamic_is_choose_qparams_then_static(per_token, symmetric):
    x, codes, scale, bias = problem(9, 66, 100, 32, 4)
    x[3] = 0
    packed = ops.linear_grouped_pack(codes, 4, 32)
    low, high = (-127, 127) if symmetric else (0, 255)
    s, z = ops.choose_qparams(x, [1, -1] if per_token else [], low, high, symmetric)
    wanted = ops.linear_grouped_int8(x, packed, scale, bias, s, z, low, high)
    assert torch.equal(ops.linear_grouped_int8_dynamic(x, packed, scale, bias, per_token, low, high, symmetric), wanted)
    x[2, 5] = float("nan")
    y = ops.linear_grouped_int8_dynamic(x, packed, scale, bias, True, low, high, symmetric)
    assert y[2].isnan().all() and not y[[0, 1, 3, 4]].isnan().any()


@settings(max_examples=40, deadline=None)
@given(
    m=st.sampled_from([1, 2, 5, 6, 11]), n=st.sampled_from([1, 64, 65]), k=st.integers(1, 100),
    group=st.sampled_from([3, 16, 32, 1000]), bits=st.sampled_from([2, 3, 4, 8]), signed=st.booleans(),
    zero_point=st.booleans(), seed=st.integers(0, 100),
)
def test_weight_only_is_the_dequantised_linear(m, n, k, group, bits, signed, zero_point, seed):
    x, codes, scale, bias = problem(m, n, k, min(group, k), bits, seed)
    offset = 0 if signed else 2 ** (bits - 1)
    if not signed:
        codes = (codes.to(torch.int16) + offset).to(torch.uint8)
    zero = torch.randint(-2 + offset, 2 + offset, scale.shape, dtype=torch.int32) if zero_point else None
    packed = ops.linear_grouped_pack(codes, bits, group)
    assert torch.equal(ops.linear_grouped_unpack(packed), codes)
    spread = lambda t: t.double().repeat_interleave(min(group, k), 1)[:, :k]  # noqa: E731
    weight = (codes.double() - (spread(zero) if zero_point else 0)) * spread(scale)
    wanted = F.linear(x.double(), weight, bias.double())
    magnitude = F.linear(x.double().abs(), (codes.double().abs() + 4) * spread(scale)) + 1
    results = []
    for isa in ISAS:
        ops._set_cpu_isa(isa)
        y = ops.linear_weight_only(x, packed, scale, zero, bias)
        assert y.dtype == torch.float32
        assert ((y - wanted).abs() / magnitude).max() < 1e-6
        results.append(y)
    assert all(torch.equal(r, results[0]) for r in results)


def test_leading_dimensions_strides_dtypes_and_empties():
    x, codes, scale, bias = problem(24, 70, 40, 32, 4)
    packed = ops.linear_grouped_pack(codes, 4, 32)
    full = ops.linear_grouped_int8_dynamic(x, packed, scale, bias, True, 0, 255, False)
    only = ops.linear_weight_only(x, packed, scale, None, bias)
    assert torch.equal(ops.linear_grouped_int8_dynamic(x.view(2, 3, 4, 40), packed, scale, bias, True, 0, 255, False), full.view(2, 3, 4, 70))
    assert torch.equal(ops.linear_weight_only(x[0], packed, scale, None, bias), only[0])
    assert torch.equal(ops.linear_weight_only(x.t().contiguous().t()[::2], packed, scale, None, bias), only[::2])
    assert ops.linear_weight_only(x[:0], packed, scale, None, bias).shape == (0, 70)
    assert ops.linear_grouped_int8_dynamic(x[:0].view(0, 3, 40), packed, scale, None, True, 0, 255, False).shape == (0, 3, 70)
    for dtype in (torch.bfloat16, torch.float16):
        low = x.to(dtype)
        y = ops.linear_grouped_int8_dynamic(low, packed, scale, bias.to(dtype), True, 0, 255, False)
        s, z = ops.choose_qparams(low.float(), [1, -1], 0, 255, False)
        assert torch.equal(y, ops.linear_grouped_int8(low.float(), packed, scale, bias.to(dtype), s, z, 0, 255).to(dtype))
        assert torch.equal(ops.linear_weight_only(low, packed, scale, None, bias), ops.linear_weight_only(low.float(), packed, scale, None, bias).to(dtype))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ops.linear_weight_only(x, packed, scale, None, bias), only.bfloat16())
        assert torch.equal(ops.linear_grouped_int8_dynamic(x, packed, scale, bias, True, 0, 255, False), full.bfloat16())
        s, z = ops.choose_qparams(x, [1, -1], 0, 255, False)
        assert torch.equal(ops.linear_grouped_int8(x, packed, scale, bias, s, z, 0, 255), full.bfloat16())
    assert torch.equal(ops.linear_weight_only(x, packed, scale.double(), None, bias), only)
    assert torch.equal(ops.linear_weight_only(x, packed, scale.t().contiguous().t(), None, bias), only)


def test_extremes_do_not_overflow():
    for bits in (8, 4):
        k = 32768
        low = -(2 ** (bits - 1))
        for value in (low, -low - 1):
            codes = torch.full((2, k), value, dtype=torch.int8)
            packed = ops.linear_grouped_pack(codes, bits, k)
            for x, zero, difference in ((1e9, 0, 255), (-1e9, 255, -255)):
                for isa in ISAS:
                    ops._set_cpu_isa(isa)
                    for m in (1, 2):
                        y = ops.linear_grouped_int8(torch.full((m, k), x), packed, torch.ones(2, 1), None, torch.tensor(1.0), torch.tensor(zero), 0, 255)
                        assert torch.equal(y, torch.full((m, 2), float(np.float32(value * difference * k)))), (isa, bits, m)


def test_opcheck_compile_and_script():
    x, codes, scale, bias = problem(5, 70, 40, 32, 4)
    packed = ops.linear_grouped_pack(codes, 4, 32)
    s, z = torch.tensor(0.02), torch.tensor(3, dtype=torch.int32)
    torch.library.opcheck(ops.linear_grouped_pack_scale.default, (scale,))
    torch.library.opcheck(ops.linear_grouped_pack_scale.default, (torch.ones(128, 2),))
    torch.library.opcheck(ops.linear_grouped_int8.default, (x, packed, scale, bias, s, z, 0, 255))
    torch.library.opcheck(ops.linear_grouped_int8_dynamic.default, (x, packed, scale, None, True, 0, 255, False))
    torch.library.opcheck(ops.linear_weight_only.default, (x, packed, scale, None, bias))
    for bits in (2, 3, 4, 8):
        for group in (1, 31, 32, 33, 100, 1000):
            for k in (1, 32, 65, 130):
                c = torch.zeros(65, k, dtype=torch.int8)
                assert ops.linear_grouped_pack(c.to("meta"), bits, group).shape == ops.linear_grouped_pack(c, bits, group).shape

    def f(x: torch.Tensor, p: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y = torch.ops.torchqat.linear_grouped_int8_dynamic(x, p, w, b, True, 0, 255, False)
        return y + torch.ops.torchqat.linear_weight_only(x, p, w, None, None)

    wanted = f(x, packed, scale, bias)
    assert torch.equal(torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)(x, packed, scale, bias), wanted)
    assert torch.equal(torch.jit.script(f)(x, packed, scale, bias), wanted)
    with pytest.raises(NotImplementedError, match="linear_weight_only: the derivative is not implemented"):
        ops.linear_weight_only(x.requires_grad_(), packed, scale, None, None).sum().backward()


def call(op=None, **changes):
    x, codes, scale, bias = problem(3, 70, 40, 32, 4)
    arguments = {
        "input": x, "packed_weight": ops.linear_grouped_pack(codes, 4, 32), "weight_scale": scale, "bias": bias,
        "input_scale": torch.tensor(0.1), "input_zero_point": torch.tensor(0), "quant_min": 0, "quant_max": 255,
    }
    if op is ops.linear_weight_only:
        for name in ("input_scale", "input_zero_point", "quant_min", "quant_max"):
            del arguments[name]
        arguments["weight_zero_point"] = None
    return (op or ops.linear_grouped_int8)(**(arguments | changes))


@pytest.mark.parametrize(
    "run, error, words",
    [
        (lambda: call(input=torch.zeros(3, 40, dtype=torch.float64)), TypeError, "linear_grouped_int8: input must be float32, bfloat16 or float16, got Double"),
        (lambda: call(input=torch.tensor(1.0)), ValueError, r"input must have shape \[..., K\], got a 0-d tensor"),
        (lambda: call(input=torch.zeros(3, 41)), ValueError, r"input must have shape \[..., 40\] for this packed_weight, got \[3, 41\]"),
        (lambda: call(weight_scale=torch.ones(70, 3)), ValueError, r"weight_scale must have shape \[70, 2\] for this packed_weight, got \[70, 3\]"),
        (lambda: call(weight_scale=torch.ones(70)), ValueError, r"weight_scale must have shape \[N, groups\]"),
        (lambda: call(weight_scale=torch.ones(70, 2, dtype=torch.int32)), TypeError, "weight_scale must have a floating dtype"),
        (lambda: call(weight_scale=torch.zeros(70, 2)), ValueError, "weight_scale must be finite and > 0, got 0 at 0"),
        (lambda: call(weight_scale=torch.full((70, 2), float("inf"), dtype=torch.bfloat16)), ValueError, "weight_scale must be finite and > 0, got inf at 0"),
        (lambda: call(ops.linear_weight_only, weight_scale=torch.full((70, 2), float("nan"))), ValueError, "linear_weight_only: weight_scale must be finite and > 0, got nan"),
        (lambda: ops.linear_grouped_pack_scale(torch.tensor([[1.0, -1.0]])), ValueError, "linear_grouped_pack_scale: weight_scale must be finite and > 0, got -1 at 1"),
        (lambda: call(bias=torch.ones(71)), ValueError, r"bias must have shape \[70\], got \[71\]"),
        (lambda: call(input_scale=torch.ones(2), input_zero_point=torch.zeros(2, dtype=torch.int32)), ValueError, "input_scale must have one element or one per row"),
        (lambda: call(input_scale=torch.tensor(0.0)), ValueError, "input_scale must be finite and > 0, got 0"),
        (lambda: call(input_zero_point=torch.tensor(256)), ValueError, r"input_zero_point must lie within \[0, 255\], got 256"),
        (lambda: call(quant_max=256), ValueError, "quant_min and quant_max must lie within"),
        (lambda: call(quant_min=255, quant_max=255), ValueError, "quant_min must be less than quant_max"),
        (lambda: call(packed_weight=torch.zeros(99, dtype=torch.uint8)), ValueError, "must be a weight packed by torchqat"),
        (lambda: call(packed_weight=ops.embedding_pack(torch.zeros(2, 2, dtype=torch.int8), 4)), ValueError, r"must have the format linear_grouped, got embedding \(4\)"),
        (lambda: call(packed_weight=ops.linear_grouped_pack(torch.zeros(70, 40, dtype=torch.uint8), 4, 32)), ValueError, "must hold signed codes; unsigned ones are for linear_weight_only"),
        (lambda: call(ops.linear_weight_only, weight_zero_point=torch.zeros(70, 3)), ValueError, r"weight_zero_point must have shape \[70, 2\], got \[70, 3\]"),
        (lambda: ops.linear_grouped_pack(torch.zeros(2, 2), 4, 32), TypeError, "linear_grouped_pack: codes must be int8"),
        (lambda: ops.linear_grouped_pack(torch.zeros(2, dtype=torch.int8), 4, 32), ValueError, r"codes must have shape \[N, K\]"),
        (lambda: ops.linear_grouped_pack(torch.zeros(2, 2, dtype=torch.int8), 5, 32), ValueError, "bits must be 2, 3, 4 or 8, got 5"),
        (lambda: ops.linear_grouped_pack(torch.zeros(2, 2, dtype=torch.int8), 4, 0), ValueError, "group_size must be at least 1, got 0"),
        (lambda: ops.linear_grouped_pack(torch.full((2, 2), -9, dtype=torch.int8), 4, 2), ValueError, r"codes must be in \[-8, 7\], got -9"),
        (lambda: ops.linear_grouped_pack(torch.full((2, 2), 16, dtype=torch.uint8), 4, 2), ValueError, r"codes must be in \[0, 15\], got 16"),
    ],
)
def test_errors(run, error, words):
    with pytest.raises(error, match=words):
        run()


def test_truncated_newer_and_too_long():
    x, codes, scale, bias = problem(3, 70, 40, 32, 4)
    packed = ops.linear_grouped_pack(codes, 4, 32)
    with pytest.raises(ValueError, match="must hold 70 x 40 codes of 4 bits in groups of 32, got"):
        ops.linear_weight_only(x, packed[:-1].clone(), scale, None, None)
    newer = packed.clone()
    newer[12] = 2
    with pytest.raises(ValueError, match="must have version 1 to 1, got 2; it was packed by another torchqat"):
        ops.linear_weight_only(x, newer, scale, None, None)
    long = ops.linear_grouped_pack(torch.zeros(1, 40000, dtype=torch.int8), 4, 40000)
    with pytest.raises(ValueError, match="groups of packed_weight must be at most 32768 long, got 40000"):
        ops.linear_grouped_int8(torch.zeros(1, 40000), long, torch.ones(1, 1), None, torch.tensor(1.0), torch.tensor(0), 0, 255)
    assert ops.linear_weight_only(torch.zeros(1, 40000), long, torch.ones(1, 1), None, None).item() == 0


def test_the_packed_weight_is_small():
    packed = ops.linear_grouped_pack(torch.zeros(128, 256, dtype=torch.int8), 4, 32)
    assert packed.numel() == 64 + 128 * 256 // 2
    assert torchqat.__version__
