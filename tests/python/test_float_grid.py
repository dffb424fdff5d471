"""fake_quantize_float against ml_dtypes casts, a numpy reading of the MX and NVFP4 formulas, and torchao."""

import warnings

import numpy as np
import pytest
import torch
from cpu_paths import isa  # noqa: F401
from float_grid_reference import ELEMENTS, MX, ROUNDINGS, cast, reference_blocks, same, work_array
from hypothesis import given, settings
from hypothesis import strategies as st

from torchqat import _C

op = torch.ops.torchqat.fake_quantize_float


def all_bf16() -> torch.Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


@pytest.mark.parametrize("element", ELEMENTS)
def test_every_bf16_value_casts_as_ml_dtypes_does(element, isa):
    x = all_bf16()
    x = x[x.isfinite()]
    kind, largest, _, _ = ELEMENTS[element]
    in_range = x.float().abs() <= largest
    got = op(x, None, [], element)
    plain = x[in_range].float().numpy().astype(kind).astype(np.float32)  # the cast itself, unclipped
    assert same(got[in_range].float(), torch.from_numpy(plain))
    assert torch.equal(got[~in_range].float(), (largest * x[~in_range].float().sign()))
    assert same(op(x.float(), None, [], element), got.float())


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_random_values_and_scales(element, dtype, isa):
    generator = torch.Generator().manual_seed(1)
    x = (torch.randn(5, 77, generator=generator, dtype=torch.float64) * 3).to(dtype)
    x[0, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]).to(dtype)
    scale = torch.rand(5, 3, generator=generator) + 0.01
    values = work_array(x)
    spread = np.repeat(scale.to(torch.from_numpy(values).dtype).numpy(), 32, axis=1)[:, :77]
    with np.errstate(all="ignore"):
        want = torch.from_numpy(cast(values / spread, element) * spread).to(dtype)
        inside = torch.from_numpy(np.abs(values / spread) <= ELEMENTS[element][1])
    leaf = x.clone().requires_grad_()
    got = op(leaf, scale, [1, 32], element)
    assert same(got, want)
    grad = torch.randn(5, 77, generator=generator).to(dtype)
    got.backward(grad)
    assert torch.equal(leaf.grad, torch.where(inside, grad, torch.zeros_like(grad)))


@pytest.mark.parametrize("format, rounding", [*((f, r) for f in MX for r in ROUNDINGS), ("nvfp4", "floor")])
def test_blocks_follow_the_formula(format, rounding, isa):
    generator = torch.Generator().manual_seed(2)
    for shape, block in [((7, 96), None), ((3, 5, 33), None), ((2, 16), None), ((4, 50), 20), ((5, 64), -1), ((9,), 4)]:
        if format == "nvfp4" and block is not None:
            continue
        size = block or (16 if format == "nvfp4" else 32)
        x = torch.randn(shape, generator=generator) * torch.exp2(torch.randint(-20, 20, shape, generator=generator).float())
        x.view(-1)[:3] = torch.tensor([0.0, -0.0, 1.0])
        blocks = [] if block is None else [1] * (len(shape) - 1) + [block]
        want, inside = reference_blocks(x, format, shape[-1] if size == -1 else size, rounding)
        leaf = x.clone().requires_grad_()
        got = op(leaf, None, blocks, format, rounding)
        assert same(got, want), (shape, block)
        got.backward(torch.ones_like(x))
        assert torch.equal(leaf.grad.bool(), inside), (shape, block)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", ["mxfp8_e4m3", "mxfp6_e2m3", "mxfp4", "nvfp4"])
def test_other_dtypes(format, dtype, isa):
    x = (torch.randn(6, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 5).to(dtype)
    want, _ = reference_blocks(x, format, 16 if format == "nvfp4" else 32)
    assert same(op(x, None, [], format), want)


def test_float64_exponents_beyond_the_scale_range():
    x = torch.full((32,), 1e300, dtype=torch.float64)
    assert torch.equal(op(x, None, [], "mxfp4"), torch.full_like(x, 6 * 2.0**127))
    tiny = torch.full((32,), 2.0**-128, dtype=torch.float64)
    assert torch.equal(op(tiny, None, [], "mxfp4"), tiny)


def test_special_blocks(isa):
    x = torch.zeros(5, 32)
    x[0] = -0.0
    x[1, 7] = float("nan")
    x[2, 8] = float("inf")
    x[3] = 2.0**-149
    x[4] = torch.finfo(torch.float32).max
    for format in MX:
        y = op(x, None, [], format)
        assert same(y[0], x[0])
        assert y[1].isnan().all() and y[2].isnan().all()
        assert y[3].isfinite().all()
        assert y[4].isfinite().all() and (y[4] > 0).all()
        leaf = x.clone().requires_grad_()
        op(leaf, None, [], format).sum().backward()
        assert leaf.grad[0].eq(1).all() and leaf.grad[1:3].eq(0).all()
    y = op(x[:3], None, [], "nvfp4")  # non-finite values are left out of NVFP4's statistics; NaN stays, infinity saturates
    assert same(y[0], x[0])
    assert y[1].isnan().sum() == 1 and y[1, 7].isnan()
    assert y[2].isfinite().all() and y[2, 8] > 0


def test_nvfp4_tensor_scale():
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(4))
    data_scale = x.abs().max() / (448 * 6)
    assert same(op(x, data_scale, [], "nvfp4"), op(x, None, [], "nvfp4"))
    for scale in (1.0, 0.1, 3e-5):
        want, inside = reference_blocks(x, "nvfp4", 16, tensor_scale=np.float32(scale))
        leaf = x.clone().requires_grad_()
        got = op(leaf, torch.tensor([[scale]]), [1, 16], "nvfp4")
        assert same(got, want)
        got.sum().backward()
        assert torch.equal(leaf.grad.bool(), inside)
    zeros = torch.zeros(2, 16)
    assert same(op(zeros, None, [], "nvfp4"), zeros)
    tiny = torch.full((2, 16), 1e-44)
    assert op(tiny, None, [], "nvfp4").isfinite().all()


