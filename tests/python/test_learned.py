"""fake_quantize_learned: LSQ and LSQ+ gradients against float64, torch's learnable ops, and their own fixed order."""

import numpy as np
import pytest
import reference
import torch
from affine_cases import CASES, DTYPES, ISAS, isa, same, sample, threads
from hypothesis import given, settings
from hypothesis import strategies as st

ops = torch.ops.torchqat


def start(x, block_size, low, high, floating=True):
    """Scales smaller than the range, so that some elements clip, and zero points off the integers."""
    scale, zero_point = reference.choose_qparams(x, block_size, low, high, False)
    zero_point = (zero_point.to(scale.dtype) + 0.3) if floating else zero_point
    return scale.clamp(max=4.0) * 0.5, zero_point


def gradients(x, scale, zero_point, block_size, low, high, factor, dy):
    x = x.detach().clone().requires_grad_()
    scale = scale.clone().requires_grad_()
    learn = zero_point is not None and zero_point.is_floating_point()
    zero_point = zero_point.clone().requires_grad_() if learn else zero_point
    y = ops.fake_quantize_learned(x, scale, zero_point, block_size, low, high, factor)
    y.backward(dy)
    return y.detach(), x.grad, scale.grad, zero_point.grad if learn else None


def used(zero_point, low, high):
    return None if zero_point is None else zero_point.round().clamp(low, high).to(torch.int32)


def oracle(x, scale, zero_point, block_size, low, high, factor, dy):
    """dx exactly; the sums in float64, with a bound on what rounding each term in the compute type may change."""
    z = used(zero_point, low, high)
    level, s, zz = (torch.from_numpy(np.array(a)).double().reshape(x.shape) for a in reference.levels(x, scale, z, block_size))
    inside = (level >= low) & (level <= high)
    offset = level.clamp(low, high) - zz
    slope = torch.where(inside, offset - x.double() / s, offset)
    dead = torch.isnan(level)
    dyd = dy.double()
    ds = torch.where(dead, 0, dyd * slope)
    dz = torch.where(inside | dead, 0, -s * dyd)
    bound = torch.where(dead, 0, dyd.abs() * (slope.abs() + offset.abs()))
    shape = reference.scale_shape(x.shape, block_size)
    blocks = [max(1, n) if b == -1 else b for n, b in zip(x.shape, block_size, strict=False)]

    def total(terms):
        out = torch.zeros(shape, dtype=torch.float64)
        for index in np.ndindex(*shape):
            part = terms if not blocks else terms[tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, blocks, strict=True))]
            out[index] = part.sum() * factor
        return out

    return torch.where(inside, dy, 0), total(ds), total(dz), total(bound), total(dz.abs())


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_equal_float64(name, dtype):
    ulp = 2.0**-50 if dtype == torch.float64 else 2.0**-21
    for shape, block_size in CASES:
        x, dy = sample(shape, dtype), sample(shape, dtype, seed=1, special=False)
        for low, high in ((-8, 7), (0, 255)):
            scale, zero_point = start(x, block_size, low, high)
            with isa(name):
                y, dx, ds, dz = gradients(x, scale, zero_point, block_size, low, high, 0.37, dy)
            want_dx, want_ds, want_dz, ds_bound, dz_bound = oracle(x, scale, zero_point, block_size, low, high, 0.37, dy)
            want, _ = reference.fake_quantize(x, scale, used(zero_point, low, high), block_size, low, high)
            assert same(y, want) and same(dx, want_dx), (shape, block_size)
            assert ds.dtype == scale.dtype and ds.shape == scale.shape and dz.shape == scale.shape
            assert ((ds.double() - want_ds).abs() <= ulp * ds_bound + 1e-30).all(), (shape, block_size)
            assert ((dz.double() - want_dz).abs() <= ulp * dz_bound + 1e-30).all(), (shape, block_size)


def test_every_path_thread_count_and_repeat_gives_the_same_bits():
    for shape, block_size in [((300, 517), []), ((90, 517), [1, -1]), ((90, 512), [1, 32]), ((90, 517), [-1, 1]), ((70, 517), [1, 5]), ((4, 6, 20, 20), [-1, 1, -1, -1]), ((2, 512, 8), [1, 1, -1])]:
        x, dy = sample(shape), sample(shape, seed=1, special=False)
        if x.dim() == 4:
            x = x.to(memory_format=torch.channels_last)
        scale, zero_point = start(x, block_size, 0, 15)
        results = []
        for name in ISAS:
            for n in (1, 2):
                with isa(name), threads(n):
                    results.append(gradients(x, scale, zero_point, block_size, 0, 15, 0.1, dy))
        for other in results[1:]:
            assert all(same(a, b) for a, b in zip(results[0], other, strict=True)), (shape, block_size)


