"""fake_quantize, its straight-through gradient, and fake_quantize_dynamic."""

from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from affine_cases import CASES, DTYPES, ISAS, isa, same, sample, threads
from hypothesis import given, settings
from hypothesis import strategies as st

ops = torch.ops.torchqat
GRIDS = [(-8, 7, True), (0, 255, False)]


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_gradient_equal_the_reference(name, dtype):
    for shape, block_size in CASES:
        x = sample(shape, dtype)
        grad = sample(shape, dtype, seed=1, special=False)
        for low, high, symmetric in GRIDS:
            scale, zero_point = reference.choose_qparams(x, block_size, low, high, symmetric)
            want, mask = reference.fake_quantize(x, scale, zero_point, block_size, low, high)
            with isa(name):
                case = (shape, block_size, low)
                assert same(ops.fake_quantize(x, scale, zero_point, block_size, low, high), want), case
                leaf = x.clone().requires_grad_()
                y = ops.fake_quantize(leaf, scale, zero_point, block_size, low, high)
                assert same(y.detach(), want), case
                y.backward(grad)
                assert same(leaf.grad, torch.where(mask, grad, 0)), case
                assert same(ops.fake_quantize_dynamic(x, block_size, low, high, symmetric), want), case
                leaf = x.clone().requires_grad_()
                ops.fake_quantize_dynamic(leaf, block_size, low, high, symmetric).backward(grad)
                assert same(leaf.grad, torch.where(mask, grad, 0)), case


