"""Scales of least squared error, binary and ternary grids, against brute force and numpy."""

import numpy as np
import pytest
import torch
from cpu_paths import isa  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

from torchqat import _C

ops = torch.ops.torchqat


def blocks_of(x: torch.Tensor, block_size):
    """The flat elements of each block, in the order of the scale's entries."""
    if len(block_size) == 0:
        return [x.flatten()]
    widths = [n if b == -1 else b for n, b in zip(x.shape, block_size)]
    counts = [-(-n // w) for n, w in zip(x.shape, widths)]
    return [
        x[tuple(slice(i * w, (i + 1) * w) for i, w in zip(index, widths))].flatten() for index in np.ndindex(*counts)
    ]


def squared_error(x, scale, zero_point, block_size, low, high):
    y = ops.fake_quantize(x, scale, zero_point, block_size, low, high)
    return [float(e.double().square().sum()) for e in blocks_of(x - y, block_size)]


def brute_force(block, low, high):
    """Least error over a fine sweep of scales, float64."""
    block = block.double().numpy()
    scales = np.abs(block).max() / high * np.arange(1, 2001) / 2000
    codes = np.clip(np.rint(block / scales[:, None]), low, high)
    return ((block - codes * scales[:, None]) ** 2).sum(1).min()


@pytest.mark.parametrize("low, high", [(-2, 1), (-1, 1), (-4, 3), (-8, 7)])
@pytest.mark.parametrize("shape, block_size", [
    ((6, 64), [1, 32]), ((5, 70), [1, 32]), ((4, 3, 9), [-1, 1, -1]), ((33, 40), [16, 16]), ((12, 11), []), ((7,), [3]),
])  # fmt: skip
def test_error_comes_close_to_the_least(shape, block_size, low, high):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) ** 3
    scale, zero_point = ops.choose_qparams_mse(x, block_size, low, high, True)
    assert scale.shape == ops.choose_qparams(x, block_size, low, high, True)[0].shape
    assert scale.dtype == torch.float32 and zero_point.dtype == torch.int32 and not zero_point.any()
    for got, block in zip(squared_error(x, scale, zero_point, block_size, low, high), blocks_of(x, block_size)):
        assert got <= (1.1 if high > 3 else 1.03) * brute_force(block, low, high) + 1e-12


def test_eight_bits_are_no_worse_than_absmax():
    x = torch.randn(8, 300, generator=torch.Generator().manual_seed(6)) ** 3
    ours = squared_error(x, *ops.choose_qparams_mse(x, [1, -1], -127, 127, True), [1, -1], -127, 127)
    theirs = squared_error(x, *ops.choose_qparams(x, [1, -1], -127, 127, True), [1, -1], -127, 127)
    assert all(a <= b for a, b in zip(ours, theirs))


def test_affine_grids_beat_the_full_range():
    x = torch.distributions.Gamma(2.0, 1.0).sample((8, 200)) - 0.4
    x[:, 0] = 20
    scale, zero_point = ops.choose_qparams_mse(x, [1, -1], 0, 7, False)
    assert ((zero_point >= 0) & (zero_point <= 7)).all()
    ours = squared_error(x, scale, zero_point, [1, -1], 0, 7)
    theirs = squared_error(x, *ops.choose_qparams(x, [1, -1], 0, 7, False), [1, -1], 0, 7)
    assert all(a < 0.9 * b for a, b in zip(ours, theirs))


def test_ternary_is_no_worse_than_twn():
    x = torch.randn(16, 100, generator=torch.Generator().manual_seed(2))
    scale = ops.choose_scale_ternary(x, [1, -1])
    y = ops.fake_quantize_ternary(x, scale, [1, -1])
    assert torch.equal(y, ops.fake_quantize(x, scale, None, [1, -1], -1, 1))
    assert torch.equal(y / scale, (y / scale).round()) and (y / scale).abs().max() == 1
    magnitude = x.abs()
    kept = magnitude > 0.7 * magnitude.mean(1, keepdim=True)
    twn_scale = (magnitude * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
    twn = torch.where(kept, x.sign() * twn_scale, torch.zeros(()))
    assert ((x - y).square().sum(1) <= (x - twn).square().sum(1) * (1 + 1e-6)).all()
    leaf = x.clone().requires_grad_()
    ops.fake_quantize_ternary(leaf, scale, [1, -1]).sum().backward()
    assert torch.equal(leaf.grad.bool(), (x / scale).round().abs() <= 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_binary(dtype, isa):
    x = torch.randn(6, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).to(dtype)
    x[0, :3] = torch.tensor([0.0, -0.0, -1e-3]).to(dtype)
    scale = ops.choose_scale_binary(x, [1, 20])
    work = torch.float64 if dtype == torch.float64 else torch.float32
    assert scale.dtype == work and scale.shape == (6, 3)
    want = torch.stack([b.to(torch.float64).abs().mean() for b in blocks_of(x, [1, 20])]).reshape(6, 3)
    torch.testing.assert_close(scale.double(), want, rtol=1e-6, atol=0)
    leaf = x.clone().requires_grad_()
    y = ops.fake_quantize_binary(leaf, scale, [1, 20])
    spread = scale.repeat_interleave(20, 1)[:, :50]
    assert torch.equal(y, torch.where(x < 0, -spread, spread).to(dtype))
    codes = ops.quantize_binary(x)
    assert codes.dtype == torch.int8 and set(codes.unique().tolist()) == {-1, 1}
    assert torch.equal(ops.dequantize(codes, scale, None, [1, 20], dtype), y)
    grad = torch.randn(6, 50).to(dtype)
    y.backward(grad)
    assert torch.equal(leaf.grad, grad)


def test_special_values(isa):
    x = torch.randn(4, 40, generator=torch.Generator().manual_seed(4))
    spoilt = x.clone()
    spoilt[0, 1], spoilt[1, 2], spoilt[2, 3] = float("nan"), float("inf"), -float("inf")
    left = torch.ones(4, 40, dtype=torch.bool)
    left[0, 1] = left[1, 2] = left[2, 3] = False
    scale = ops.choose_scale_binary(spoilt, [1, -1])
    torch.testing.assert_close(scale.flatten(), torch.stack([r[m].abs().mean() for r, m in zip(x, left)]))
    searched, _ = ops.choose_qparams_mse(spoilt, [1, -1], -2, 1, True)
    zeroed, _ = ops.choose_qparams_mse(torch.where(left, x, torch.zeros(())), [1, -1], -2, 1, True)
    assert torch.equal(searched, zeroed)
    y = ops.fake_quantize_binary(spoilt, scale, [1, -1])
    assert y[0, 1].isnan() and y[1, 2] == scale[1] and y[2, 3] == -scale[2]
    zeros = torch.zeros(3, 8)
    assert torch.equal(ops.choose_qparams_mse(zeros, [1, -1], -2, 1, True)[0], torch.ones(3, 1))
    assert torch.equal(ops.choose_scale_binary(zeros, [1, -1]), torch.full((3, 1), torch.finfo(torch.float32).tiny))
    for factor in (1e-38, 1e37):
        scale, _ = ops.choose_qparams_mse(x * factor, [1, -1], -2, 1, True)
        assert scale.isfinite().all() and (scale > 0).all()
    for shape in [(0,), (0, 3), (3, 0)]:
        empty = torch.empty(shape)
        assert ops.fake_quantize_binary(empty, torch.ones(()), []).shape == shape
        assert ops.choose_qparams_mse(empty, [], -2, 1, True)[0].shape == ()
        assert ops.choose_scale_binary(empty, []).isfinite()
    assert ops.choose_scale_binary(torch.tensor(-3.0), []) == 3


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_same_bits_on_every_path_layout_and_thread_count(data):
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 80))
    block_size = data.draw(st.sampled_from([[], [1, -1], [1, 32], [-1, 1], [4, 16], [3, 5]]))
    low, high, symmetric = data.draw(st.sampled_from([(-2, 1, True), (-1, 1, True), (-4, 3, True), (0, 3, False)]))
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999))))
    before, threads = ops._cpu_isa(), torch.get_num_threads()
    results = []
    try:
        for name in _C.supported_isas():
            ops._set_cpu_isa(name)
            for count, view in ((1, x), (2, x), (1, x.t().contiguous().t())):
                torch.set_num_threads(count)
                results.append((*ops.choose_qparams_mse(view, block_size, low, high, symmetric),
                                ops.choose_scale_binary(view, block_size)))  # fmt: skip
    finally:
        ops._set_cpu_isa(before)
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


