"""Element-wise functions in training: the deployed table's bits forward, ATen's derivative at the codes backward."""

import pytest
import torch
import torch.nn.functional as F
import torchqat
from torch import nn
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint
from torchqat.nn.qat.activation import Activation, function_slope, grid_points

ops = torch.ops.torchqat
ISAS = torchqat._C.supported_isas()
U8 = (torch.tensor(0.031), torch.tensor(70, dtype=torch.int32), 0, 255)
S8 = (torch.tensor(0.05), torch.tensor(-9, dtype=torch.int32), -128, 127)
U4 = (torch.tensor(0.4), torch.tensor(5, dtype=torch.int32), 0, 15)
SHAPES = [(2, 3, 5, 7), (3,), (), (0, 4), (1, 70, 9, 9), (65,), (16,)]
FUNCTIONS = {
    "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu, "sigmoid": torch.sigmoid,
    "tanh": torch.tanh, "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "mish": F.mish,
    "elu": lambda x: F.elu(x, 0.7), "leaky_relu": lambda x: F.leaky_relu(x, 0.7),
}  # fmt: skip


def tables(grid, seed=3):
    size = grid[3] - grid[2] + 1
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator), torch.randn(size, generator=generator)


def expected(x, grid, table, slope, dy):
    """By torch's own quantiser and float arithmetic."""
    level = (x / grid[0]).round() + grid[1]
    index = level.clamp(grid[2], grid[3]).nan_to_num(grid[2]).long() - grid[2]
    inside = (level >= grid[2]) & (level <= grid[3])
    return torch.where(x.isnan(), x, table[index]), torch.where(inside, dy * slope[index], 0.0)


