"""linear_float8 and qat_linear_float8: codes against torch's own float8 types, products against float64, and the layers on them."""

import copy

import pytest
import torch
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec

ops = torch.ops.torchqat
TYPES = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
FORMATS = [("e4m3fn", "e4m3fn"), ("e5m2", "e4m3fn"), ("e4m3fn", "e5m2"), ("e5m2", "e5m2")]


def rows(m, k, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(m, k, generator=g) * torch.logspace(-3, 2, m)[:, None]).to(dtype)


def codes_and_scale(x, name, scale=None):
    """The oracle: absmax scale, division, saturation, torch's cast."""
    most = torch.finfo(TYPES[name]).max
    if scale is None:
        largest = x.float().abs().amax(-1, keepdim=True)
        scale = torch.where(largest > 0, largest / most, torch.ones_like(largest))
    return (x.float() / scale).clamp(-most, most).to(TYPES[name]), scale


def exact(x, w, x_name, w_name, bias=None, input_scale=None):
    x_codes, x_scale = codes_and_scale(x, x_name, input_scale)
    w_codes, w_scale = codes_and_scale(w, w_name)
    sums = x_codes.double() @ w_codes.double().T
    magnitude = x_codes.double().abs() @ w_codes.double().abs().T
    factor = x_scale.double() * w_scale.double().T
    y = sums * factor
    return (y if bias is None else y + bias.double()), magnitude * factor


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("m, k", [(1, 1), (3, 7), (5, 16), (2, 33), (4, 64)])
def test_codes_are_those_of_torch(name, dtype, m, k):
    x = rows(m, k, dtype=dtype)
    expected, scale = codes_and_scale(x, name)
    codes, found, mask = ops._float8_rows(x, None, name, True)
    assert torch.equal(codes, expected.view(torch.uint8)) and torch.equal(found, scale.view(-1))
    assert mask.numel() == (m * k + 7) // 8
    given = torch.tensor(0.01)
    codes, _, mask = ops._float8_rows(x, given, name, True)
    assert torch.equal(codes, codes_and_scale(x, name, given)[0].view(torch.uint8))
    inside = (x.float() / given).abs() <= torch.finfo(TYPES[name]).max
    bits = (mask[:, None] >> torch.arange(8)) & 1
    assert torch.equal(bits.flatten()[: m * k].bool().view(m, k), inside)