def test_agrees_with_torch_except_near_ties():
    x = sample((64, 40), special=False)
    scale, zero_point, dy = torch.tensor([0.11]), torch.tensor([3.0]), sample((64, 40), seed=3, special=False)
    near = ((x / scale) % 1 - 0.5).abs() < 1e-4
    dy[near] = 0
    leaves = [t.clone().requires_grad_() for t in (x, scale, zero_point)]
    want = torch._fake_quantize_learnable_per_tensor_affine(*leaves, -8, 7, 0.25)
    want.backward(dy)
    y, dx, ds, dz = gradients(x, scale, zero_point, [], -8, 7, 0.25, dy)
    assert torch.equal(y[~near], want.detach()[~near]) and torch.equal(dx, leaves[0].grad)
    torch.testing.assert_close(ds, leaves[1].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dz, leaves[2].grad, rtol=1e-4, atol=1e-4)

    scale, zero_point = torch.rand(64) * 0.1 + 0.05, torch.arange(64.0) % 5
    near = ((x / scale.view(64, 1)) % 1 - 0.5).abs() < 1e-4
    dy = sample((64, 40), seed=4, special=False).masked_fill(near, 0)
    leaves = [t.clone().requires_grad_() for t in (x, scale, zero_point)]
    want = torch._fake_quantize_learnable_per_channel_affine(*leaves, 0, -8, 7, 0.25)
    want.backward(dy)
    y, dx, ds, dz = gradients(x, scale.view(64, 1), zero_point.view(64, 1), [1, -1], -8, 7, 0.25, dy)
    assert torch.equal(y[~near], want.detach()[~near]) and torch.equal(dx, leaves[0].grad)
    torch.testing.assert_close(ds.view(64), leaves[1].grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dz.view(64), leaves[2].grad, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_blocks_any_grid(data):
    shape = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
    block_size = [data.draw(st.sampled_from([-1, 1, 2, 3, 16, n])) for n in shape]
    low = data.draw(st.integers(-200, 0))
    high = data.draw(st.integers(low + 1, low + 300))
    x, dy = sample(shape, seed=data.draw(st.integers(0, 99))), sample(shape, seed=5, special=False)
    scale, zero_point = start(x, block_size, low, high)
    y, dx, ds, dz = gradients(x, scale, zero_point, block_size, low, high, 1.0, dy)
    want_dx, want_ds, want_dz, ds_bound, dz_bound = oracle(x, scale, zero_point, block_size, low, high, 1.0, dy)
    assert same(dx, want_dx)
    assert ((ds.double() - want_ds).abs() <= 2.0**-21 * ds_bound + 1e-30).all()
    assert ((dz.double() - want_dz).abs() <= 2.0**-21 * dz_bound + 1e-30).all()


def test_scale_is_clamped_and_zero_point_is_put_on_the_grid():
    x = torch.tensor([1.0, -1.0, 0.2])
    tiny = torch.finfo(torch.float32).tiny
    assert same(ops.fake_quantize_learned(x, torch.tensor(-3.0), None, [], -8, 7, 1.0), ops.fake_quantize(x, torch.tensor(tiny), None, [], -8, 7))
    for given_point, point in ((2.5, 2), (3.5, 4), (-20.0, -8), (20.0, 7)):
        got = ops.fake_quantize_learned(x, torch.tensor(0.1), torch.tensor(given_point), [], -8, 7, 1.0)
        assert same(got, ops.fake_quantize(x, torch.tensor(0.1), torch.tensor(point), [], -8, 7))


def test_an_integer_zero_point_gets_no_gradient_and_none_is_none():
    x, dy = sample((4, 6)), sample((4, 6), seed=1, special=False)
    scale = torch.tensor(0.25)
    with_integer = gradients(x, scale, torch.tensor(0), [], -8, 7, 1.0, dy)
    without = gradients(x, scale, None, [], -8, 7, 1.0, dy)
    assert all(same(a, b) for a, b in zip(with_integer[:3], without[:3], strict=True)) and without[3] is None


def test_layouts_and_broadcast_gradients():
    x = sample((4, 6, 5, 3)).to(memory_format=torch.channels_last)
    scale, zero_point = start(x, [-1, 1, -1, -1], 0, 15)
    for dy in (sample((4, 6, 5, 3), seed=2, special=False), torch.ones(()).expand(4, 6, 5, 3)):
        got = gradients(x, scale, zero_point, [-1, 1, -1, -1], 0, 15, 1.0, dy)
        want = gradients(x.contiguous(), scale, zero_point, [-1, 1, -1, -1], 0, 15, 1.0, dy.contiguous())
        assert same(got[0], want[0]) and same(got[1], want[1])
        torch.testing.assert_close(got[2], want[2], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[3], want[3], rtol=1e-5, atol=1e-5)


def test_bf16_scale_gets_a_bf16_gradient():
    x, dy = sample((4, 6)), sample((4, 6), seed=1, special=False)
    _, _, ds, _ = gradients(x, torch.tensor(0.25), None, [], -8, 7, 1.0, dy)
    _, _, ds16, _ = gradients(x, torch.tensor(0.25, dtype=torch.bfloat16), None, [], -8, 7, 1.0, dy)
    assert same(ds16, ds.bfloat16())


X, S = torch.zeros(4, 8), torch.ones(4, 1)


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (ValueError, "scale must be finite, got nan at entry 0", (X, torch.tensor(float("nan")), None, [], -8, 7, 1.0)),
        (ValueError, "zero_point must be finite, got inf at entry 0", (X, torch.tensor(1.0), torch.tensor(float("inf")), [], -8, 7, 1.0)),
        (ValueError, "grad_scale must be finite, got inf", (X, torch.tensor(1.0), None, [], -8, 7, float("inf"))),
        (ValueError, r"scale must have shape \[4, 1\] for block_size \[1, -1\] and input \[4, 8\], got \[3\]", (X, torch.ones(3), None, [1, -1], -8, 7, 1.0)),
        (ValueError, "quant_min must be less than quant_max", (X, S, None, [1, -1], 7, -8, 1.0)),
        (TypeError, "zero_point must be an integer or floating tensor, got bool", (X, S, S.bool(), [1, -1], -8, 7, 1.0)),
        (TypeError, "input must be float32, float64, bfloat16 or float16, got int64", (X.long(), S, None, [1, -1], -8, 7, 1.0)),
    ],
)
def test_bad_arguments(error, message, arguments):
    with pytest.raises(error, match="fake_quantize_learned: " + message):
        ops.fake_quantize_learned(*arguments)


