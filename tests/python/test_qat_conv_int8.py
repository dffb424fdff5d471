"""qat_conv_int8: forward bit-equal to conv_int8, gradients against float64, and the ways a training loop uses it."""

import pytest
import torch
import torchqat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

ops = torch.ops.torchqat
ISAS = torchqat._C.supported_isas()
CONVS = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}
FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
BOUNDS = {"float32": 1e-6, "int16": 3e-4, "bfloat16": 2e-3}


class Layer:
    """Arguments of one training convolution."""

    def __init__(self, seed=0, n=2, c=8, o=12, size=(7, 9), kernel=(3, 3), stride=1, padding=1, dilation=1, groups=1, bias=True,
                 samples=False, per_tensor=False, grid=(0, 255), weight_grid=(-127, 127), channels_last=False):
        g = torch.Generator().manual_seed(seed)
        dims = len(size)
        as_list = lambda v: [v] * dims if isinstance(v, int) else list(v)
        self.geometry = [as_list(stride), as_list(padding), as_list(dilation), groups]
        self.kernel = list(kernel)
        self.grid, self.weight_grid = grid, weight_grid
        x = torch.randn(n, c, *size, generator=g)
        if channels_last:
            x = x.contiguous(memory_format=FORMATS[dims])
        self.x = x.requires_grad_()
        self.w = (torch.randn(o, c // groups, *kernel, generator=g) * 0.1).requires_grad_()
        self.bias = torch.randn(o, generator=g).requires_grad_() if bias else None
        span = grid[1] - grid[0]
        count = n if samples else 1
        self.s_x = (torch.rand(count, generator=g) + 1) * 3.5 / span  # clips the tails
        self.z_x = torch.randint(grid[0] + span // 3, grid[1] - span // 3 + 1, (count,), generator=g, dtype=torch.int32)
        self.s_w = (torch.rand(1 if per_tensor else o, generator=g) + 1) * 0.15 / weight_grid[1]

    def args(self):
        return (self.x, self.w, self.bias, self.s_x, self.z_x, self.s_w, *self.grid, *self.weight_grid, *self.geometry)

    def run(self, backward="auto", **options):
        return ops.qat_conv_int8(*self.args(), **options, backward=backward)

    def leading(self, t, ndim):
        return t.double().reshape(-1, *[1] * (ndim - 1))

    def simulated(self):
        """Fake-quantised in float64, with codes decided in float32 as the contract says."""
        dims = self.x.dim()
        s, z, sw = self.leading(self.s_x, dims), self.leading(self.z_x, dims), self.leading(self.s_w, dims)
        level = torch.round(self.x.detach() / s.float()).double() + z
        w_level = torch.round(self.w.detach() / sw.float()).double()
        x = self.x.detach().double().requires_grad_()
        w = self.w.detach().double().requires_grad_()
        b = None if self.bias is None else self.bias.detach().double().requires_grad_()
        inside = ((level >= self.grid[0]) & (level <= self.grid[1])).double()
        w_inside = ((w_level >= self.weight_grid[0]) & (w_level <= self.weight_grid[1])).double()
        xq = (level.clamp(*self.grid) - z) * s + (x - x.detach()) * inside
        wq = w_level.clamp(*self.weight_grid) * sw + (w - w.detach()) * w_inside
        y = CONVS[dims - 2](xq, wq, b, *self.geometry)
        return y, (x, w, b)

    def deployed(self):
        sw = self.s_w.reshape(-1).expand(self.w.shape[0]).contiguous()
        level = torch.round(self.w.detach() / sw.reshape(-1, *[1] * (self.w.dim() - 1)))
        codes = level.clamp(*self.weight_grid).to(torch.int8)
        packed = ops.conv_int8_pack(codes, self.geometry[3])
        bias = None if self.bias is None else self.bias.detach()
        return ops.conv_int8(self.x.detach(), packed, sw, bias, self.s_x, self.z_x, *self.grid, self.kernel, *self.geometry)


def relative(a, b):
    return ((a.double() - b).norm() / b.norm().clamp_min(1e-300)).item()


def check_gradients(layer, backward, few=False):
    """few: so few terms may make a gradient that the bound is a single rounding's."""
    y = layer.run(backward)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    if y.is_contiguous(memory_format=FORMATS[y.dim() - 2]):
        g = g.contiguous(memory_format=FORMATS[y.dim() - 2])
    y.backward(g)
    expected, leaves = layer.simulated()
    expected.backward(g.double())
    assert relative(y, expected.detach()) < 1e-6
    for name, got, want in zip("xwb", (layer.x, layer.w, layer.bias), leaves):
        if got is None:
            continue
        assert got.grad.shape == want.grad.shape and got.grad.dtype == got.dtype
        bound = 1e-6 if name == "b" else max(BOUNDS[backward], 2**-8 if few and backward == "bfloat16" else 0.0)
        if want.grad.norm() > 0:
            assert relative(got.grad, want.grad) <= bound, (name, relative(got.grad, want.grad))
        # outside the grid the gradient is exactly zero
        assert ((got.grad == 0) | (want.grad != 0)).all()


CASES = {
    "3x3": {},
    "wide": dict(c=64, o=64, size=(12, 12)),
    "panels": dict(c=150, o=90, size=(6, 7)),
    "panels of groups, strided": dict(c=160, o=42, groups=2, stride=2, kernel=(5, 5), padding=2, size=(8, 9)),
    "channels last": dict(c=33, o=20, channels_last=True),
    "stride": dict(stride=2, size=(9, 12)),
    "stride 3": dict(stride=(3, 1), kernel=(4, 3), size=(13, 12)),
    "stride 2 wide": dict(c=40, o=36, stride=2, kernel=(5, 4), padding=2, size=(17, 36), channels_last=True),
    "stride and dilation share a factor": dict(stride=(4, 2), dilation=(2, 4), padding=(3, 5), size=(15, 19)),
    "stride and dilation": dict(stride=(3, 2), dilation=(2, 3), padding=2, size=(14, 16), groups=2, c=20, o=18),
    "stride beyond kernel": dict(stride=(4, 3), kernel=(2, 1), size=(11, 13), c=16, o=16),
    "padding beyond kernel": dict(kernel=(2, 2), padding=(4, 3), c=16, o=16),
    "3d stride": dict(size=(6, 5, 7), kernel=(3, 2, 3), stride=2, c=9, o=10),
    "dilation": dict(dilation=2, padding=2, size=(11, 12)),
    "1x1": dict(kernel=(1, 1), padding=0, c=17, o=40),
    "stride without cover": dict(kernel=(1, 1), padding=0, stride=2),
    "stride without cover, per channel": dict(n=3, c=8, o=4, size=(14, 12), kernel=(1, 1), padding=0, stride=2),
    "stride without cover, channels last": dict(n=2, c=6, o=5, size=(5, 7), kernel=(1, 1), padding=0, stride=(1, 2), channels_last=True),
    "groups": dict(groups=4),
    "groups of 24": dict(c=96, o=72, groups=3, n=3, channels_last=True),
    "narrow groups": dict(c=80, o=160, groups=20, channels_last=True, size=(9, 8)),
    "narrow groups, channels first": dict(c=48, o=48, groups=12, stride=2, size=(10, 9)),
    "narrow groups, a plane that is not full": dict(c=15, o=35, groups=5, n=2, samples=True),
    "narrow groups of many channels": dict(c=150, o=6, groups=3, kernel=(2, 2)),
    "depthwise": dict(c=20, o=20, groups=20),
    "depthwise channels last": dict(c=32, o=32, groups=32, channels_last=True),
    "depthwise wide": dict(c=70, o=70, groups=70, n=3, samples=True, channels_last=True, kernel=(5, 5), padding=2),
    "depthwise stride": dict(c=80, o=80, groups=80, stride=2, size=(13, 16), channels_last=True, bias=False),
    "depthwise planes": dict(c=67, o=67, groups=67, stride=(1, 3), dilation=(2, 1), size=(17, 20)),
    "depthwise 1d": dict(c=33, o=33, groups=33, size=(40,), kernel=(7,), padding=3, stride=2),
    "depthwise 3d": dict(c=16, o=16, groups=16, size=(4, 5, 6), kernel=(2, 3, 3), channels_last=True),
    "multiplier": dict(c=6, o=12, groups=6),
    "no padding": dict(padding=0),
    "samples": dict(n=4, samples=True),
    "one weight scale": dict(per_tensor=True),
    "signed": dict(grid=(-128, 127)),
    "narrow": dict(grid=(-8, 7), weight_grid=(-8, 7)),
    "no bias": dict(bias=False),
    "1d": dict(size=(21,), kernel=(5,), padding=2),
    "3d": dict(size=(4, 5, 6), kernel=(3, 2, 3)),
}


@pytest.mark.parametrize("backward", BOUNDS)
@pytest.mark.parametrize("name", CASES)
def test_gradients_match_float64(name, backward):
    check_gradients(Layer(1, **CASES[name]), backward)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("backward", BOUNDS)
def test_gradients_on_every_instruction_set(isa, backward):
    ops._set_cpu_isa(isa)
    check_gradients(Layer(2, c=19, o=21, size=(9, 8)), backward)
    check_gradients(Layer(2, c=19, o=21, size=(9, 8), channels_last=True, stride=2), backward)


@pytest.mark.parametrize("groups", [1, 4])
def test_bfloat16_rounds_the_gradient_once_and_sums_in_float32(groups):
    """Rounding the output gradient first changes nothing in the bfloat16 way, and what it gives is then exact to float32."""
    for isa in ISAS:
        ops._set_cpu_isa(isa)
        layer = Layer(6, c=24, o=20, groups=groups, size=(9, 10), per_tensor=True)
        layer.s_w = torch.tensor([2.0**-7])  # a power of two: scaling by it rounds nothing
        y = layer.run("bfloat16")
        rounded = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).bfloat16().float()
        y.backward(rounded)
        expected, (x, w, _) = layer.simulated()
        expected.backward(rounded.double())
        assert relative(layer.x.grad, x.grad) < 1e-6 and relative(layer.w.grad, w.grad) < 1e-6


@pytest.mark.parametrize("channels_last", [False, True])
def test_depthwise_gradients_have_the_same_bits_everywhere(channels_last):
    results = []
    for isa in ISAS:
        for threads in (1, 3):
            ops._set_cpu_isa(isa)
            torch.set_num_threads(threads)
            layer = Layer(5, n=2, c=80, o=80, groups=80, size=(9, 11), stride=2, channels_last=channels_last)
            layer.run().square().sum().backward()
            results.append((layer.x.grad, layer.w.grad))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_geometry(data):
    draw = lambda low, high: data.draw(st.integers(low, high))
    dims, groups = draw(1, 3), data.draw(st.sampled_from([1, 1, 2, 3]))
    options = dict(
        seed=draw(0, 10**6), n=draw(1, 3), groups=groups, bias=data.draw(st.booleans()), samples=data.draw(st.booleans()),
        size=[draw(2, 10) for _ in range(dims)], kernel=[draw(1, 3) for _ in range(dims)], stride=[draw(1, 3) for _ in range(dims)],
        padding=[draw(0, 3) for _ in range(dims)], dilation=[draw(1, 2) for _ in range(dims)],
        c=groups * draw(1, 20), o=groups * draw(1, 20), channels_last=data.draw(st.booleans()),
    )  # fmt: skip
    if draw(0, 3) == 0:
        options["groups"] = options["o"] = options["c"]
    lists = zip(options["size"], options["padding"], options["dilation"], options["kernel"])
    if all(s + 2 * p >= d * (k - 1) + 1 for s, p, d, k in lists):
        layer = Layer(**options)
        assert torch.equal(layer.run().detach(), layer.deployed())
        check_gradients(layer, data.draw(st.sampled_from(list(BOUNDS))), few=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", CASES)
def test_forward_is_bit_equal_to_the_deployed_op(name, isa):
    ops._set_cpu_isa(isa)
    layer = Layer(4, **CASES[name])
    with torch.no_grad():
        quiet = layer.run()
    assert torch.equal(layer.run().detach(), layer.deployed()) and torch.equal(quiet, layer.deployed())


@pytest.mark.parametrize("backward", BOUNDS)
@pytest.mark.parametrize("options", [dict(c=40, o=36, size=(15, 14)), dict(c=64, o=64, size=(32, 32), channels_last=True)])
def test_threads_do_not_change_bits(backward, options):
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        layer = Layer(5, n=1, **options)
        y = layer.run(backward)
        (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        gradients = [layer.x.grad, layer.w.grad, layer.bias.grad] if backward == "int16" else []
        results.append([y.detach(), *gradients])
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("backward", BOUNDS)
@pytest.mark.parametrize("name", CASES)
def test_channels_last_weights_change_no_bits_and_keep_their_strides(name, backward):
    for isa in ISAS if backward == "int16" else ISAS[-1:]:
        ops._set_cpu_isa(isa)
        results = []
        for last in (False, True):
            layer = Layer(8, **CASES[name])
            if last:
                layer.w = layer.w.detach().contiguous(memory_format=FORMATS[layer.w.dim() - 2]).requires_grad_()
            y = layer.run(backward)
            y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(3)))
            results.append((y.detach(), layer.x.grad, layer.w.grad))
            significant = [d for d in range(layer.w.dim()) if layer.w.size(d) > 1]
            assert [layer.w.grad.stride(d) for d in significant] == [layer.w.stride(d) for d in significant]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_only_codes_and_bits_are_saved():
    layer = Layer(6, n=4, c=32, o=8, size=(16, 16))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer.run()
    growing = sum(t.numel() * t.element_size() for t in saved if t.numel() and t.shape[0] == 4 and t.dim() > 1)
    assert growing <= 0.32 * layer.x.numel() * 4


def test_nan_input_gives_nan_sample_and_no_gradient_there():
    layer = Layer(7)
    with torch.no_grad():
        layer.x[1, 2, 3, 3] = float("nan")
    y = layer.run("float32")
    assert y[1].isnan().all() and not y[0].isnan().any()
    y[0].sum().backward()
    assert not layer.x.grad.isnan().any() and layer.x.grad[1, 2, 3, 3] == 0


def test_frozen_parts_get_no_gradient():
    layer = Layer(8)
    layer.w.requires_grad_(False)
    layer.run("float32").sum().backward()
    assert layer.w.grad is None and layer.x.grad is not None and layer.bias.grad is not None
    layer = Layer(8)
    layer.x.requires_grad_(False)
    layer.run("float32").sum().backward()
    assert layer.x.grad is None and layer.w.grad is not None


def test_double_backward_raises():
    layer = Layer(9)
    (g,) = torch.autograd.grad(layer.run().square().sum(), layer.x, create_graph=True)
    with pytest.raises(RuntimeError, match="not implemented|does not require grad|no autograd"):
        g.sum().backward()


def test_autocast_and_bfloat16_round_once():
    layer = Layer(10)
    expected = layer.run().detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer.run()
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert layer.x.grad.dtype == torch.float32
    low = Layer(10)
    low.x = low.x.detach().bfloat16().requires_grad_()
    y = low.run()
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert low.x.grad.dtype == torch.bfloat16


def test_opcheck_compile_and_script():
    layer = Layer(11)
    opcheck(ops.qat_conv_int8, layer.args())
    opcheck(ops.qat_conv_int8, Layer(11, channels_last=True, bias=False).args(), dict(backward="float32"))
    out = ops._qat_conv_int8_forward(*[t.detach() if isinstance(t, torch.Tensor) else t for t in layer.args()], False)
    arguments = (torch.randn_like(out[0]), *out[1:], layer.s_x, layer.z_x, layer.s_w, *layer.grid, *layer.geometry, [True] * 3, "float32")
    opcheck(ops._qat_conv_int8_backward, arguments)
    last = Layer(11, channels_last=True)
    last.w = last.w.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    opcheck(ops.qat_conv_int8, last.args())
    out = ops._qat_conv_int8_forward(*[t.detach() if isinstance(t, torch.Tensor) else t for t in last.args()], False)
    assert out[3].stride() == last.w.stride()
    arguments = (torch.randn_like(out[0]), *out[1:], last.s_x, last.z_x, last.s_w, *last.grid, *last.geometry, [True] * 3, "int16")
    opcheck(ops._qat_conv_int8_backward, arguments)

    def gradients(f, layer):
        y = f(*layer.args())
        y.square().sum().backward()
        return [y.detach(), layer.x.grad, layer.w.grad, layer.bias.grad]

    def f(*args):
        return ops.qat_conv_int8(*args) * 2

    eager = gradients(f, Layer(11))
    for a, b in zip(gradients(torch.compile(f, fullgraph=True, backend="aot_eager"), Layer(11)), eager):
        assert torch.equal(a, b)

    @torch.jit.script
    def scripted(x: torch.Tensor, w: torch.Tensor, s_x: torch.Tensor, z_x: torch.Tensor, s_w: torch.Tensor):
        return torch.ops.torchqat.qat_conv_int8(x, w, None, s_x, z_x, s_w, 0, 255, -127, 127, [1, 1], [1, 1], [1, 1], 1)

    layer = Layer(11, bias=False)
    y = scripted(layer.x, layer.w, layer.s_x, layer.z_x, layer.s_w)
    y.sum().backward()
    assert torch.equal(y.detach(), layer.run().detach()) and layer.w.grad is not None


def terms(value, scale, zero_point, grid, grad_scale, upstream):
    """Absolute values of what each element adds to the gradient of scale and zero_point."""
    full = scale.detach().expand(value.shape).clone().requires_grad_()
    zero = None if zero_point is None else zero_point.detach().expand(value.shape).clone().requires_grad_()
    ops.fake_quantize_learned(value.detach(), full, zero, [1] * value.dim(), *grid, grad_scale).backward(upstream)
    return full.grad.abs(), None if zero is None else zero.grad.abs()


@pytest.mark.parametrize("samples", [False, True])
def test_learned_scales_get_the_gradients_of_the_learned_fake_quantize(samples):
    layer = Layer(14, n=3, samples=samples)
    dims = layer.x.dim()
    shape = [-1] + [1] * (dims - 1)
    s_x = (layer.s_x.reshape(shape) if samples else layer.s_x.reshape(())).requires_grad_()
    z_x = (layer.z_x.float() + 0.3).reshape(s_x.shape).requires_grad_()
    s_w = layer.s_w.reshape(shape).requires_grad_()
    grad = torch.randn(layer.run().shape)
    ops.qat_conv_int8(
        layer.x, layer.w, layer.bias, s_x, z_x, s_w, *layer.grid, *layer.weight_grid, *layer.geometry, True, True, 0.5, 0.25, "float32"
    ).backward(grad)
    got = [layer.x.grad, layer.w.grad, s_x.grad, z_x.grad, s_w.grad]
    leaves = [t.detach().clone().requires_grad_() for t in (layer.x, layer.w, s_x, z_x, s_w)]
    x, w, s, z, sw = leaves
    blocks = [1] + [-1] * (dims - 1)
    xq = ops.fake_quantize_learned(x, s, z, blocks if samples else [], *layer.grid, 0.5)
    wq = ops.fake_quantize_learned(w, sw, None, blocks, *layer.weight_grid, 0.25)
    xq.retain_grad()
    wq.retain_grad()
    torch.nn.functional.conv2d(xq, wq, layer.bias.detach(), *layer.geometry).backward(grad)
    for a, b in zip(got[:2], leaves[:2]):
        assert a.shape == b.grad.shape and relative(a, b.grad.double()) < 1e-5
    # A scale's gradient is a sum that may cancel: its error is measured by the terms, one for each element.
    sizes = [*terms(x, s, z, layer.grid, 0.5, xq.grad), terms(w, sw, None, layer.weight_grid, 0.25, wq.grad)[0]]
    for a, b, size in zip(got[2:], leaves[2:], sizes):
        size = size.sum(tuple(range(1, size.dim())), keepdim=True) if b.dim() else size.sum()
        assert a.shape == b.grad.shape and ((a - b.grad).abs() <= 1e-5 * size).all()


def test_empty_batch():
    layer = Layer(12)
    layer.x = layer.x.detach()[:0].requires_grad_()
    y = layer.run("float32")
    y.sum().backward()
    assert y.shape[0] == 0 and layer.x.grad.shape == layer.x.shape and (layer.w.grad == 0).all()


ERRORS = {
    "weight must be floating": dict(weight=torch.ones(6, 4, 3, 3, dtype=torch.int8)),
    "weight must have 4 / 1 input channels": dict(weight=torch.ones(6, 5, 3, 3)),
    "weight must be .* with 1 to 3 kernel dimensions": dict(weight=torch.ones(6, 4)),
    "weight_scale must have 1 element or one for each of the 6": dict(weight_scale=torch.ones(4)),
    "weight_scale must be finite and > 0, got -1": dict(weight_scale=-torch.ones(6)),
    "weight_quant_min and weight_quant_max must be": dict(weight_quant_max=128),
    "input_scale must be finite and > 0": dict(input_scale=torch.tensor(float("nan"))),
    "input must have 4 dimensions": dict(input=torch.zeros(1, 4, 5)),
    "backward must be 'float32', 'bfloat16', 'int16' or 'auto', got 'half'": dict(backward="half"),
    "stride must have 2 entries": dict(stride=[1]),
}


@pytest.mark.parametrize("message", ERRORS)
def test_bad_arguments_are_named(message):
    arguments = dict(
        input=torch.zeros(1, 4, 5, 5), weight=torch.ones(6, 4, 3, 3), bias=None, input_scale=torch.ones(()),
        input_zero_point=torch.zeros((), dtype=torch.int32), weight_scale=torch.ones(6), input_quant_min=0, input_quant_max=255,
        weight_quant_min=-127, weight_quant_max=127, stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1,
    )  # fmt: skip
    with pytest.raises((ValueError, TypeError), match="^qat_conv_int8: .*" + message):
        ops.qat_conv_int8(**arguments | ERRORS[message])