def layouts():
    base = sample((6, 10, 5, 7))
    return {
        "channels_last": base.to(memory_format=torch.channels_last),
        "transposed": sample((7, 10, 6, 5)).permute(2, 1, 3, 0),
        "sliced": sample((6, 10, 5, 9))[..., 1:8],
        "strided": sample((12, 10, 5, 14))[::2, :, :, ::2],
        "expanded": sample((6, 1, 5, 7)).expand(6, 10, 5, 7),
        "channels_last slice": sample((6, 20, 5, 7)).to(memory_format=torch.channels_last)[:, 3:13],
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("block_size", [[], [1, -1, -1, -1], [-1, 1, -1, -1], [1, 4, -1, -1], [2, 3, 2, 4]])
def test_memory_layouts_change_nothing(layout, block_size):
    x = layouts()[layout]
    scale, zero_point = ops.choose_qparams(x, block_size, 0, 255, False)
    plain = x.contiguous()
    for got, want in zip((scale, zero_point), ops.choose_qparams(plain, block_size, 0, 255, False), strict=True):
        assert same(got, want)
    want, mask = reference.fake_quantize(plain, scale, zero_point, block_size, 0, 255)
    leaf = x.detach().requires_grad_()
    y = ops.fake_quantize(leaf, scale, zero_point, block_size, 0, 255)
    assert same(y.detach(), want)
    assert y.stride() == torch.empty_like(x).stride()
    for grad in (sample((6, 10, 5, 7), seed=5, special=False), torch.ones(()).expand(6, 10, 5, 7)):
        (got,) = torch.autograd.grad(y, leaf, grad, retain_graph=True)
        assert same(got, torch.where(mask, grad, 0))
        assert same(ops.fake_quantize_dynamic(x, block_size, 0, 255, False), want)
    codes = ops.quantize(x, scale, zero_point, block_size, 0, 255, torch.uint8)
    assert same(codes, reference.quantize(plain, scale, zero_point, block_size, 0, 255, torch.uint8))
    assert same(ops.dequantize(codes, scale, zero_point, block_size, torch.float32), reference.dequantize(codes, scale, zero_point, block_size, torch.float32))


def test_one_and_two_threads_give_the_same_bits():
    x = sample((1500, 131))
    for block_size in ([], [1, -1], [-1, 1], [1, 32], [128, 128]):
        results = []
        for n in (1, 2):
            with threads(n):
                scale, zero_point = ops.choose_qparams(x, block_size, 0, 15, False)
                leaf = x.clone().requires_grad_()
                y = ops.fake_quantize(leaf, scale, zero_point, block_size, 0, 15)
                y.backward(torch.ones_like(x))
                dynamic = ops.fake_quantize_dynamic(x, block_size, 0, 15, False)
                results.append((scale, zero_point, y.detach(), leaf.grad, dynamic))
        for one, two in zip(*results, strict=True):
            assert same(one, two), block_size
        assert same(results[0][4], results[0][2])


def test_straight_through_rule_at_every_kind_of_point():
    nan, inf = float("nan"), float("inf")
    #                 inside        edges           ties to even: 7.5 -> 8 is out, -8.5 -> -8 is in       outside
    x = torch.tensor([0.0, 3.2, 7.0, -8.0, 7.49, 7.5, -8.5, -8.51, 8.0, 100.0, -100.0, inf, -inf, nan])
    inside = torch.tensor([1.0, 1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    value = torch.tensor([0.0, 3, 7, -8, 7, 7, -8, -8, 7, 7, -8, 7, -8, nan])
    x.requires_grad_()
    y = ops.fake_quantize(x, torch.tensor(1.0), None, [], -8, 7)
    y.backward(torch.full_like(x, 2.0))
    assert same(y.detach(), value)
    assert same(x.grad, 2 * inside)


def test_zero_is_exact_and_positive():
    y = ops.fake_quantize(torch.tensor([0.0, -0.0, -0.1]), torch.tensor(1.0), torch.tensor(3), [], 0, 255)
    assert same(y, torch.zeros(3))


def test_division_is_ieee():
    # x * (1 / s) would round to the other code for some of these.
    scale = torch.tensor(np.float32(1) / np.float32(3))
    x = (torch.arange(-300, 300, dtype=torch.float32) + 0.5) * scale
    want = torch.from_numpy(np.rint(x.numpy() / scale.numpy()).clip(-128, 127) * scale.numpy())
    assert same(ops.fake_quantize(x, scale, None, [], -128, 127), want + 0.0)


@pytest.mark.parametrize("name", ISAS)
def test_agrees_with_torch_except_near_ties(name):
    x = sample((64, 40), special=False)
    scale, zero_point = torch.tensor(0.0173), torch.tensor(101, dtype=torch.int32)
    with isa(name):
        got = ops.fake_quantize(x, scale, zero_point, [], 0, 255)
        per_channel = ops.fake_quantize(x, torch.full((64, 1), 0.0173), None, [1, -1], -128, 127)
    far = ((x / scale) % 1 - 0.5).abs() > 1e-4
    want = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)
    assert torch.equal(got[far], want[far])
    want = torch.fake_quantize_per_channel_affine(x, torch.full((64,), 0.0173), torch.zeros(64, dtype=torch.int32), 0, -128, 127)
    assert torch.equal(per_channel[far], want[far])
    assert far.float().mean() > 0.99


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_blocks_any_grid(data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    block_size = [data.draw(st.sampled_from([-1, 1, 2, 3, 5, n, n + 1])) for n in shape]
    low = data.draw(st.integers(-300, 100))
    high = data.draw(st.integers(low + 1, low + 70000))
    order = data.draw(st.permutations(range(len(shape))))
    dtype = data.draw(st.sampled_from(DTYPES))
    x = sample([shape[d] for d in order], dtype, seed=data.draw(st.integers(0, 99))).permute(list(np.argsort(order)))
    name = data.draw(st.sampled_from(ISAS))
    scale, zero_point = reference.choose_qparams(x, block_size, low, high, False)
    want, mask = reference.fake_quantize(x, scale, zero_point, block_size, low, high)
    with isa(name):
        assert all(same(a, b) for a, b in zip(ops.choose_qparams(x, block_size, low, high, False), (scale, zero_point)))
        leaf = x.clone().requires_grad_()
        y = ops.fake_quantize(leaf, scale, zero_point, block_size, low, high)
        y.sum().backward()
    assert same(y.detach(), want)
    assert same(leaf.grad, mask.to(dtype))


@pytest.mark.parametrize("scale_dtype", DTYPES)
@pytest.mark.parametrize("zero_dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_dtypes_of_scale_and_zero_point(scale_dtype, zero_dtype):
    x = sample((5, 20))
    scale = torch.tensor([0.25, 0.5, 0.1, 1.0, 2.0], dtype=scale_dtype).view(5, 1)
    zero_point = torch.tensor([3, 0, 100, 1, 7], dtype=zero_dtype).view(5, 1)
    want, _ = reference.fake_quantize(x, scale.float(), zero_point, [1, -1], 0, 127)
    assert same(ops.fake_quantize(x, scale, zero_point, [1, -1], 0, 127), want)
    assert same(ops.fake_quantize(x, scale.view(5), zero_point.view(5), [1, -1], 0, 127), want)


def test_out():
    x = sample((6, 10))
    scale = torch.tensor(0.25)
    want = ops.fake_quantize(x, scale, None, [], -8, 7)
    out = torch.empty(6, 10)
    assert ops.fake_quantize.out(x, scale, None, [], -8, 7, out=out) is out
    assert same(out, want)
    turned = torch.empty(10, 6).t()
    ops.fake_quantize(x, scale, None, [], -8, 7, out=turned)
    assert same(turned, want)
    x_inplace = x.clone()
    ops.fake_quantize(x_inplace, scale, None, [], -8, 7, out=x_inplace)
    assert same(x_inplace, want)
    with pytest.raises(TypeError, match="fake_quantize: out must have the input's dtype float32, got float64"):
        ops.fake_quantize(x, scale, None, [], -8, 7, out=out.double())
    with pytest.raises(ValueError, match=r"fake_quantize: out must have the input's shape \[6, 10\], got \[10, 6\]"):
        ops.fake_quantize(x, scale, None, [], -8, 7, out=torch.empty(10, 6))
    with pytest.raises(RuntimeError, match="derivative"):
        ops.fake_quantize(x.requires_grad_(), scale, None, [], -8, 7, out=out).sum().backward()


def saved_bytes(fn, x):
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        fn(x)
    return sum(sizes)


def test_what_is_saved_for_backward():
    x = torch.randn(64, 100, requires_grad=True)
    assert saved_bytes(lambda t: ops.fake_quantize(t, torch.tensor(0.1), None, [], -8, 7), x) == 800
    assert saved_bytes(lambda t: ops.fake_quantize_dynamic(t, [], 0, 255, False), x) == 800
    assert saved_bytes(lambda t: ops.fake_quantize_dynamic(t, [1, -1], -127, 127, True), x) == 0
    with torch.no_grad():
        x[3, 5] = float("inf")
    assert saved_bytes(lambda t: ops.fake_quantize_dynamic(t, [1, -1], -127, 127, True), x) == 800


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40), st.sampled_from([1, 3, 7, 127, 2047]))
def test_absmax_scales_clip_nothing(values, high):
    x = torch.tensor(values, dtype=torch.float32)
    scale, zero_point = ops.choose_qparams(x, [], -high, high, True)
    _, mask = reference.fake_quantize(x, scale, zero_point, [], -high, high)
    assert mask.all()
    leaf = x.requires_grad_()
    ops.fake_quantize_dynamic(leaf, [], -high, high, True).backward(torch.arange(float(len(values))))
    assert same(leaf.grad, torch.arange(float(len(values))))


def test_scale_and_zero_point_are_constants():
    scale = torch.tensor(0.1, requires_grad=True)
    y = ops.fake_quantize(torch.randn(4), scale, None, [], -8, 7)
    assert not y.requires_grad
    x = torch.randn(4, requires_grad=True)
    ops.fake_quantize(x, scale, None, [], -8, 7).sum().backward()
    assert scale.grad is None


def test_double_backward_says_that_it_is_not_supported():
    x = torch.randn(4, requires_grad=True)
    y = ops.fake_quantize(x, torch.tensor(0.1), None, [], -8, 7)
    dy = torch.ones(4, requires_grad=True)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for torchqat::_fake_quantize_backward is not implemented"):
        dx.sum().backward()


X = torch.zeros(4, 8)
S = torch.ones(4, 1)


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (ValueError, r"scale must have shape \[4, 1\] for block_size \[1, -1\] and input \[4, 8\], got \[3\]", (X, torch.ones(3), None, [1, -1], -8, 7)),
        (ValueError, r"scale must have one element for block_size \[\], got \[4, 1\]", (X, S, None, [], -8, 7)),
        (ValueError, r"scale must be finite and > 0, got 0 at entry 0", (X, torch.tensor(0.0), None, [], -8, 7)),
        (ValueError, r"scale must be finite and > 0, got -1 at entry 0", (X, torch.tensor(-1.0), None, [], -8, 7)),
        (ValueError, r"scale must be finite and > 0, got inf at entry 2", (X, torch.tensor([[1.0], [1], [np.inf], [1]]), None, [1, -1], -8, 7)),
        (ValueError, r"scale must be finite and > 0, got nan", (X, torch.tensor(np.nan), None, [], -8, 7)),
        (ValueError, r"scale must be finite and > 0, got 0", (X, torch.tensor(1e-60, dtype=torch.float64), None, [], -8, 7)),
        (ValueError, r"zero_point must be within \[-8, 7\], got 8 at entry 0", (X, torch.tensor(1.0), torch.tensor(8), [], -8, 7)),
        (ValueError, r"zero_point must be within \[-8, 7\], got -9", (X, torch.tensor(1.0), torch.tensor(-9, dtype=torch.int8), [], -8, 7)),
        (ValueError, r"zero_point must be within .*, got 4294967296", (X, torch.tensor(1.0), torch.tensor(2**32), [], -8, 7)),
        (ValueError, r"zero_point must have the shape of scale \[4, 1\], got \[8\]", (X, S, torch.zeros(8, dtype=torch.int32), [1, -1], -8, 7)),
        (ValueError, r"quant_min must be less than quant_max, got 7 and 7", (X, S, None, [1, -1], 7, 7)),
        (ValueError, r"quant_min and quant_max must be within \+-2\^24, got -20000000 and 7", (X, S, None, [1, -1], -20000000, 7)),
        (ValueError, r"block_size must have one entry per input dimension \(2\) or none, got \[1\]", (X, S, None, [1], -8, 7)),
        (ValueError, r"block_size entries must be positive, or -1 for the whole dimension, got \[0, 1\]", (X, S, None, [0, 1], -8, 7)),
        (TypeError, r"input must be float32, float64, bfloat16 or float16, got int32", (X.int(), S, None, [1, -1], -8, 7)),
        (TypeError, r"scale must be float32, float64, bfloat16 or float16, got int32", (X, S.int(), None, [1, -1], -8, 7)),
        (TypeError, r"zero_point must be an integer tensor, got float32", (X, S, torch.zeros(4, 1), [1, -1], -8, 7)),
    ],
)
def test_bad_arguments(error, message, arguments):
    with pytest.raises(error, match="fake_quantize: " + message):
        ops.fake_quantize(*arguments)
    leaf = arguments[0].clone()
    if leaf.is_floating_point():
        with pytest.raises(error, match="fake_quantize: " + message):
            ops.fake_quantize(leaf.requires_grad_(), *arguments[1:])
    if not message.startswith(("scale must be finite", "zero_point must be within")):  # Meta sees no values
        with pytest.raises(error, match="fake_quantize: " + message):
            ops.fake_quantize(*(a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments))


