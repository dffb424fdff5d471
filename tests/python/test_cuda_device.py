"""What only a GPU can show: a training step captured in a CUDA graph, and no wait of the host in it."""

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; capture and host synchronisation have no host stand-in"
)


@pytest.fixture
def torchqat():
    import torchqat

    return torchqat


def layers():
    linear, conv = nn.Linear(64, 32), nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    return [(linear, (9, 64)), (conv, (2, 8, 6, 6))]


# Weights in groups have an integer form in Linear only.
@pytest.mark.parametrize(
    "preset, number", [("int8", 0), ("int8", 1), ("int8_dynamic", 0), ("int8_dynamic", 1), ("int4_int8", 0)]
)
def test_a_step_does_not_wait_and_can_be_captured(torchqat, preset, number):
    torch.manual_seed(0)
    layer, shape = layers()[number]
    prepared = torchqat.prepare_qat(nn.Sequential(layer), getattr(torchqat.QConfig, preset)()).cuda()
    x = torch.randn(shape, device="cuda", requires_grad=True)

    def step():
        prepared.zero_grad(set_to_none=False)
        y = prepared(x)
        y.square().sum().backward()
        return y

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    torchqat.freeze_observers(prepared)
    with torch.no_grad():
        x.copy_(torch.randn(shape, device="cuda"))
    graph.replay()
    torch.cuda.synchronize()
    assert captured.isfinite().all()


@pytest.mark.parametrize("preset", ["int8", "int8_dynamic", "int4_weight_only", "int4_int8"])
def test_rows_of_deployed_layers_run_in_one_call(torchqat, preset):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 32), nn.GELU(), nn.Linear(32, 8)).cuda()
    x = torch.randn(2, 3, 8, 8, device="cuda")
    prepared = torchqat.prepare_qat(model, getattr(torchqat.QConfig, preset)(), example_inputs=(x,))
    prepared(x)
    converted = torchqat.convert(prepared.eval(), example_inputs=(x,))
    y = converted(x)
    assert converted._plan.segments
    for layer in converted:
        x = layer(x)
    assert torch.equal(x, y)


@pytest.mark.parametrize("formats", [("mxfp8_e4m3", "mxfp8_e4m3"), ("mxfp8_e5m2", "mxfp4"), ("nvfp4", "nvfp4")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_block_scaled_layers_are_right_on_whatever_the_device_has(torchqat, formats, dtype):
    """A warning that its tensor cores are not used is an error here, where there are some (capability 10 and above)."""
    ops = torch.ops.torchqat
    x, w = torch.randn(200, 352, device="cuda", dtype=dtype), torch.randn(144, 352, device="cuda")
    a, b = (ops.fake_quantize_float(t, None, [], name) for t, name in zip((x, w), formats))
    y = ops.linear_block_float(a, b, None, *formats, x)
    off = (y.double() - a.double() @ b.double().t()).abs()
    most = a.double().abs() @ b.double().abs().t()
    assert y.dtype == dtype and (off <= (2**-10 if dtype == torch.float32 else 2**-8) * most).all()


def test_block_scaled_layers_can_be_captured(torchqat):
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(64, 32)), torchqat.QConfig.mxfp8()).cuda()
    x = torch.randn(16, 64, device="cuda")
    with torch.no_grad():
        expected = prepared(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = prepared(x)
        graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)
