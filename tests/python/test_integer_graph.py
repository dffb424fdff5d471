"""Codes through whole models: integer forms put in by prepare_qat(example_inputs=), edges found by convert(example_inputs=)."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec
from torchqat.nn import qat, quantized

pytestmark = pytest.mark.filterwarnings(
    # torch's own annotations in fx.GraphModule, seen when one is scripted.
    "ignore:The TorchScript type system doesn't support instance-level annotations:UserWarning"
)


def conv(inputs, outputs, kernel=3, **kwargs):
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **kwargs), nn.BatchNorm2d(outputs)]


class Inverted(nn.Module):
    """MobileNetV2's block."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            *conv(width, 3 * width, 1), nn.ReLU6(), *conv(3 * width, 3 * width, groups=3 * width), nn.ReLU6(), *conv(3 * width, width, 1)
        )

    def forward(self, x):
        return x + self.body(x)


class Bottleneck(nn.Module):
    """ResNet's block, with one ReLU module used twice."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Sequential(*conv(width, width)), nn.Sequential(*conv(width, width))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.second(self.relu(self.first(x)))
        y += x
        return self.relu(y)


class Branches(nn.Module):
    """Concatenation, max-pooling and a function with a table."""

    def __init__(self, width):
        super().__init__()
        self.left, self.right = nn.Conv2d(width, 5, 1), nn.Conv2d(width, 7, 3, padding=1)
        self.pool, self.merge = nn.MaxPool2d(3, 2, 1), nn.Conv2d(12, width, 1)
        self.last = nn.Conv2d(width, width, 1)

    def forward(self, x):
        y = self.pool(torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1))
        return self.last(F.hardswish(self.merge(y)))


class Classifier(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.hidden, self.out = nn.Conv2d(width, 16, 1), nn.Linear(16, 33), nn.Linear(33, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(torch.relu(self.conv(x)), 1)
        x = self.dropout(F.relu(self.hidden(torch.flatten(x, 1))))
        return self.out(x.reshape(x.size(0), -1))


def mlp():
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 5))


MODELS = {
    "mobilenet": lambda: nn.Sequential(*conv(3, 8), nn.ReLU6(), Inverted(8), Inverted(8), Classifier(8)),
    "resnet": lambda: nn.Sequential(*conv(3, 8), nn.ReLU(), Bottleneck(8), Bottleneck(8), nn.MaxPool2d(2), Classifier(8)),
    "branches": lambda: nn.Sequential(*conv(3, 8), nn.ReLU(), Branches(8), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 4)),
    "mlp": mlp,
}


def inputs(name, n=4):
    torch.manual_seed(n)
    return torch.randn(n, 24) if name == "mlp" else torch.randn(n, 3, 12, 12)


def trained(name, output=None, steps=3):
    torch.manual_seed(1)
    prepared = torchqat.prepare_qat(MODELS[name](), QConfig.int8(), example_inputs=inputs(name), output=output).train()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
    for step in range(steps):
        loss = prepared(inputs(name, 8 + step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return prepared.eval()


def kinds(model, cls):
    return [type(m).__name__ for m in model.modules() if isinstance(m, cls)]


FORMS = {
    "mobilenet": ["Add", "Add", "AvgPool"],
    "resnet": ["Add", "Add", "AvgPool"],
    "branches": ["Activation", "AvgPool"],
    "mlp": ["Activation", "Activation"],
}


@pytest.mark.parametrize("name", MODELS)
def test_forms_are_put_in_and_train_and_deploy_bit_for_bit(name):
    prepared = trained(name)
    assert sorted(kinds(prepared, qat._form.QatForm)) == FORMS[name]
    x = inputs(name)
    plain = torchqat.convert(prepared)
    assert torch.equal(plain(x), prepared(x))
    before = torch.ops.torchqat._cpu_isa()
    try:
        for isa in torchqat._C.supported_isas():
            torch.ops.torchqat._set_cpu_isa(isa)
            converted = torchqat.convert(prepared, example_inputs=x)
            for n in (1, 5):
                for format in (torch.contiguous_format, torch.channels_last):
                    v = inputs(name, n)
                    v = v if v.dim() == 2 else v.contiguous(memory_format=format)
                    assert torch.equal(converted(v), prepared(v)), (isa, n, format)
    finally:
        torch.ops.torchqat._set_cpu_isa(before)


@pytest.mark.parametrize("name", MODELS)
def test_codes_flow_between_all_layers_but_the_last(name):
    prepared = trained(name)
    x = inputs(name)
    converted = torchqat.convert(prepared, example_inputs=x)
    gave, dtypes = {}, {}
    kernels = (quantized.Conv, quantized.Linear, quantized.Add, quantized.AvgPool, quantized.Activation)
    for path, module in converted.named_modules():
        if isinstance(module, kernels):
            module.register_forward_hook(lambda m, a, y, path=path: gave.update({path: y.dtype}))
            module.register_forward_pre_hook(lambda m, a, path=path: dtypes.update({path: {t.dtype for t in a}}))
    converted(x)
    assert len(gave) >= 4
    assert [path for path, dtype in gave.items() if dtype != torch.uint8] == [list(gave)[-1]]
    assert [path for path, found in dtypes.items() if found != {torch.uint8}] == [list(dtypes)[0]]
    assert not kinds(converted, (nn.ReLU6,)) and torchqat.verify(prepared, converted, [x, inputs(name, 3)]).equal


@pytest.mark.parametrize("name", MODELS)
def test_scripts_compiles_exports_copies_and_loads(name, tmp_path):
    prepared = trained(name)
    x = inputs(name)
    converted = torchqat.convert(prepared, example_inputs=x)
    expected = prepared(x)
    torch.jit.freeze(torch.jit.script(converted)).save(str(tmp_path / "m.pt"))
    assert torch.equal(torch.jit.load(str(tmp_path / "m.pt"))(x), expected)
    assert torch.equal(torch.jit.script(prepared)(x), expected)
    assert torch.equal(torch.compile(converted, fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.export.export(converted, (x,)).module()(x), expected)
    assert torch.equal(copy.deepcopy(converted)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(converted))(x), expected)
    torchqat.save(converted, tmp_path / "m.safetensors")
    again = torchqat.load(tmp_path / "m.safetensors", MODELS[name]())
    assert torch.equal(again(x), expected)
    again.load_state_dict(converted.state_dict())
    fresh = torchqat.prepare_qat(MODELS[name](), QConfig.int8(), example_inputs=x).eval()
    fresh.load_state_dict(prepared.state_dict())
    assert torch.equal(fresh(x), expected)
    assert "integer form" in str(torchqat.coverage(converted))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("edges", [False, True])
def test_onnx_computes_nearly_the_same(name, edges, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    x = inputs(name)
    prepared = trained(name)
    converted = torchqat.convert(prepared, example_inputs=x if edges else None)
    torchqat.export_onnx(converted, x, tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    y = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    expected = converted(x)
    assert (y - expected).norm() <= 0.05 * expected.norm()


@pytest.mark.parametrize("name", MODELS)
def test_an_integer_output_ends_the_graph(name):
    prepared = trained(name, output=QuantSpec("uint8", symmetric=False, observer="ema"))
    x = inputs(name)
    converted = torchqat.convert(prepared, example_inputs=x)
    assert torch.equal(converted(x), prepared(x))
    output = next(m for m in converted.modules() if isinstance(m, quantized.Output))
    seen = []
    output.register_forward_pre_hook(lambda m, a: seen.append(a[0].dtype))
    output.as_codes = True
    assert converted(x).dtype == torch.uint8 and seen == [torch.uint8]
    assert torch.equal((converted(x).float() - output.input_zero_point_0) * output.input_scale_0, prepared(x))


def test_gradients_are_those_of_the_float_operations_on_rounded_values():
    torch.manual_seed(0)
    spec = QuantSpec("uint8", symmetric=False, observer="ema")
    x = torch.randn(2, 3, 6, 6) * 2
    for form, float_form in (
        (qat.AvgPool(spec, [2, 2], [2, 2], [0, 0]), lambda v: F.avg_pool2d(v, 2)),
        (qat.AvgPool(spec, [], [], []), lambda v: F.adaptive_avg_pool2d(v, 1)),
        (qat.Activation(spec, "gelu"), F.gelu),
        (qat.Activation(spec, "leaky_relu", 0.2), lambda v: F.leaky_relu(v, 0.2)),
    ):
        form.train()
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = form(a)
        (grid,) = form.grids()
        low, high = form.activation_fake_quant.quant_min, form.activation_fake_quant.quant_max
        z = float_form(torch.ops.torchqat.fake_quantize(b, *grid[:2], [], low, high))
        assert torch.allclose(y, z, atol=1e-5)
        upstream = torch.randn_like(y)
        y.backward(upstream)
        z.backward(upstream)
        assert torch.allclose(a.grad, b.grad, atol=1e-6)
        torchqat.set_fake_quant(form, False)
        assert torch.allclose(form(x), float_form(x), atol=1e-5)


class Transformer(nn.Module):
    """A residual that feeds a LayerNorm is no place for eight bits."""

    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.down(self.norm(x + self.up(x)))


def test_an_operation_next_to_a_float_one_stays_in_float():
    prepared = torchqat.prepare_qat(Transformer(), QConfig.int8(), example_inputs=torch.randn(2, 8))
    assert type(prepared) is Transformer and not kinds(prepared, qat._form.QatForm)
    for config in (QConfig.int8_dynamic(), QConfig.int8_weight_only()):
        assert not kinds(torchqat.prepare_qat(mlp(), config, example_inputs=torch.randn(2, 24)), qat._form.QatForm)
    assert not kinds(torchqat.prepare_qat(mlp(), QConfig.int8()), qat._form.QatForm)


@pytest.mark.parametrize(
    "overrides, left",
    [({nn.GELU: None}, ["Activation"]), ({qat.Activation: None}, []), ({"1": None}, ["Activation"]), ({"2": None}, [])],
)
def test_overrides_keep_operations_in_float(overrides, left):
    prepared = torchqat.prepare_qat(mlp(), QConfig.int8(), overrides=overrides, example_inputs=torch.randn(2, 24))
    assert kinds(prepared, qat._form.QatForm) == left
    model = torchqat.prepare_qat(MODELS["mobilenet"](), overrides={qat.Add: None}, example_inputs=inputs("mobilenet"))
    assert kinds(model, qat._form.QatForm) == ["AvgPool"] and type(model[3]) is Inverted


def test_a_model_in_another_dtype_converts_without_edges_and_says_so():
    prepared = trained("mlp").to(torch.bfloat16)
    x = inputs("mlp").to(torch.bfloat16)
    with pytest.warns(UserWarning, match="computes in torch.bfloat16; it is converted without integer edges"):
        converted = torchqat.convert(prepared, example_inputs=x)
    assert torch.equal(converted(x), prepared(x))


@pytest.mark.parametrize("spec", [QuantSpec("int8", observer="ema"), QuantSpec("uint4", symmetric=False, observer="minmax")])
@pytest.mark.parametrize("name", ["mobilenet", "branches"])
def test_other_grids(spec, name):
    config = QConfig(QuantSpec("int8", "channel"), spec)
    prepared = torchqat.prepare_qat(MODELS[name](), config, example_inputs=inputs(name)).train()
    for n in (6, 7):
        prepared(inputs(name, n))
    prepared.eval()
    x = inputs(name)
    converted = torchqat.convert(prepared, example_inputs=x)
    assert torch.equal(converted(x), prepared(x))
    assert sum(getattr(m, "output_scale", None) is not None for m in converted.modules()) >= 5