def step(x, scale, zero_point):
    return ops.fake_quantize_learned(x, scale, zero_point, [1, -1], 0, 15, 0.1)


def test_opcheck_compile_and_script():
    x = sample((6, 40), special=False)
    scale, zero_point = start(x, [1, -1], 0, 15)
    for z in (zero_point, None, torch.zeros(6, 1, dtype=torch.int32)):
        arguments = (x.clone().requires_grad_(), scale.clone().requires_grad_(), z, [1, -1], 0, 15, 0.1)
        torch.library.opcheck(ops.fake_quantize_learned.default, arguments)
        torch.library.opcheck(ops._fake_quantize_learned_backward.default, (x, x, scale, z, [1, -1], 0, 15, 0.1))
    functions = [step, torch.compile(step, fullgraph=True, dynamic=True), torch.jit.script(step)]
    for rows, columns in ((6, 40), (9, 33), (3, 70)):
        x = sample((rows, columns), special=False)
        scale, zero_point = start(x, [1, -1], 0, 15)
        results = []
        for fn in functions:
            leaves = [t.clone().requires_grad_() for t in (x, scale, zero_point)]
            y = fn(*leaves)
            (y * torch.arange(float(columns))).sum().backward()
            results.append([y.detach()] + [t.grad for t in leaves])
        for other in results[1:]:
            assert all(same(a, b) for a, b in zip(results[0], other, strict=True))


def _quotients_at_risk():
    """Pairs x, s with |x / s| < 0.5: every mantissa pattern that makes a quotient hard to round, and exponents at and beyond the
    range in which a kernel may do without the division."""
    rng = np.random.default_rng(0)
    n = 1 << 17
    s = np.exp2(rng.integers(-60, 60, n)).astype(np.float32) * rng.uniform(1, 2, n).astype(np.float32)
    s[::5] = np.nextafter(np.exp2(rng.integers(-60, 60, s[::5].size)).astype(np.float32), np.float32(0))  # mantissas of ones
    s[1::5] = np.nextafter(s[1::5], np.float32(np.inf))
    wanted = (np.exp2(-rng.uniform(1.01, 30, n)) * rng.choice([-1, 1], n)).astype(np.float32)
    middle = wanted.astype(np.float64) + np.spacing(wanted).astype(np.float64) / 2  # quotients halfway between two floats
    x = (middle * s.astype(np.float64)).astype(np.float32)
    x[::7] = np.nextafter(x[::7], np.float32(0))
    x[3::11] = rng.choice([0.0, -0.0, 1e-38, -1e-40, 1e-45], x[3::11].size).astype(np.float32)
    return torch.from_numpy(x), torch.from_numpy(s)


@pytest.mark.parametrize("path", ISAS)
def test_the_scales_gradient_divides_exactly(path):
    torch.ops.torchqat._set_cpu_isa(path)
    x, s = _quotients_at_risk()
    rows = torch.zeros(x.numel(), 16)
    rows[:, 5] = x
    dy = torch.zeros_like(rows)
    dy[:, 5] = 1
    # The slope inside is rint(x / s) - x / s, and rint(x / s) is 0.
    _, ds, _ = torch.ops.torchqat._fake_quantize_learned_backward(dy, rows, s[:, None], None, [1, 16], -8, 7, 1.0)
    assert torch.equal(ds.flatten(), -(x / s))


def test_where_nothing_is_finite_the_scales_gradient_still_divides():
    x = torch.tensor([1.0, torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 1e-44, 2.0]).repeat(4)
    for s in (1e-20, 1.0, 1e20):
        scale = torch.tensor(s, requires_grad=True)
        gradients = []
        for path in ISAS:
            torch.ops.torchqat._set_cpu_isa(path)
            scale.grad = None
            torch.ops.torchqat.fake_quantize_learned(x, scale, None, [], -8, 7, 1.0).nan_to_num().sum().backward()
            gradients.append(scale.grad.item())
        assert len(set(map(str, gradients))) == 1
