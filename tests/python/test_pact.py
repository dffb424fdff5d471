"""fake_quantize_pact: PACT's gradients (Choi 2018) against float64, on every path, and what every op must do."""

import numpy as np
import pytest
import reference
import torch
from affine_cases import CASES, DTYPES, ISAS, isa, same, sample, threads

ops = torch.ops.torchqat


def start(x, block_size, low, high):
    scale, _ = reference.choose_qparams(x, block_size, low, high, True)
    return scale.clamp(max=4.0) * 0.5


def gradients(x, scale, block_size, low, high, factor, dy):
    x, scale = x.detach().clone().requires_grad_(), scale.clone().requires_grad_()
    y = ops.fake_quantize_pact(x, scale, block_size, low, high, factor)
    y.backward(dy)
    return y.detach(), x.grad, scale.grad


def oracle(x, scale, block_size, low, high, factor, dy):
    """The paper's rule: dx where low <= x / s < high (one IEEE division), the rest of dy to the bound it was clipped to."""
    kind = reference.compute_dtype(x)
    s = reference.expand(scale, x.shape, block_size).astype(kind)
    with np.errstate(all="ignore"):
        ratio = reference.tensor(reference.to_compute(x, kind) / s, x.shape)
    dyd = dy.double()
    above, below, dead = ratio >= high, ratio < low, torch.isnan(ratio)
    dx = torch.where(above | below | dead, 0, dy)
    terms = torch.where(above, dyd * high, torch.where(below, dyd * low, 0))
    shape = reference.scale_shape(x.shape, block_size)
    blocks = [max(1, n) if b == -1 else b for n, b in zip(x.shape, block_size, strict=False)]
    ds, bound = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    for index in np.ndindex(*shape):
        part = ... if not blocks else tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, blocks, strict=True))
        ds[index], bound[index] = terms[part].sum() * factor, terms[part].abs().sum()
    return dx, ds, bound


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_equal_float64(name, dtype):
    ulp = 2.0**-50 if dtype == torch.float64 else 2.0**-21
    for shape, block_size in CASES:
        x, dy = sample(shape, dtype), sample(shape, dtype, seed=1, special=False)
        for low, high in ((-8, 7), (0, 255)):
            scale = start(x, block_size, low, high)
            with isa(name):
                y, dx, ds = gradients(x, scale, block_size, low, high, 0.37, dy)
            want_dx, want_ds, bound = oracle(x, scale, block_size, low, high, 0.37, dy)
            want, _ = reference.fake_quantize(x, scale, None, block_size, low, high)
            assert same(y, want) and same(dx, want_dx.to(dtype)), (shape, block_size)
            assert ds.dtype == scale.dtype and ds.shape == scale.shape
            assert ((ds.double() - want_ds).abs() <= ulp * bound + 1e-30).all(), (shape, block_size)


def test_is_pacts_formula():
    """y = 0.5 (|x| - |x - alpha| + alpha) rounded to k bits; d alpha = dy where x >= alpha, d x = dy in [0, alpha)."""
    alpha, high = 6.0, 15
    x = torch.tensor([-1.0, 0.0, 0.1, 5.9, 5.99, 6.0, 6.1, 50.0, float("inf"), float("-inf"), float("nan")], dtype=torch.float64)
    dy = torch.arange(1.0, 12.0, dtype=torch.float64)
    scale = torch.tensor(alpha / high, dtype=torch.float64)
    y, dx, ds = gradients(x, scale, [], 0, high, 1.0 / high, dy)
    clipped = 0.5 * (x[:8].abs() - (x[:8] - alpha).abs() + alpha)
    torch.testing.assert_close(y[:8], torch.round(clipped * (high / alpha)) * (alpha / high))
    assert dx.tolist() == [0, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0]
    assert ds.item() == 6 + 7 + 8 + 9


def test_every_path_and_thread_count_gives_the_same_bits():
    for shape, block_size in [((300, 517), []), ((90, 517), [1, -1]), ((90, 512), [1, 32]), ((70, 517), [1, 5])]:
        x, dy = sample(shape), sample(shape, seed=1, special=False)
        results = []
        for name in ISAS:
            for n in (1, 2):
                with isa(name), threads(n):
                    results.append(gradients(x, start(x, block_size, -8, 7), block_size, -8, 7, 0.1, dy))
        for other in results[1:]:
            assert all(same(a, b) for a, b in zip(results[0], other, strict=True)), (shape, block_size)


def test_layouts_and_empty():
    x = sample((4, 6, 5, 3)).to(memory_format=torch.channels_last)
    scale, dy = start(x, [-1, 1, -1, -1], 0, 15), sample((4, 6, 5, 3), seed=2, special=False)
    got = gradients(x, scale, [-1, 1, -1, -1], 0, 15, 1.0, dy)
    want = gradients(x.contiguous(), scale, [-1, 1, -1, -1], 0, 15, 1.0, dy)
    assert same(got[0], want[0]) and same(got[1], want[1]) and got[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got[2], want[2], rtol=1e-5, atol=1e-5)
    _, dx, ds = gradients(torch.empty(0, 3), torch.tensor(1.0), [], 0, 15, 1.0, torch.empty(0, 3))
    assert dx.shape == (0, 3) and ds.item() == 0


X, S = torch.zeros(4, 8), torch.ones(4, 1)


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (ValueError, "scale must be finite, got nan at entry 0", (X, torch.tensor(float("nan")), [], 0, 7, 1.0)),
        (ValueError, "grad_scale must be finite, got inf", (X, torch.tensor(1.0), [], 0, 7, float("inf"))),
        (ValueError, r"scale must have shape \[4, 1\] for block_size \[1, -1\] and input \[4, 8\], got \[3\]", (X, torch.ones(3), [1, -1], 0, 7, 1.0)),
        (ValueError, "quant_min must be less than quant_max", (X, S, [1, -1], 7, -8, 1.0)),
        (TypeError, "input must be float32, float64, bfloat16 or float16, got int64", (X.long(), S, [1, -1], 0, 7, 1.0)),
    ],
)
def test_bad_arguments(error, message, arguments):
    with pytest.raises(error, match="fake_quantize_pact: " + message):
        ops.fake_quantize_pact(*arguments)


def step(x, scale):
    return ops.fake_quantize_pact(x, scale, [1, -1], 0, 15, 0.1)


def test_opcheck_compile_and_script():
    x = sample((6, 40), special=False)
    scale = start(x, [1, -1], 0, 15)
    torch.library.opcheck(ops.fake_quantize_pact.default, (x.clone().requires_grad_(), scale.clone().requires_grad_(), [1, -1], 0, 15, 0.1))
    torch.library.opcheck(ops._fake_quantize_pact_backward.default, (x, x, scale, [1, -1], 0, 15, 0.1))
    functions = [step, torch.compile(step, fullgraph=True, dynamic=True), torch.jit.script(step)]
    for rows, columns in ((6, 40), (9, 33), (3, 70)):
        x = sample((rows, columns), special=False)
        results = []
        for fn in functions:
            leaves = [t.clone().requires_grad_() for t in (x, start(x, [1, -1], 0, 15))]
            y = fn(*leaves)
            (y * torch.arange(float(columns))).sum().backward()
            results.append([y.detach()] + [t.grad for t in leaves])
        for other in results[1:]:
            assert all(same(a, b) for a, b in zip(results[0], other, strict=True))