@pytest.mark.parametrize("low, high, symmetric", [(-2, 1, True), (-1, 1, True), (0, 15, False)])
def test_threads_share_a_long_block_without_changing_a_bit(low, high, symmetric):
    x = torch.randn(1, 512 * 70 + 3, generator=torch.Generator().manual_seed(4))
    x[0, 7] = torch.inf
    before, threads = ops._cpu_isa(), torch.get_num_threads()
    results = []
    try:
        for name in _C.supported_isas():
            ops._set_cpu_isa(name)
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(ops.choose_qparams_mse(x, [1, -1], low, high, symmetric))
    finally:
        ops._set_cpu_isa(before)
        torch.set_num_threads(threads)
    for scale, zero_point in results[1:]:
        assert torch.equal(scale, results[0][0]) and torch.equal(zero_point, results[0][1])


def test_opcheck_compile_and_script():
    x = torch.randn(4, 40)
    leaf = x.clone().requires_grad_()
    torch.library.opcheck(ops.choose_qparams_mse.default, (x, [1, 32], -2, 1, True))
    torch.library.opcheck(ops.choose_scale_binary.default, (leaf, [1, 32]))
    torch.library.opcheck(ops.choose_scale_ternary.default, (x, [1, 32]))
    torch.library.opcheck(ops.fake_quantize_binary.default, (leaf, torch.rand(4, 2) + 0.1, [1, 32]))
    torch.library.opcheck(ops.fake_quantize_ternary.default, (leaf, torch.rand(4, 2) + 0.1, [1, 32]))
    torch.library.opcheck(ops.quantize_binary.default, (leaf,))

    def step(x):
        binary = ops.fake_quantize_binary(x * 2, ops.choose_scale_binary(x, [1, -1]), [1, -1])
        return (binary + ops.fake_quantize_ternary(x, ops.choose_scale_ternary(x, []), [])).square().sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in [(4, 40), (6, 72)]:
        a = torch.randn(shape, requires_grad=True)
        b = a.detach().clone().requires_grad_()
        eager, traced = step(a), compiled(b)
        assert torch.equal(eager, traced)
        eager.backward()
        traced.backward()
        assert torch.equal(a.grad, b.grad)

    @torch.jit.script
    def scripted(x: torch.Tensor):
        scale = torch.ops.torchqat.choose_scale_binary(x, [1, -1])
        return torch.ops.torchqat.fake_quantize_binary(x, scale, [1, -1])

    assert torch.equal(scripted(x), ops.fake_quantize_binary(x, ops.choose_scale_binary(x, [1, -1]), [1, -1]))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: ops.choose_qparams_mse(x, [1, 32], 1, -2, True), ValueError, "choose_qparams_mse: quant_min must be less"),
        (lambda x: ops.choose_qparams_mse(x, [32], -2, 1, True), ValueError, "choose_qparams_mse: block_size must have one entry"),
        (lambda x: ops.choose_qparams_mse(x.int(), [], -2, 1, True), TypeError, "choose_qparams_mse: input must be float32"),
        (lambda x: ops.choose_scale_binary(x, [0, 1]), ValueError, "choose_scale_binary: block_size entries must be positive"),
        (lambda x: ops.choose_scale_ternary(x.long(), []), TypeError, "choose_scale_ternary: input must be float32"),
        (lambda x: ops.fake_quantize_binary(x, torch.ones(3), []), ValueError, "fake_quantize_binary: scale must have one element"),
        (lambda x: ops.fake_quantize_binary(x, -torch.ones(1), []), ValueError, "fake_quantize_binary: scale must be finite and > 0"),
        (lambda x: ops.quantize_binary(x.int()), TypeError, "quantize_binary: input must be float32"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.randn(4, 40))
