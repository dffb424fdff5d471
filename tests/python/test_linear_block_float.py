"""linear_block_float on the CPU: the float product of its values, its gradients, autocast, tracing, and every error message."""

import pytest
import torch
from torch import nn

import torchqat
from torchqat import QConfig

ops = torch.ops.torchqat
FORMATS = [("mxfp8_e4m3", "mxfp8_e4m3"), ("mxfp8_e5m2", "mxfp8_e4m3"), ("mxfp6_e3m2", "mxfp4"), ("nvfp4", "nvfp4")]


def on_grid(shape, name, seed=0, dtype=torch.float32):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return ops.fake_quantize_float(x, None, [], name)


@pytest.mark.parametrize("formats", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_is_the_linear_layer_of_its_values(formats, dtype):
    for shape in ((64,), (3, 64), (2, 5, 64), (0, 64)):
        x, w = on_grid(shape, formats[0], dtype=dtype), on_grid((24, 64), formats[1], seed=1, dtype=dtype)
        bias = torch.randn(24, dtype=dtype)
        assert torch.equal(ops.linear_block_float(x, w, bias, *formats), nn.functional.linear(x, w, bias))
        y = ops.linear_block_float(x, w, None, *formats, None, torch.bfloat16)
        assert torch.equal(y, nn.functional.linear(x.bfloat16(), w.bfloat16()))


def test_gradients_are_those_of_the_linear_layer():
    x, w, bias = on_grid((2, 3, 64), "nvfp4"), on_grid((16, 64), "nvfp4", 1), torch.randn(16)
    grad = torch.randn(2, 3, 16)
    results = []
    for layer in (lambda *a: ops.linear_block_float(*a, "nvfp4", "nvfp4"), nn.functional.linear):
        leaves = [t.clone().requires_grad_() for t in (x, w, bias)]
        layer(*leaves).backward(grad)
        results.append([t.grad for t in leaves])
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    x = x.requires_grad_()
    y = ops.linear_block_float(x, w, None, "nvfp4", "nvfp4")
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_autocast_gives_the_product_its_dtype():
    x, w = on_grid((5, 64), "mxfp4").requires_grad_(), on_grid((16, 64), "mxfp4", 1).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = ops.linear_block_float(x, w, None, "mxfp4", "mxfp4")
        expected = nn.functional.linear(x, w)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected)
    y.sum().backward()
    assert x.grad.dtype == w.grad.dtype == torch.float32


def test_opcheck_compile_and_script():
    x, w, bias = on_grid((4, 32), "mxfp4").requires_grad_(), on_grid((8, 32), "mxfp4", 1).requires_grad_(), torch.randn(8, requires_grad=True)
    torch.library.opcheck(ops.linear_block_float.default, (x, w, bias, "mxfp4", "mxfp4"))
    torch.library.opcheck(ops.linear_block_float.default, (x, w, None, "mxfp4", "mxfp4", None, torch.bfloat16))

    def layer(x, w):
        return torch.ops.torchqat.linear_block_float(x, w, None, "mxfp4", "mxfp4")

    expected = layer(x, w)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x, w), expected)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"input_format": "mxfp9"}, ValueError, "input_format must be mxfp8_e4m3, .* or nvfp4, got 'mxfp9'"),
        ({"weight_format": "nvfp4"}, ValueError, "must both be MX formats or both nvfp4, got 'mxfp4' and 'nvfp4'"),
        ({"input": torch.zeros(3, 31)}, ValueError, r"input must have shape \[..., 32\], got \[3, 31\]"),
        ({"input": torch.zeros(3, 32, dtype=torch.int8)}, TypeError, "input must have a floating dtype, got Char"),
        ({"unrounded": torch.zeros(3, 32, dtype=torch.int8)}, TypeError, "unrounded must have a floating dtype, got Char"),
        ({"weight": torch.zeros(32)}, ValueError, r"weight must have shape \[N, K\], got \[32\]"),
        ({"bias": torch.zeros(7)}, ValueError, r"bias must have shape \[8\], got \[7\]"),
    ],
)
def test_bad_arguments(change, error, message):
    args = {
        "input": torch.zeros(3, 32),
        "weight": torch.zeros(8, 32),
        "bias": None,
        "input_format": "mxfp4",
        "weight_format": "mxfp4",
    }
    for device in ("cpu", "meta"):
        moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in {**args, **change}.items()}
        with pytest.raises(error, match=message):
            ops.linear_block_float(**moved)
    for name in ("weight", "bias", "unrounded"):
        moved = {**args, "bias": torch.zeros(8), "unrounded": args["input"], name: torch.zeros(8, 32, device="meta")}
        with pytest.raises(ValueError, match="all tensors must be on the device of input, cpu, got meta"):
            ops.linear_block_float(**moved)


@pytest.mark.parametrize(
    "preset, expected", [("mxfp8", True), ("mxfp4", True), ("nvfp4", True), ("fp8", False), ("int8", False)]
)
def test_layers_that_have_the_product(preset, expected):
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(64, 32)), getattr(QConfig, preset)())
    assert prepared[0].block_product is expected
    x = torch.randn(4, 64)
    prepared(x)
    converted = torchqat.convert(prepared.eval())
    if preset != "int8":
        assert converted[0].block_product is expected
    assert torch.equal(prepared(x), converted(x))


@pytest.mark.parametrize("preset", ["mxfp8", "mxfp4", "nvfp4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_prepared_and_deployed_layers_hand_over_the_same(preset, dtype, monkeypatch):
    """As on a CUDA device, which the tensors here only claim to be on."""
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(64, 32)).to(dtype), getattr(QConfig, preset)())
    x = torch.randn(4, 64, dtype=dtype)
    converted = torchqat.convert(prepared.eval())
    in_float = prepared(x)
    calls, op = [], ops.linear_block_float
    monkeypatch.setattr(torch.ops.torchqat, "linear_block_float", lambda *a: (calls.append(a), op(*a))[1])
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    results = [prepared(x), converted(x)]
    monkeypatch.undo()
    assert torch.equal(results[0], in_float) and torch.equal(results[1], in_float) and len(calls) == 2
    for a, b in zip(*calls):
        assert torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b
    prepared.train()
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    prepared(x).square().mean().backward()
    weight = prepared[0].weight
    assert weight.grad.dtype == dtype and weight.grad.isfinite().all() and weight.grad.any()