def run(x, grid, table, slope, dy):
    x = x.detach().requires_grad_()
    y = ops.qat_lookup_int8(x, *grid, table, slope)
    y.backward(dy)
    return y.detach(), x.grad


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("grid", [U8, S8, U4])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_finds_its_entry_and_its_slope(isa, grid, shape):
    ops._set_cpu_isa(isa)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5)) * 4
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    if x.numel() > 2:
        x.view(-1)[1], x.view(-1)[2] = torch.nan, torch.inf
    table, slope = tables(grid)
    results = run(x, grid, table, slope, dy)
    for got, wanted in zip(results, expected(x, grid, table, slope, dy)):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    deployed = ops.lookup_int8(x, *grid, table)
    torch.testing.assert_close(results[0], deployed, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(ops.qat_lookup_int8(x, *grid, table, slope), deployed, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
def test_any_layout_of_input_and_gradient(isa):
    ops._set_cpu_isa(isa)
    base = torch.randn(4, 6, 10, 9) * 4
    table, slope = tables(U8)
    for x in (base, base.to(memory_format=torch.channels_last), base.transpose(1, 3), base[:, ::2, 1:], base[:1].expand(4, 6, 10, 9)):
        for dy in (torch.randn(x.shape), torch.randn(x.shape[::-1]).permute(3, 2, 1, 0), torch.randn(()).expand(x.shape)):
            for got, wanted in zip(run(x, U8, table, slope, dy), expected(x, U8, table, slope, dy)):
                assert torch.equal(got, wanted)
    assert ops.qat_lookup_int8(base.to(memory_format=torch.channels_last), *U8, table, slope).is_contiguous(
        memory_format=torch.channels_last
    )


def test_threads_do_not_change_bits():
    x, dy = torch.randn(3, 70, 40, 41) * 4, torch.randn(3, 70, 40, 41)
    table, slope = tables(U8)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results = run(x, U8, table, slope, dy)
        first = results if threads == 1 else first
        assert all(map(torch.equal, results, first))


def test_saved_for_backward_is_a_byte_and_a_bit():
    x = torch.randn(64, 1024, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel() * t.element_size()) or t, lambda t: t):
        ops.qat_lookup_int8(x, *U8, *tables(U8))
    assert sum(sizes) == x.numel() + x.numel() // 8 + 1024


def test_opcheck():
    for x in (torch.randn(2, 5, 6, 6, requires_grad=True), torch.randn(7), torch.randn(3, 4, 5).transpose(0, 2)):
        opcheck(ops.qat_lookup_int8.default, (x, *S8, *tables(S8)))
    x = torch.randn(9, 5)
    table, slope = tables(S8)
    opcheck(ops._qat_lookup_int8_forward.default, (x, *S8, table))
    _, index, mask = ops._qat_lookup_int8_forward(x, *S8, table)
    opcheck(ops._qat_lookup_int8_backward.default, (torch.randn(9, 5), index, mask, slope))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_slopes_are_the_derivatives(name):
    x, step = torch.linspace(-6.01, 5.99, 101, dtype=torch.float64), 1e-5
    wanted = (FUNCTIONS[name](x + step) - FUNCTIONS[name](x - step)) / (2 * step)
    torch.testing.assert_close(function_slope(name, x, 0.7), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_module_trains_like_the_function_of_fake_quantised_values(name):
    torch.manual_seed(1)
    form = Activation(torchqat.QConfig.int8().activation, name, 0.7)
    form(torch.randn(500) * 3)
    form.activation_fake_quant.observer_enabled = False
    x, dy = torch.randn(40, 30) * 4, torch.randn(40, 30)
    ours = x.clone().requires_grad_()
    y = form(ours)
    y.backward(dy)
    theirs = x.clone().requires_grad_()
    scale, zero_point = form.activation_fake_quant.qparams(x)
    low, high = form.activation_fake_quant.quant_min, form.activation_fake_quant.quant_max
    reference = FUNCTIONS[name](
        torch.fake_quantize_per_tensor_affine(theirs, scale.detach(), zero_point.to(torch.int32), low, high)
    )
    reference.backward(dy)
    torch.testing.assert_close(y, reference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    points = grid_points(scale, zero_point, low, high)
    assert points.shape == (high - low + 1,) and points[int(zero_point) - low] == 0
    with torch.no_grad():
        assert torch.equal(form(x), y)


def test_scripted_and_compiled_module():
    torch.manual_seed(2)
    form = Activation(torchqat.QConfig.int8().activation, "gelu")
    form(torch.randn(100))
    form.activation_fake_quant.observer_enabled = False
    x = torch.randn(6, 50)
    results = []
    for module in (form, torch.jit.script(form), torch.compile(form, fullgraph=True, backend="aot_eager", dynamic=True)):
        own = x.clone().requires_grad_()
        y = module(own)
        y.square().sum().backward()
        results.append((y.detach(), own.grad))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


@pytest.mark.parametrize("reentrant", [False, True])
def test_autocast_and_checkpointing(reentrant):
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(20, 30), nn.SiLU(), nn.Linear(30, 5))
    prepared = torchqat.prepare_qat(model, torchqat.QConfig.int8(), example_inputs=(torch.randn(8, 20),))
    assert isinstance(prepared[1], Activation)
    prepared(torch.randn(8, 20))
    torchqat.freeze_observers(prepared)
    data, gradients = torch.randn(8, 20), []
    for call in (prepared, lambda x: checkpoint(prepared, x, use_reentrant=reentrant)):
        prepared.zero_grad()
        x = data.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = call(x)
        y.float().square().sum().backward()
        gradients.append([x.grad, *(p.grad.clone() for p in prepared.parameters())])
    assert all(map(torch.equal, *gradients)) and gradients[0][0].abs().sum() > 0


def test_bad_arguments_are_named():
    x = torch.randn(3, 4)
    table, slope = tables(U8)
    with pytest.raises(TypeError, match=r"qat_lookup_int8: input must be float32, got Double"):
        ops.qat_lookup_int8(x.double(), *U8, table, slope)
    with pytest.raises(ValueError, match=r"qat_lookup_int8: slope must have shape \[256\] for the range \[0, 255\], got \[3\]"):
        ops.qat_lookup_int8(x, *U8, table, slope[:3])
    with pytest.raises(TypeError, match=r"qat_lookup_int8: table must be float32, got Byte"):
        ops.qat_lookup_int8(x, *U8, table.byte(), slope)
    with pytest.raises(ValueError, match=r"qat_lookup_int8: scale must be finite and > 0, got 0"):
        ops.qat_lookup_int8(x, torch.tensor(0.0), *U8[1:], table, slope)
    _, index, mask = ops._qat_lookup_int8_forward(x, *U8, table)
    with pytest.raises(ValueError, match=r"_qat_lookup_int8_backward: index must have the gradient's shape \[4, 3\], got \[3, 4\]"):
        ops._qat_lookup_int8_backward(x.t(), index, mask, slope)
    with pytest.raises(ValueError, match=r"_qat_lookup_int8_backward: mask must have shape \[2\], got \[1\]"):
        ops._qat_lookup_int8_backward(x, index, mask[:1], slope)
    y = ops.qat_lookup_int8(x.requires_grad_(), *U8, table, slope)
    with pytest.raises(RuntimeError, match=r"qat_lookup_int8: double backward"):
        torch.autograd.grad(y.sum(), x, create_graph=True)