@pytest.mark.parametrize("x_name, w_name", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product(x_name, w_name, dtype):
    for m, n, k in ((1, 5, 8), (9, 16, 48), (33, 17, 129), (4, 32, 600)):
        x, w, bias = rows(m, k, dtype=dtype), rows(n, k, seed=1, dtype=dtype), torch.randn(n)
        expected, magnitude = exact(x, w, x_name, w_name, bias)
        y = ops.qat_linear_float8(x, w, bias, None, None, x_name, w_name)
        rounding = torch.finfo(dtype).eps * (expected.abs() + 1)
        assert y.dtype == dtype and ((y.double() - expected).abs() <= rounding + 1e-6 * magnitude).all()
        codes, scale = codes_and_scale(w, w_name)
        deployed = ops.linear_float8(x, codes.view(torch.uint8), scale, bias, None, x_name, w_name)
        assert torch.equal(deployed, y)
        given = torch.rand(m, 1) + 0.5
        y = ops.linear_float8(x, codes.view(torch.uint8), scale, None, given, x_name, w_name)
        expected, magnitude = exact(x, w, x_name, w_name, None, given)
        assert ((y.double() - expected).abs() <= torch.finfo(dtype).eps * (expected.abs() + 1) + 1e-6 * magnitude).all()


def test_gradients_follow_the_straight_through_rule():
    x, w, bias = rows(6, 24).requires_grad_(), rows(10, 24, seed=1).requires_grad_(), torch.randn(10, requires_grad=True)
    scale = torch.tensor(0.02)  # clips the larger rows
    grad = torch.randn(6, 10)
    ops.qat_linear_float8(x, w, bias, scale, None, "e4m3fn", "e4m3fn", "float32").backward(grad)
    x_codes, x_scale = codes_and_scale(x.detach(), "e4m3fn", scale)
    w_codes, w_scale = codes_and_scale(w.detach(), "e4m3fn")
    inside = (x.detach() / scale).abs() <= 448
    assert not inside.all()
    torch.testing.assert_close(x.grad, (grad @ (w_codes.float() * w_scale)) * inside, rtol=1e-5, atol=1e-6)
    w_inside = (w.detach() / w_scale).abs() <= 448
    torch.testing.assert_close(w.grad, (grad.T @ (x_codes.float() * x_scale)) * w_inside, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias.grad, grad.sum(0))
    exact_x = x.grad.clone()
    x.grad = None
    ops.qat_linear_float8(x, w, bias, scale, None, "e4m3fn", "e4m3fn", "bfloat16").backward(grad)
    assert not torch.equal(x.grad, exact_x)
    torch.testing.assert_close(x.grad, exact_x, rtol=2e-2, atol=2e-2 * float(exact_x.abs().max()))
    # A deployed layer passes the gradient on to its input.
    x.grad = None
    ops.linear_float8(x, w_codes.view(torch.uint8), w_scale, None, scale, "e4m3fn", "e4m3fn").backward(grad)
    torch.testing.assert_close(x.grad, exact_x)


@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(masked):
    x, w = rows(4, 16).requires_grad_(), rows(8, 16, seed=1).requires_grad_()
    bias = torch.randn(8, requires_grad=True)
    check = torch.library.opcheck
    check(ops._float8_rows.default, (x.detach(), None, "e5m2", masked))
    codes, scale, _ = ops._float8_rows(w.detach(), None, "e4m3fn", False)
    check(ops._float8_multiply.default, (codes, scale, "e4m3fn", codes, scale, "e4m3fn", None, torch.bfloat16))
    check(ops.qat_linear_float8.default, (x, w, bias, None, None, "e4m3fn", "e4m3fn"))
    check(ops.linear_float8.default, (x, codes, scale, None, None, "e4m3fn", "e4m3fn"))


def test_nan_zero_and_empty():
    x, w = rows(3, 16), rows(8, 16, seed=1)
    x[1, 3] = float("nan")
    y = ops.qat_linear_float8(x, w, None, None, None, "e4m3fn", "e4m3fn")
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()
    assert (ops.qat_linear_float8(torch.zeros(3, 16), w, None, None, None, "e4m3fn", "e4m3fn") == 0).all()
    assert ops.qat_linear_float8(x[:0], w, None, None, None, "e4m3fn", "e4m3fn").shape == (0, 8)
    bias = torch.randn(8)
    y = ops.qat_linear_float8(torch.zeros(2, 3, 0), w[:, :0], bias, None, None, "e4m3fn", "e4m3fn")
    assert torch.equal(y, bias.expand(2, 3, 8))
    strided = rows(16, 6).t()
    assert torch.equal(
        ops.qat_linear_float8(strided, w, None, None, None, "e4m3fn", "e4m3fn"),
        ops.qat_linear_float8(strided.contiguous(), w, None, None, None, "e4m3fn", "e4m3fn"),
    )


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"input_format": "e2m1"}, ValueError, "input_format must be e4m3fn or e5m2, got 'e2m1'"),
        ({"weight_codes": torch.zeros(8, 16)}, TypeError, "weight_codes must be uint8, got Float"),
        ({"input": torch.zeros(3, 16, dtype=torch.float64)}, TypeError, "input must be float32, bfloat16 or float16"),
        ({"input": torch.zeros(3, 15)}, ValueError, r"input must have shape \[..., 16\], got \[3, 15\]"),
        ({"bias": torch.zeros(7)}, ValueError, r"bias must have shape \[8\], got \[7\]"),
        ({"weight_scale": torch.ones(3)}, ValueError, r"weight_scale must have one element or one per row \(8\), got shape \[3\]"),
        ({"input_scale": torch.ones(4)}, ValueError, r"input_scale must have one element or one per row \(3\), got shape \[4\]"),
        ({"input_scale": torch.ones(3, dtype=torch.int32)}, TypeError, "input_scale must have a floating dtype, got Int"),
        ({"input_scale": torch.zeros(())}, ValueError, "scale must be finite and > 0"),
        ({"input_scale": torch.ones((), device="meta")}, ValueError, "all tensors must be on the device of input, cpu, got meta"),
        ({"weight_scale": torch.ones(8, device="meta")}, ValueError, "all tensors must be on the device of input"),
        ({"bias": torch.zeros(8, device="meta")}, ValueError, "all tensors must be on the device of input"),
    ],
)
def test_errors(change, error, message):
    arguments = dict(
        input=torch.ones(3, 16),
        weight_codes=torch.zeros(8, 16, dtype=torch.uint8),
        weight_scale=torch.ones(8),
        bias=None,
        input_scale=None,
        input_format="e4m3fn",
        weight_format="e4m3fn",
    )
    with pytest.raises(error, match=message):
        ops.linear_float8(**{**arguments, **change})
    with pytest.raises(ValueError, match="backward must be"):
        ops.qat_linear_float8(torch.ones(3, 16), torch.ones(8, 16), None, None, None, "e4m3fn", "e4m3fn", "fp8")


