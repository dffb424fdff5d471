"""Hugging Face's Conv1D, a linear layer with the weight [in, out]: quantised as nn.Linear on the transposed weight, bit for bit."""

import copy

import numpy as np
import pytest
import torch
from models import INTEGER, SCHEMES
from torch import nn

import torchqat
from torchqat import QConfig


class Conv1D(nn.Module):
    """The interface of transformers.pytorch_utils.Conv1D."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


def twins():
    """The same two-layer model with Conv1D and with Linear."""
    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(13, 17), nn.ReLU(), Conv1D(5, 13))
    linear = nn.Sequential(nn.Linear(17, 13), nn.ReLU(), nn.Linear(13, 5))
    with torch.no_grad():
        for i in (0, 2):
            linear[i].weight.copy_(model[i].weight.t())
            linear[i].bias.copy_(model[i].bias)
    return model, linear


def trained(model, config, x):
    torch.manual_seed(1)
    prepared = torchqat.prepare_qat(model, config)
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(x).square().mean().backward()
        optimizer.step()
    return prepared.eval()


@pytest.mark.parametrize("name", [*SCHEMES, "fp8", "mxfp4"])
def test_trains_and_ships_as_linear_does(name, tmp_path):
    config = SCHEMES[name] if name in SCHEMES else getattr(QConfig, name)()
    model, linear = twins()
    x = torch.randn(6, 3, 17)
    prepared, other = trained(model, config, x), trained(linear, config, x)
    assert type(prepared[0]) is torchqat.nn.qat.TransposedLinear
    torch.testing.assert_close(prepared[0].weight, other[0].weight.t())
    expected = prepared(x)
    torch.testing.assert_close(expected, other(x), atol=1e-3, rtol=1e-3)
    converted = torchqat.convert(prepared)
    assert torch.equal(converted(x), expected) or name not in INTEGER
    torch.testing.assert_close(converted(x), expected)
    torchqat.save(converted, tmp_path / "m.safetensors")
    loaded = torchqat.load(tmp_path / "m.safetensors", model)
    assert torch.equal(loaded(x), converted(x))
    for form in (torch.jit.script(converted), torch.jit.script(prepared), copy.deepcopy(converted)):
        torch.testing.assert_close(form(x), expected)
    if name in SCHEMES:
        for layers in (prepared, converted, loaded):
            codes, scale, zero_point, block_size = torchqat.integer_weights(layers[0])
            weight = torch.ops.torchqat.dequantize(codes, scale, zero_point, block_size, torch.float32)
            assert codes.shape == (17, 13)
            for got, wanted in zip(torchqat.integer_weights(layers[0]), torchqat.integer_weights(prepared[0])):
                assert got == wanted if not isinstance(got, torch.Tensor) else torch.equal(got, wanted)
        if "dorefa" not in name:
            assert (weight - prepared[0].weight).abs().mean() < 1.0
        assert torchqat.verify(prepared, converted, [x]).equal


def test_parameters_stay_the_same_objects_and_scales_follow_axis_1():
    model, _ = twins()
    weight, bias = model[0].weight, model[0].bias
    prepared = torchqat.prepare_qat(model, inplace=True)
    assert prepared[0].weight is weight and prepared[0].bias is bias
    layer = torchqat.integer_weights(prepared[0])
    assert layer.block_size == [-1, 1] and layer.scale.shape == (1, 13)
    torch.testing.assert_close(layer.scale[0], weight.detach().abs().amax(0) / 127)
    grouped = torchqat.prepare_qat(twins()[0], QConfig.int4_weight_only(8))[0]
    assert torchqat.integer_weights(grouped).scale.shape == (3, 13)


def test_codes_flow_between_layers_and_coverage_counts_them():
    model, _ = twins()
    x = torch.randn(8, 17)
    prepared = torchqat.prepare_qat(model, example_inputs=x)
    prepared(x)
    converted = torchqat.convert(prepared.eval(), example_inputs=x)
    assert torch.equal(converted(x), prepared(x))
    assert converted[0].output_scale is not None
    rows = {row.name: row for row in torchqat.coverage(prepared).rows}
    assert rows["0"].quantized and rows["0"].kind == "TransposedLinear"
    left = torchqat.coverage(torchqat.prepare_qat(model, overrides={"2": None})).rows
    assert "override" in next(r for r in left if r.name == "2").why
    assert type(torchqat.prepare_qat(model, QConfig.int8(), overrides={Conv1D: QConfig.int8_dynamic()})[0]).__name__ == "TransposedLinear"


@pytest.mark.parametrize("config", [QConfig.int8(), QConfig.int4_weight_only(8)], ids=["int8", "int4"])
def test_onnx(config, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    model, _ = twins()
    x = torch.randn(4, 17)
    prepared = trained(model, config, x)
    path = tmp_path / "m.onnx"
    torchqat.export_onnx(prepared, x, path)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = prepared(x).detach()
    np.testing.assert_allclose(result, expected.numpy(), atol=0.02 * float(expected.abs().max()))


def test_what_only_has_the_name_is_left_alone(tmp_path):
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

    model = nn.ModuleDict({"odd": Conv1D(), "linear": nn.Linear(4, 4)})
    prepared = torchqat.prepare_qat(model)
    assert type(prepared["odd"]) is Conv1D
    converted = torchqat.convert(torchqat.prepare_qat(twins()[0], QConfig.int8_dynamic()))
    torchqat.save(converted, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"at '0' a Linear with weight \[17, 13\], float_model has a Linear with weight \[17, 13\]"):
        torchqat.load(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(13, 17), nn.ReLU(), nn.Linear(13, 5)))
