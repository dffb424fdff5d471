"""Transposed convolutions: training against float64 on equal codes, and equal bits with what is deployed."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchqat
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import INTEGER, WEIGHT_ONLY
from torch import nn
from torch.library import opcheck
from torchqat import QConfig, QuantSpec
from torchqat.nn.transposed import phase_weight, whole_weight

ops = torch.ops.torchqat
MODULES = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CONVS = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
BOUNDS = {"float32": 1e-6, "int16": 3e-4, "bfloat16": 2e-3}


def prepared_layer(module, config):
    return torchqat.prepare_qat(nn.Sequential(module), config)


def simulated(layer, x):
    """The float64 transposed convolution of the layer's own codes; leaves as they enter."""
    quantizer = layer.activation_fake_quant
    scale, zero_point = quantizer.qparams(x.detach())
    blocks = quantizer.blocks(x.dim())
    leaf = x.detach().clone().requires_grad_()
    xq = ops.fake_quantize(leaf, scale, zero_point, blocks, quantizer.quant_min, quantizer.quant_max)
    weights = layer.integer_weights()
    shape = [-1 if n == layer.out_channels // layer.groups and i == 1 else 1 for i, n in enumerate(layer.weight.shape)]
    scales = weights.scale.reshape(shape) if weights.scale.numel() > 1 else weights.scale.reshape(())
    w = (weights.codes.double() * scales.double()).requires_grad_()
    bias = None if layer.bias is None else layer.bias.detach().double()
    wide = xq.double()
    y = CONVS[x.dim() - 2](wide, w, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
    return y, leaf, w


def relative(a, b):
    return ((a.double() - b).norm() / b.norm().clamp_min(1e-300)).item()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_geometry(data):
    draw = lambda low, high: data.draw(st.integers(low, high))
    dims, groups = draw(1, 3), data.draw(st.sampled_from([1, 1, 2, 3]))
    many = lambda low, high: [draw(low, high) for _ in range(dims)]
    stride, dilation, kernel, padding = many(1, 3), many(1, 2), many(1, 4), many(0, 2)
    output_padding = [draw(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
    sizes = many(1, 6)
    lengths = [(n - 1) * s - 2 * p + d * (k - 1) + o + 1
               for n, s, p, d, k, o in zip(sizes, stride, padding, dilation, kernel, output_padding, strict=True)]  # fmt: skip
    assume(min(lengths) > 0)
    torch.manual_seed(draw(0, 10**6))
    module = MODULES[dims](groups * draw(1, 9), groups * draw(1, 9), kernel, stride, padding, output_padding, groups,
                           data.draw(st.booleans()), dilation)  # fmt: skip
    # Of a few elements bfloat16's error is no average: test_gradients_of_every_backward has more.
    backward = data.draw(st.sampled_from(["float32", "int16"]))
    config = data.draw(st.sampled_from(["int8", "int8_dynamic", "int8_per_tensor", "int4"]))
    config = QConfig(INTEGER[config].weight, INTEGER[config].activation, backward=backward)
    model = prepared_layer(module, config)
    x = torch.randn(draw(1, 3), module.in_channels, *sizes)
    if data.draw(st.booleans()) and dims == 2:
        x = x.contiguous(memory_format=torch.channels_last)
    model(x)
    torchqat.freeze_observers(model)
    leaf = x.clone().requires_grad_()
    y = model(leaf)
    assert list(y.shape[2:]) == lengths and y.shape[1] == module.out_channels
    grad = torch.randn_like(y)
    y.backward(grad)
    expected, x_leaf, w_leaf = simulated(model[0], x)
    expected.backward(grad.double())
    assert (y.double() - expected).norm() <= 2e-6 * expected.norm() + 1e-12
    assert relative(leaf.grad, x_leaf.grad.double()) <= max(BOUNDS[backward], 1e-6)
    # No weight lies outside its own range, so none is cut off from its gradient.
    assert relative(model[0].weight.grad, w_leaf.grad) <= BOUNDS[backward]
    converted = torchqat.convert(model)
    assert torch.equal(converted(x), y.detach()) and torch.equal(model.eval()(x), y.detach())


@pytest.mark.parametrize("backward", BOUNDS)
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_of_every_backward(backward, groups):
    torch.manual_seed(0)
    config = QConfig(INTEGER["int8"].weight, INTEGER["int8_dynamic"].activation, backward=backward)
    model = prepared_layer(nn.ConvTranspose2d(24, 20, 4, 2, 1, groups=groups), config)
    x = torch.randn(3, 24, 9, 7, requires_grad=True)
    y = model(x)
    grad = torch.randn_like(y)
    y.backward(grad)
    expected, x_leaf, w_leaf = simulated(model[0], x)
    expected.backward(grad.double())
    assert relative(x.grad, x_leaf.grad.double()) <= BOUNDS[backward]
    assert relative(model[0].weight.grad, w_leaf.grad) <= BOUNDS[backward]
    assert relative(model[0].bias.grad, grad.double().sum((0, 2, 3))) <= 1e-6


def test_phases_and_back():
    for stride, dilation, groups in (([2, 3], [1, 1], 1), ([1, 2], [2, 1], 3), ([4, 2], [3, 2], 2)):
        w = torch.randn(6, 4, 3, 5)
        phases = phase_weight(w, stride, dilation, groups)
        assert phases.shape[:2] == (4 * groups * stride[0] * stride[1], 6 // groups)
        assert torch.equal(whole_weight(phases, [3, 5], stride, dilation, groups), w)


def unet():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, 2), nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2, bias=False), nn.BatchNorm2d(6), nn.ConvTranspose2d(6, 2, 3, padding=1),
    )  # fmt: skip


@pytest.mark.parametrize("name", INTEGER)
def test_trained_is_shipped(name):
    model = torchqat.prepare_qat(unet(), INTEGER[name])
    x = torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    torchqat.freeze_observers(model)
    torchqat.freeze_batch_norm(model)
    trained = model(x).detach()
    converted = torchqat.convert(model)
    assert type(converted[2]) is torchqat.nn.quantized.ConvTranspose
    assert torch.equal(converted(x), trained) and torch.equal(model.eval()(x), trained)
    assert torchqat.verify(model, converted, [x]).equal
    weights = torchqat.integer_weights(model[4])
    if len(weights.block_size) and weights.scale.numel() > 1:
        assert weights.block_size == [-1, 1, -1, -1] and weights.scale.numel() == 3
    deployed = torchqat.integer_weights(converted[4])
    assert torch.equal(deployed.codes, weights.codes) and torch.equal(deployed.scale, weights.scale)


@pytest.mark.parametrize("isa", torchqat._C.supported_isas())
@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_on_every_path(isa, threads):
    model = torchqat.prepare_qat(unet())
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model(x)
    converted = torchqat.convert(model)
    expected = converted[2](x[:, :1].expand(2, 6, 8, 8))
    before, threads_before = ops._cpu_isa(), torch.get_num_threads()
    try:
        ops._set_cpu_isa(isa)
        torch.set_num_threads(threads)
        assert torch.equal(converted[2](x[:, :1].expand(2, 6, 8, 8)), expected)
    finally:
        ops._set_cpu_isa(before)
        torch.set_num_threads(threads_before)


@pytest.mark.parametrize("name", [*WEIGHT_ONLY, "fp8", "mxfp8"])
def test_weights_alone_and_float_grids(name):
    config = WEIGHT_ONLY[name] if name in WEIGHT_ONLY else getattr(QConfig, name)()
    model = torchqat.prepare_qat(unet(), config)
    x = torch.randn(2, 3, 8, 8)
    model(x)
    model.eval()
    converted = torchqat.convert(model)
    assert type(converted[2]).__name__.startswith("ConvTranspose")
    torch.testing.assert_close(converted(x), model(x))


def test_output_size_and_single_samples():
    layer = prepared_layer(nn.ConvTranspose2d(3, 4, 3, 2, 1), QConfig.int8_dynamic())
    x = torch.randn(2, 3, 5, 6)
    for size in ([9, 11], [10, 12], [2, 4, 10, 11]):
        y = layer[0](x, size)
        assert list(y.shape[2:]) == size[-2:]
        deployed = torchqat.convert(layer)[0]
        assert torch.equal(deployed(x, size), y.detach())
        padded = copy.deepcopy(layer)
        padded[0].output_padding_list = [size[-2] - 9, size[-1] - 11]
        assert torch.equal(padded(x), y)
    assert torch.equal(layer(x[0]), layer(x[:1])[0]) and layer(x[0]).dim() == 3
    for size in ([8, 11], [11, 11]):
        with pytest.raises(ValueError, match=r"output_size must be in reach of \[9, 11\]"):
            layer[0](x, size)
    with pytest.raises(ValueError, match="output_size must have 2 or 4 entries, got 3"):
        layer[0](x, [4, 9, 11])
    # Output padding beyond padding reaches further than any input pixel: bias alone.
    far = prepared_layer(nn.ConvTranspose2d(2, 3, 1, 3, 0, 2), QConfig.int8_dynamic())
    y = far(torch.randn(1, 2, 2, 2)).detach()
    assert y.shape[2:] == (6, 6) and torch.equal(y[0, :, 5, 5], far[0].bias.detach())


def test_float_simulation_agrees():
    model = prepared_layer(nn.ConvTranspose2d(6, 5, 4, 2, 1), QConfig.int8())
    x = torch.randn(3, 6, 7, 5)
    model(x)
    torchqat.freeze_observers(model)
    simulated = copy.deepcopy(model)
    simulated[0].integer = False
    torch.testing.assert_close(model(x), simulated(x), rtol=1e-5, atol=1e-5)


def test_scripted_compiled_copied_pickled():
    model = torchqat.prepare_qat(unet())
    x = torch.randn(2, 3, 8, 8)
    for _ in range(2):
        model(x)
    scripted, compiled = torch.jit.script(copy.deepcopy(model)), copy.deepcopy(model)
    run = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    results = []
    for call, owner in ((model, model), (scripted, scripted), (run, compiled)):
        y = call(x)
        y.square().mean().backward()
        results.append([y.detach(), *(p.grad for p in owner.parameters())])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            torch.testing.assert_close(a, b)
    converted = torchqat.convert(model)
    expected = converted(x)
    assert torch.equal(torch.jit.freeze(torch.jit.script(converted).eval())(x), expected)
    with torch.no_grad():
        assert torch.equal(torch.compile(converted, backend="aot_eager", fullgraph=True)(x), expected)
    assert torch.equal(torch.export.export(converted, (x,)).module()(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(converted))(x), expected)


@pytest.mark.parametrize("config", [QConfig.int8(), QConfig.int8_weight_only(), QConfig.int4_weight_only(2), QConfig.fp8()])
def test_saved_and_loaded(tmp_path, config):
    model = torchqat.prepare_qat(unet(), config)
    x = torch.randn(2, 3, 8, 8)
    model(x)
    converted = torchqat.convert(model)
    torchqat.save(converted, tmp_path / "model.safetensors")
    loaded = torchqat.load(tmp_path / "model.safetensors", unet())
    assert torch.equal(loaded(x), converted(x))


@pytest.mark.parametrize("config", [QConfig.int8(), QConfig.int8_weight_only(), QConfig.int4_weight_only(2)])
def test_onnx(tmp_path, config):
    runtime = pytest.importorskip("onnxruntime")
    model = torchqat.prepare_qat(unet(), config)
    x = torch.randn(2, 3, 8, 8)
    model(x)
    model.eval()
    path = tmp_path / "model.onnx"
    torchqat.export_onnx(model, (x,), path)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = model(x)
    # A sum in another order moves a code of the next layer here and there.
    assert (torch.from_numpy(y) - expected).norm() <= 0.02 * expected.norm()


def test_coverage_and_autocast():
    model = torchqat.prepare_qat(unet())
    assert "ConvTranspose2d" in str(torchqat.coverage(model))
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_grouped_activations_are_refused():
    config = QConfig(QuantSpec("int8", "channel"), QuantSpec("int8", "group:2", observer="dynamic"))
    with pytest.raises(ValueError, match="activation granularity must be tensor or token, got 'group:2'"):
        torchqat.nn.qat.ConvTranspose2d.from_float(nn.ConvTranspose2d(2, 2, 2), config)


def side_by_side(y, lengths, stride, padding):
    """_interleave_phases, one dimension after the other."""
    dims = len(stride)
    order = [0, 1] + [i for d in range(dims) for i in (2 + dims + d, 2 + d)]
    sizes = [y.size(0), y.size(1) // math.prod(stride)]
    whole = y.reshape([*sizes, *stride, *y.shape[2:]]).permute(order)
    whole = whole.reshape(sizes + [n * s for n, s in zip(y.shape[2:], stride, strict=True)])
    for d in range(dims):
        whole = whole.narrow(2 + d, padding[d], lengths[d])
    return whole


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_phases_side_by_side(data):
    draw = lambda low, high: data.draw(st.integers(low, high))
    dims = draw(1, 3)
    stride = [draw(1, 3) for _ in range(dims)]
    sizes = [draw(1, 7) for _ in range(dims)]
    padding = [draw(0, min(3, n * s - 1)) for n, s in zip(sizes, stride, strict=True)]
    lengths = [draw(0 if dims == 1 else 1, n * s - p) for n, s, p in zip(sizes, stride, padding, strict=True)]
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    y = torch.randn(draw(0, 3), draw(1, 5) * math.prod(stride), *sizes, dtype=dtype)
    if data.draw(st.booleans()) and dims > 1:
        y = y.contiguous(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    a, b = y.clone().requires_grad_(), y.clone().requires_grad_()
    torch.set_num_threads(draw(1, 2))
    image, expected = ops._interleave_phases(a, stride, padding, lengths), side_by_side(b, lengths, stride, padding)
    assert torch.equal(image, expected)
    grad = torch.randn_like(expected)
    image.backward(grad)
    expected.backward(grad)
    assert torch.equal(a.grad, b.grad)


def test_phases_side_by_side_as_an_op():
    y = torch.randn(2, 12, 3, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    opcheck(ops._interleave_phases, (y, [2, 3], [1, 0], [4, 11]))
    opcheck(ops._interleave_phases_backward, (torch.randn(2, 2, 4, 11), [2, 3], [1, 0], [3, 5]))
    assert ops._interleave_phases(y, [2, 3], [1, 0], [4, 11]).is_contiguous(memory_format=torch.channels_last)
    # What devices without a kernel run.
    other = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)
    for op, x, sizes in (
        (ops._interleave_phases.default, y.detach(), [4, 11]),
        (ops._interleave_phases_backward.default, torch.randn(2, 2, 4, 11), [3, 5]),
    ):
        arguments = (x, [2, 3], [1, 0], sizes)
        result, expected = op.redispatch(other, *arguments), op(*arguments)
        assert torch.equal(result, expected) and result.stride() == expected.stride()
    for message, arguments in {
        "channels must be a multiple of the 6 phases, got 5": (torch.randn(1, 5, 3, 3), [2, 3], [0, 0], [3, 3]),
        "must have 2 entries": (torch.randn(1, 6, 3, 3), [2], [0, 0], [3, 3]),
        "1 to 3 spatial dimensions": (torch.randn(1, 6), [], [], []),
        "stride must be positive": (torch.randn(1, 6, 3), [0], [0], [3]),
        "lengths must lie within": (torch.randn(1, 6, 3), [2], [1], [6]),
    }.items():
        with pytest.raises(ValueError, match=message):
            ops._interleave_phases(*arguments)
    with pytest.raises(TypeError, match="elements of 2, 4 or 8 bytes"):
        ops._interleave_phases(torch.zeros(1, 2, 3, dtype=torch.uint8), [2], [0], [6])