def test_bad_arguments_of_the_dynamic_form():
    with pytest.raises(ValueError, match="fake_quantize_dynamic: quant_max must be > 0 for symmetric scales, got 0"):
        ops.fake_quantize_dynamic(X, [], -8, 0, True)
    with pytest.raises(TypeError, match="fake_quantize_dynamic: input must be float32"):
        ops.fake_quantize_dynamic(X.int(), [], -8, 7, True)
    with pytest.raises(ValueError, match="fake_quantize: scale must be on the input's device cpu, got meta"):
        ops.fake_quantize(X, S.to("meta"), None, [1, -1], -8, 7)
    with pytest.raises(ValueError, match="_fake_quantize_backward: mask must be uint8 with 4 entries"):
        ops._fake_quantize_backward(X, torch.zeros(5, dtype=torch.uint8), [])


@pytest.mark.parametrize("block_size", [[], [1, -1], [1, 32]])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(block_size, requires_grad):
    x = sample((6, 48), special=False).requires_grad_(requires_grad)
    scale, zero_point = ops.choose_qparams(x.detach(), block_size, 0, 255, False)
    torch.library.opcheck(ops.fake_quantize.default, (x, scale, zero_point, block_size, 0, 255))
    torch.library.opcheck(ops.fake_quantize_dynamic.default, (x, block_size, 0, 255, False))
    torch.library.opcheck(ops.fake_quantize_dynamic.default, (x, block_size, -127, 127, True))