SCHEMES = {
    "fp8": QConfig.fp8(),
    "tensors": QConfig(QuantSpec("e5m2"), QuantSpec("e4m3fn", observer="ema")),
    "dynamic tensor": QConfig(QuantSpec("e4m3fn", "channel"), QuantSpec("e5m2", observer="dynamic")),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_is_deployed(scheme, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 8)).to(dtype)
    prepared = torchqat.prepare_qat(model, SCHEMES[scheme])
    assert prepared[0].float8
    x = torch.randn(5, 24).to(dtype)
    prepared(x).sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in prepared.parameters())
    prepared.eval()
    converted = torchqat.convert(prepared)
    assert torch.equal(prepared(x), converted(x))
    # The simulation: fake-quantised operands, a float product.
    layer = prepared[0].float()
    wide = x.float()
    simulated = nn.functional.linear(layer.activation_fake_quant(wide), layer.weight_fake_quant(layer.weight), layer.bias)
    torch.testing.assert_close(layer(wide), simulated, rtol=1e-5, atol=1e-5)
    scripted = torch.jit.script(copy.deepcopy(converted))
    assert torch.equal(scripted(x), converted(x))
    assert torch.equal(torch.compile(converted, fullgraph=True, backend="aot_eager")(x), converted(x))


def test_compiled_training_step():
    torch.manual_seed(0)
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(24, 32)), QConfig.fp8())
    x = torch.randn(5, 24)
    prepared(x).square().sum().backward()
    expected = prepared[0].weight.grad.clone()
    prepared.zero_grad()
    torch.compile(prepared, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    assert torch.equal(prepared[0].weight.grad, expected)


def test_autocast_rounds_once():
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(24, 32)), QConfig.fp8())
    x = torch.randn(5, 24)
    expected = prepared(x).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = prepared(x)
        y.float().sum().backward()
    assert torch.equal(y, expected) and prepared[0].weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    "config",
    [
        QConfig(QuantSpec("e5m2", "channel"), QuantSpec("e5m2", "token", observer="dynamic")),
        QConfig(QuantSpec("e4m3fn", "group:8"), QuantSpec("e4m3fn", "token", observer="dynamic")),
        QConfig(QuantSpec("e4m3fn", "channel")),
        QConfig.mxfp8(),
    ],
)
def test_other_schemes_stay_simulated(config):
    assert not torchqat.prepare_qat(nn.Sequential(nn.Linear(24, 32)), config)[0].float8


def test_float64_models_stay_simulated():
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(24, 32)).double(), QConfig.fp8())
    x = torch.randn(5, 24, dtype=torch.float64)
    assert prepared(x).dtype == torch.float64
    prepared.eval()
    torch.testing.assert_close(torchqat.convert(prepared)(x), prepared(x))