def torchao_mx():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mx_tensor = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
        config = pytest.importorskip("torchao.prototype.mx_formats.config")
    return mx_tensor, config


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("format", MX)
def test_torchao_mx(format, rounding):
    mx_tensor, config = torchao_mx()
    element = {
        "mxfp8_e4m3": torch.float8_e4m3fn,
        "mxfp8_e5m2": torch.float8_e5m2,
        "mxfp6_e3m2": "fp6_e3m2",
        "mxfp6_e2m3": "fp6_e2m3",
        "mxfp4": torch.float4_e2m1fn_x2,
    }[format]
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(64, 128, generator=generator) * torch.exp2(torch.randint(-30, 30, (64, 1), generator=generator).float())
    mode = getattr(config.ScaleCalculationMode, rounding.upper())
    theirs = mx_tensor.MXTensor.to_mx(x, element, 32, scaling_mode=mode).dequantize(torch.float32)
    assert torch.equal(op(x, None, [1, 32], format, rounding), theirs)


@pytest.mark.parametrize("two_level", [False, True])
def test_torchao_nvfp4(two_level):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nvfp4 = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(6)) * 4
    scale = nvfp4.per_tensor_amax_to_scale(x.abs().max()) if two_level else None
    theirs = nvfp4.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).dequantize(torch.float32)
    ours = op(x, scale if two_level else torch.ones(1), [], "nvfp4")
    # torchao multiplies by a reciprocal: a value within an ulp of a rounding midpoint may go the other way.
    differ = ours != theirs
    assert differ.float().mean() < 1e-3
    assert torch.allclose(ours[~differ], theirs[~differ], rtol=0, atol=0)
    if differ.any():
        assert (ours - theirs).abs()[differ].max() <= 0.5 * x.abs().max()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_values_any_blocks(data):
    format = data.draw(st.sampled_from([*MX]))
    rounding = data.draw(st.sampled_from(ROUNDINGS))
    columns = data.draw(st.integers(1, 70))
    block = data.draw(st.integers(1, 70))
    floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
    x = torch.tensor(data.draw(st.lists(floats, min_size=columns, max_size=columns)))
    x = torch.stack([x, x.flip(0)])
    want, inside = reference_blocks(x, format, block, rounding)
    results = []
    for name in _C.supported_isas():
        before = torch.ops.torchqat._cpu_isa()
        torch.ops.torchqat._set_cpu_isa(name)
        leaf = x.clone().requires_grad_()
        y = op(leaf, None, [1, block], format, rounding)
        y.backward(torch.ones_like(y))
        torch.ops.torchqat._set_cpu_isa(before)
        results.append((y.detach(), leaf.grad))
    for y, grad in results:
        assert same(y, want)
        assert torch.equal(grad.bool(), inside)


@pytest.mark.parametrize("format", ["e2m1", "mxfp8_e4m3", "nvfp4"])
def test_threads_give_the_same_bits(format):
    x = torch.randn(300, 1001, generator=torch.Generator().manual_seed(8))
    before = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf = x.clone().requires_grad_()
            y = op(leaf, None, [], format)
            y.backward(x)
            results.append((y.detach(), leaf.grad))
    finally:
        torch.set_num_threads(before)
    for y, grad in results[1:]:
        assert torch.equal(y, results[0][0]) and torch.equal(grad, results[0][1])


def test_layouts():
    x = torch.randn(2, 6, 5, 32)
    dense = [x.transpose(1, 3), x.to(memory_format=torch.channels_last)]
    for view in [*dense, x[:, ::2], x[..., ::3], x[:1].expand(2, 6, 5, 32)]:
        for format in ("e4m3fn", "mxfp4", "nvfp4"):
            leaf = view.detach().requires_grad_()
            y = op(leaf, None, [], format)
            assert same(y, op(view.contiguous(), None, [], format))
            if format == "e4m3fn" and any(view is d for d in dense):
                assert y.stride() == view.stride()
            grad = torch.randn(view.shape)
            (got,) = torch.autograd.grad(y, leaf, grad)
            plain = view.contiguous().detach().requires_grad_()
            (want,) = torch.autograd.grad(op(plain, None, [], format), plain, grad)
            assert torch.equal(got, want)


@pytest.mark.parametrize("format", ["e5m2", "mxfp6_e3m2", "nvfp4"])
def test_empty_scalar_and_single(format):
    for shape in [(0,), (3, 0), (0, 16)]:
        leaf = torch.empty(shape, requires_grad=True)
        y = op(leaf, None, [], format)
        assert y.shape == shape
        y.sum().backward()
        assert leaf.grad.shape == shape
    for x in (torch.tensor(1.5), torch.tensor([1.5]), torch.tensor([[1.5]])):
        assert torch.equal(op(x, None, [], format), x)
