"""prepare_qat(output=QuantSpec): the model's own output on a trained grid, as values and as integers."""

import copy
import pickle

import pytest
import torch
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec
from torchqat.nn.quantized.output import Output

UINT8 = QuantSpec("uint8", symmetric=False, observer="ema")


class Two(nn.Module):
    """Two outputs under names, one through a function."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        hidden = torch.relu(self.a(x))
        return {"logits": self.b(hidden), "hidden": hidden}


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.b(torch.relu(self.a(x))) * 2


class ByMode(Plain):
    def forward(self, x):
        return self.b(nn.functional.dropout(self.a(x), 0.5, self.training))


def sequential():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def trained(model, output=UINT8, qconfig=None):
    torch.manual_seed(0)
    prepared = torchqat.prepare_qat(model, qconfig or QConfig.int8(), output=output).train()
    for _ in range(3):
        prepared(torch.randn(16, 6))
    return prepared.eval()


@pytest.mark.parametrize("make", [sequential, Plain])
@pytest.mark.parametrize("spec", [UINT8, QuantSpec("int8"), QuantSpec("int8", estimator="lsq"), QuantSpec("int16"), QuantSpec("uint4", symmetric=False)])
def test_values_lie_on_the_trained_grid_and_are_the_deployed_ones(make, spec):
    prepared = trained(make(), spec)
    converted = torchqat.convert(prepared)
    x = torch.randn(32, 6) * 2
    y = converted(x)
    assert torch.equal(y, prepared(x))
    output = next(m for m in converted.modules() if isinstance(m, Output))
    low, high = spec.quant_range("activation")
    codes = output.codes(y)
    assert codes.dtype == (torch.int16 if spec.bits == 16 else torch.uint8 if low == 0 else torch.int8)
    assert codes.min() >= low and codes.max() <= high
    assert torch.equal((codes.float() - output.input_zero_point_0) * output.input_scale_0, y)
    output.as_codes = True
    assert torch.equal(converted(x), codes)
    assert len(y.unique()) <= high - low + 1


def test_it_trains_through_the_grid():
    prepared = torchqat.prepare_qat(Plain(), output=UINT8).train()
    prepared(torch.randn(16, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prepared.parameters())


def test_names_and_parameters_are_the_models_own():
    model = Plain()
    prepared = torchqat.prepare_qat(model, output=UINT8, inplace=True)
    assert {n for n, _ in prepared.named_parameters()} == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert prepared.a.weight is model.a.weight
    assert not trained(Plain()).training and torchqat.prepare_qat(Plain(), output=UINT8).training
    assert not torchqat.prepare_qat(Plain().eval(), output=UINT8).training


def test_each_of_several_outputs_has_a_grid_of_its_own():
    prepared = trained(Two())
    converted = torchqat.convert(prepared)
    x = torch.randn(8, 6)
    y, z = prepared(x), converted(x)
    assert list(z) == ["logits", "hidden"] and all(torch.equal(y[k], z[k]) for k in y)
    scales = [m.input_scale_0 for m in converted.modules() if isinstance(m, Output)]
    assert len(scales) == 2 and scales[0] != scales[1]


# torch's own annotations in fx.GraphModule, seen when one is scripted.
@pytest.mark.filterwarnings("ignore:The TorchScript type system doesn't support instance-level annotations:UserWarning")
@pytest.mark.parametrize("make", [sequential, Plain])
def test_scripts_compiles_exports_copies_and_loads(make, tmp_path):
    prepared = trained(make())
    converted = torchqat.convert(prepared)
    x = torch.randn(5, 6)
    expected = prepared(x)
    assert torch.equal(torch.jit.script(prepared)(x), expected)
    torch.jit.freeze(torch.jit.script(converted)).save(str(tmp_path / "m.pt"))
    assert torch.equal(torch.jit.load(str(tmp_path / "m.pt"))(x), expected)
    assert torch.equal(torch.compile(converted, fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.export.export(converted, (x,)).module()(x), expected)
    assert torch.equal(copy.deepcopy(converted)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(converted))(x), expected)
    torchqat.save(converted, tmp_path / "m.safetensors")
    again = torchqat.load(tmp_path / "m.safetensors", make())
    assert torch.equal(again(x), expected)
    assert torch.equal(torchqat.load(tmp_path / "m.safetensors", make())(x), expected)
    fresh = torchqat.prepare_qat(make(), output=UINT8).eval()
    fresh.load_state_dict(prepared.state_dict())
    assert torch.equal(fresh(x), expected)


def test_verify_and_coverage_know_it():
    prepared = trained(Plain())
    converted = torchqat.convert(prepared)
    report = torchqat.verify(prepared, converted, [torch.randn(4, 6)])
    assert report.equal and "output_fake_quant" in str(report)
    for model in (prepared, converted):
        assert [r.quantized for r in torchqat.coverage(model).rows if r.kind == "Output"] == [True]


def test_the_onnx_graph_ends_in_integers(tmp_path):
    onnx = pytest.importorskip("onnx")
    converted = torchqat.convert(trained(Plain()))
    x = torch.randn(5, 6)
    torchqat.export_onnx(converted, x, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    by_output = {name: node for node in model.graph.node for name in node.output}
    last = by_output[model.graph.output[0].name]
    assert last.op_type == "DequantizeLinear"
    quantize = by_output[last.input[0]]
    assert quantize.op_type == "QuantizeLinear"
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    y = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    step = next(m for m in converted.modules() if isinstance(m, Output)).input_scale_0
    assert (y - converted(x)).abs().max() <= 1.01 * step


def test_a_lone_layer_is_wrapped():
    prepared = trained(nn.Linear(6, 3))
    x = torch.randn(4, 6)
    assert torch.equal(torchqat.convert(prepared)(x), prepared(x))


@pytest.mark.parametrize(
    "output, error, words",
    [
        ("int8", TypeError, "output must be a QuantSpec or None, got str"),
        (QuantSpec("e4m3fn"), ValueError, "output must have an integer dtype, got 'e4m3fn'"),
        (QuantSpec("uint8", "token", symmetric=False, observer="dynamic"), ValueError, "granularity 'tensor', got 'token'"),
        (QuantSpec("uint8", symmetric=False, observer="dynamic"), ValueError, "static observer .* got 'dynamic'"),
    ],
)
def test_other_specs_are_refused(output, error, words):
    with pytest.raises(error, match=words):
        torchqat.prepare_qat(Plain(), output=output)


def test_a_forward_that_cannot_be_rewritten_is_refused():
    with pytest.raises(ValueError, match="output cannot be put behind ByMode: .*training mode; wrap the model"):
        torchqat.prepare_qat(ByMode(), output=UINT8)
    prepared = torchqat.prepare_qat(nn.Sequential(ByMode()), output=UINT8)
    assert isinstance(prepared[1], torchqat.nn.qat.Output)


def test_an_output_that_saw_no_data_is_refused_and_so_is_switched_off_quantisation():
    prepared = torchqat.prepare_qat(sequential(), QConfig.int8_dynamic(), output=UINT8)
    with pytest.raises(RuntimeError, match="module 'output_fake_quant': a static activation has seen no data"):
        torchqat.convert(prepared)
    prepared(torch.randn(4, 6))
    torchqat.set_fake_quant(prepared, False)
    with pytest.raises(ValueError, match="quantisation is switched off"):
        torchqat.convert(prepared)


def test_a_file_with_forms_does_not_load_into_another_model(tmp_path):
    torchqat.save(torchqat.convert(trained(Plain())), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="do not fit float_model: its forward depends on the training mode"):
        torchqat.load(tmp_path / "m.safetensors", ByMode())