def test_opcheck_of_private_ops():
    x, scale = sample((6, 48), special=False), torch.tensor(0.1)
    # AOT dispatch refuses any custom op that returns the tensor it writes.
    torch.library.opcheck(
        ops.fake_quantize.out,
        (x, scale, None, [], 0, 255),
        {"out": torch.empty_like(x)},
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
    torch.library.opcheck(ops._fake_quantize_forward.default, (x, scale, None, [], 0, 255))
    torch.library.opcheck(ops._fake_quantize_dynamic_forward.default, (x, [], 0, 255, False, True))
    torch.library.opcheck(ops._fake_quantize_dynamic_forward.default, (x, [], -7, 7, True, False))
    torch.library.opcheck(ops._fake_quantize_backward.default, (x, torch.full((36,), 0b1010, dtype=torch.uint8), [1, 0]))


def train(x, scale, zero_point):
    y = ops.fake_quantize(x, scale, zero_point, [1, 16], 0, 255)
    return y + ops.fake_quantize_dynamic(x, [1, -1], -127, 127, True) + ops.fake_quantize_dynamic(x, [], 0, 255, False)


def test_compile_with_dynamic_shapes():
    compiled = torch.compile(train, fullgraph=True, dynamic=True)
    for rows, columns in ((5, 33), (7, 70), (3, 16)):
        x = sample((rows, columns), special=False)
        scale, zero_point = ops.choose_qparams(x, [1, 16], 0, 200, False)
        results = []
        for fn in (train, compiled):
            leaf = x.clone().requires_grad_()
            y = fn(leaf, scale, zero_point)
            (y * torch.arange(float(columns))).sum().backward()
            results.append((y.detach(), leaf.grad))
        assert all(same(a, b) for a, b in zip(*results, strict=True))


def test_compile_keeps_a_channels_last_gradient():
    def step(x, scale):
        return ops.fake_quantize(x, scale, None, [-1, 1, -1, -1], -8, 7)

    scale = torch.full((1, 5, 1, 1), 0.3)
    results = []
    for fn in (step, torch.compile(step, fullgraph=True)):
        leaf = sample((2, 5, 4, 3)).to(memory_format=torch.channels_last).requires_grad_()
        y = fn(leaf, scale)
        y.backward(torch.arange(120.0).view(2, 5, 4, 3))
        results.append((y.detach(), leaf.grad))
    assert all(same(a, b) for a, b in zip(*results, strict=True))


def test_script():
    scripted = torch.jit.script(train)
    x = sample((4, 48), special=False).requires_grad_()
    scale, zero_point = ops.choose_qparams(x, [1, 16], 0, 255, False)
    for _ in range(3):
        x.grad = None
        y = scripted(x, scale, zero_point)
        y.sum().backward()
    got = x.grad.clone()
    x.grad = None
    want = train(x, scale, zero_point)
    want.sum().backward()
    assert same(y.detach(), want.detach()) and same(got, x.grad)


def test_autocast_changes_nothing():
    x, scale = sample((4, 48)), torch.tensor(0.1)
    want = ops.fake_quantize(x, scale, None, [], -8, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(ops.fake_quantize(x, scale, None, [], -8, 7), want)
        half = ops.fake_quantize(x.bfloat16(), scale, None, [], -8, 7)
    assert same(half, ops.fake_quantize(x.bfloat16().float(), scale, None, [], -8, 7).bfloat16())


def test_more_than_2_to_31_elements():
    n = 2**31 + 37
    free = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable")).split()[1]) * 1024
    if torch.ops.torchqat._cpu_isa() == "scalar" or free < 3 * 2 * n:
        pytest.skip("needs a vector path and 13 GB of free memory")
    x = torch.full((n,), 0.3, dtype=torch.bfloat16)
    x[-5:] = torch.tensor([1.0, -1.0, 100.0, -100.0, 0.3])
    ops.fake_quantize.out(x, torch.tensor(0.25), None, [], -8, 7, out=x)
    assert x[-5:].tolist() == [1.0, -1.0, 1.75, -2.0, 0.25]
    assert x[0] == 0.25 and x[n // 2] == 0.25 and x[2**31] == 0.25
