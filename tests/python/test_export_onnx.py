"""export_onnx: files checked by onnx, their integers compared with the model's, and run by onnxruntime against torchqat."""

import numpy as np
import pytest
import torch
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


class Net(nn.Module):
    """Convolutions with BatchNorm, a depthwise one, a residual sum and a linear head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = x + torch.relu(self.depthwise(x))
        return self.head(x.mean([2, 3]))


def trained(model, qconfig, *batch):
    """Prepared, with ranges from a batch and two optimiser steps behind it."""
    prepared = torchqat.prepare_qat(model, qconfig).train()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        prepared(*batch).square().mean().backward()
        optimizer.step()
    return prepared.eval()


def run(path, *inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return torch.from_numpy(session.run(None, {n: i.numpy() for n, i in zip(names, inputs, strict=True)})[0])


def ops(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def spec(dtype, granularity="channel", **more):
    return QConfig(QuantSpec(dtype, granularity, **more), QConfig.int8().activation)


def test_conv_net_runs_in_onnxruntime_within_one_step_of_its_last_grid(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(6, 3, 12, 12)
    prepared = trained(Net(), QConfig.int8(), x)
    path = tmp_path / "net.onnx"
    torchqat.export_onnx(prepared, x, path, input_names=["input"], dynamic_axes={"input": {0: "batch"}})
    expected = torchqat.convert(prepared)(x)
    # One code more or less of the head's input moves an output by at most that input's step times the largest weight.
    head = prepared.head
    step = head.activation_fake_quant.eval_qparams()[0] * head.weight.detach().abs().sum(1).max()
    got = run(path, x)
    assert (got - expected).abs().max() <= step
    assert (got - expected).abs().median() <= 1e-5
    assert torch.allclose(run(path, x[:2]), got[:2], atol=1e-5)
    # One pair for each layer's input, and a dequantiser for each weight.
    assert ops(path).count("QuantizeLinear") == 3 and ops(path).count("DequantizeLinear") == 6
    assert prepared.training is False and isinstance(prepared.head, torchqat.nn.qat.Linear)


@pytest.mark.parametrize(
    "qconfig",
    [
        QConfig.int8(), QConfig.int8_dynamic(), QConfig.int8_weight_only(), QConfig.int4_weight_only(32),
        QConfig.int4_weight_only(16), QConfig.int4_int8(32), QConfig.int2_weight_only(64), spec("int4"), spec("int2"),
        spec("int3", "tensor"), spec("int8", "tensor"),
        QConfig(QuantSpec("uint4", "channel", symmetric=False)), QConfig(QuantSpec("uint4", "group:24", symmetric=False)),
        QConfig(QuantSpec("int8", "channel"), QuantSpec("uint4", symmetric=False, observer="ema")),
        QConfig(QuantSpec("int8", "channel"), QuantSpec("int8", symmetric=True, observer="minmax")),
    ],
    ids=lambda q: "-".join(str(v) for v in q.to_dict().values())[:80],
)  # fmt: skip
def test_linear_layer_of_every_scheme(qconfig, tmp_path):
    torch.manual_seed(1)
    x = torch.randn(7, 50)
    prepared = trained(nn.Sequential(nn.Linear(50, 9)), qconfig, x)
    path = tmp_path / "linear.onnx"
    torchqat.export_onnx(prepared, x, path)
    expected = torchqat.convert(prepared)(x)
    assert torch.allclose(run(path, x), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("qconfig", [QConfig.int8(), spec("int4"), QConfig.int4_weight_only(8)], ids=("int8", "int4", "groups"))
@pytest.mark.parametrize("dims", [1, 2])
def test_convolution(dims, qconfig, tmp_path):
    torch.manual_seed(2)
    kind = (nn.Conv1d, nn.Conv2d)[dims - 1]
    x = torch.randn(2, 20, *[9] * dims)
    prepared = trained(nn.Sequential(kind(20, 6, 3, stride=2, padding=1)), qconfig, x)
    torchqat.export_onnx(torchqat.convert(prepared), x, tmp_path / "conv.onnx")
    assert torch.allclose(run(tmp_path / "conv.onnx", x), torchqat.convert(prepared)(x), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("last", ["conv", "transposed", "linear"])
def test_few_bits_keep_their_bias(last, tmp_path):
    """onnxruntime rounds biases to the accumulator's step, which is coarse at few bits."""
    torch.manual_seed(8)
    x = torch.randn(16, 3, 6, 6)
    last = {
        "conv": nn.Conv2d(16, 5, 3), "transposed": nn.ConvTranspose2d(16, 5, 3), "linear": nn.Sequential(nn.Flatten(), nn.Linear(576, 5)),
    }[last]  # fmt: skip
    config = QConfig(QuantSpec("int3", "channel"), QuantSpec("uint4", symmetric=False, observer="ema"))
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), last)
    prepared = trained(net, config, x)
    torchqat.export_onnx(prepared, x, tmp_path / "few.onnx")
    difference = (run(tmp_path / "few.onnx", x) - torchqat.convert(prepared)(x)).abs()
    assert (difference > 1e-4).float().mean() < 0.01  # a sum in float may still cross a tie


def test_embedding_and_linear(tmp_path):
    torch.manual_seed(3)
    indices = torch.randint(0, 30, (4, 5))
    prepared = trained(nn.Sequential(nn.Embedding(30, 32), nn.Linear(32, 3)), QConfig.int4_weight_only(16), indices)
    torchqat.export_onnx(prepared, indices, tmp_path / "e.onnx")
    assert torch.allclose(run(tmp_path / "e.onnx", indices), torchqat.convert(prepared)(indices), rtol=1e-5, atol=1e-5)


def test_file_holds_the_trained_integers_in_four_bits(tmp_path):
    torch.manual_seed(4)
    x = torch.randn(5, 40)
    prepared = trained(nn.Sequential(nn.Linear(40, 6)), QConfig.int4_weight_only(16), x)
    torchqat.export_onnx(prepared, x, tmp_path / "m.onnx")
    tensors = {t.name: t for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    codes, scale, _, _ = torchqat.integer_weights(torchqat.convert(prepared)[0])
    stored = next(t for t in tensors.values() if t.data_type == onnx.TensorProto.INT4)
    found = onnx.numpy_helper.to_array(stored).astype(np.int8)
    # 40 columns in groups of 16: the eight columns added at the end are zeros that are cut off.
    assert found.shape == (6, 48) and not found[:, 40:].any()
    assert np.array_equal(found[:, :40], codes.numpy())
    assert any(np.array_equal(onnx.numpy_helper.to_array(t), scale.float().numpy()) for t in tensors.values())


def test_a_file_with_other_integers_is_refused(tmp_path, monkeypatch):
    from torchqat.export import onnx as module

    def spoil(onnx_package, model, weights):
        tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8)
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[0] += 1
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    monkeypatch.setattr(module, "_finish", spoil)
    prepared = trained(nn.Sequential(nn.Linear(4, 3)), QConfig.int8(), torch.randn(2, 4))
    with pytest.raises(RuntimeError, match="the file lacks the codes, scales or zero points of 0.weight"):
        torchqat.export_onnx(prepared, torch.randn(2, 4), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_errors(tmp_path):
    linear = nn.Sequential(nn.Linear(4, 3))
    prepared = torchqat.prepare_qat(linear, QConfig.int8_dynamic())
    with pytest.raises(ValueError, match="style must be 'qdq', got 'qoperator'"):
        torchqat.export_onnx(prepared, torch.randn(2, 4), tmp_path / "m.onnx", "qoperator")
    with pytest.raises(ValueError, match="neither prepared nor converted"):
        torchqat.export_onnx(linear, torch.randn(2, 4), tmp_path / "m.onnx")
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got str"):
        torchqat.export_onnx("model", torch.randn(2, 4), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"must be float32, as Q/DQ files are, got torch.bfloat16; call .float\(\) on both"):
        torchqat.export_onnx(prepared.bfloat16(), torch.randn(2, 4).bfloat16(), tmp_path / "m.onnx")
    torchqat.export_onnx(prepared.float(), torch.randn(2, 4), tmp_path / "m.onnx")


class Scaled(nn.Module):
    """A default value, which torch.onnx would make an input of."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x, factor: float = 2.0, y=None):
        x = self.layer(x) * factor
        return x if y is None else x + y


def test_default_values_of_arguments_are_no_inputs(tmp_path):
    x = torch.randn(5, 4)
    prepared = trained(Scaled(), QConfig.int8(), x)
    torchqat.export_onnx(prepared, x, tmp_path / "m.onnx", input_names=["x"], dynamic_axes={"x": {0: "batch"}})
    assert [entry.name for entry in onnx.load(tmp_path / "m.onnx").graph.input] == ["x"]
    torch.testing.assert_close(run(tmp_path / "m.onnx", x[:2]), prepared(x[:2]).detach(), atol=0.05, rtol=0.05)
    torchqat.export_onnx(prepared, (x, {"y": x[:, :3]}), tmp_path / "m.onnx")
    assert len(onnx.load(tmp_path / "m.onnx").graph.input) >= 2


class Bags(nn.Module):
    def __init__(self, mode, padding_idx):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(9, 6, mode=mode, padding_idx=padding_idx), nn.Linear(6, 2)

    def forward(self, indices):
        return self.head(self.bag(indices))


@pytest.mark.parametrize("padding_idx", [None, 3])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag(mode, padding_idx, tmp_path):
    indices = torch.tensor([[1, 2, 3], [3, 3, 3], [0, 8, 8]])
    prepared = trained(Bags(mode, padding_idx), QConfig.int8_weight_only(), indices)
    torchqat.export_onnx(prepared, indices, tmp_path / "m.onnx", input_names=["i"], dynamic_axes={"i": {0: "bags"}})
    for batch in (indices, indices[:2]):
        torch.testing.assert_close(run(tmp_path / "m.onnx", batch), prepared(batch).detach(), atol=1e-5, rtol=1e-5)


def test_embedding_bag_with_offsets_is_refused(tmp_path):
    prepared = torchqat.prepare_qat(nn.Sequential(nn.EmbeddingBag(9, 6)), QConfig.int8_weight_only())
    with pytest.raises(ValueError, match="indices must have shape \\[bags, length\\], without offsets"):
        torchqat.export_onnx(nn.Sequential(prepared[0]), torch.arange(4), tmp_path / "m.onnx")


class Answers(nn.Module):
    """Keywords in, a dictionary out, as Hugging Face's models have it."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 16), nn.Linear(16, 3)

    def forward(self, tokens, mask=None, scale=1.0, *, details=False):
        h = self.embedding(tokens)
        if mask is not None:
            h = h * mask.unsqueeze(-1)
        return {"scores": scale * self.head(h.sum(1)), "hidden": [h, h + 1] if details else None}


@pytest.mark.parametrize(
    "args, inputs, outputs",
    [
        (lambda b: b, ["tokens", "mask"], ["scores"]),
        (lambda b: (b["tokens"], {"mask": b["mask"]}), ["tokens", "mask"], ["scores"]),
        (lambda b: (b["tokens"], b["mask"]), ["tokens", "mask"], ["scores"]),
        (lambda b: {**b, "details": True, "scale": 2.0}, ["tokens", "mask"], ["scores", "hidden.0", "hidden.1"]),
        (lambda b: {"mask": b["mask"], "tokens": b["tokens"]}, ["mask", "tokens"], ["scores"]),
        (lambda b: {"tokens": b["tokens"]}, ["tokens"], ["scores"]),
    ],
)
def test_keywords_and_dictionaries_keep_their_names(args, inputs, outputs, tmp_path):
    torch.manual_seed(9)
    batch = lambda n, t: {"tokens": torch.randint(0, 20, (n, t)), "mask": (torch.rand(n, t) > 0.3).float()}
    prepared = torchqat.prepare_qat(Answers(), QConfig.int8()).train()
    prepared(**batch(8, 6))
    converted = torchqat.convert(prepared.eval())
    path = tmp_path / "m.onnx"
    torchqat.export_onnx(converted, args(batch(2, 5)), path, dynamic_axes={name: {0: "batch", 1: "time"} for name in inputs})
    graph = onnx.load(path).graph
    assert [entry.name for entry in graph.input] == inputs and [entry.name for entry in graph.output] == outputs
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    other = batch(3, 7)
    given = args(other)
    wanted = converted(**given) if isinstance(given, dict) else converted(*given[:1], other["mask"])
    wanted = [wanted["scores"], *(wanted["hidden"] or [])]
    for got, expected in zip(session.run(None, {name: other[name].numpy() for name in inputs}), wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-5, rtol=1e-5)


def test_axes_of_what_is_not_there_are_refused_and_the_old_file_stays(tmp_path):
    x = torch.randn(4, 6)
    prepared = trained(nn.Sequential(nn.Linear(6, 2)), QConfig.int8(), x)
    (tmp_path / "m.onnx").write_text("before")
    with pytest.raises(ValueError, match=r"dynamic_axes: 'image' names no input or output of the file; they are x, y"):
        torchqat.export_onnx(
            prepared, x, tmp_path / "m.onnx", input_names=["x"], output_names=["y"], dynamic_axes={"image": {0: "batch"}}
        )
    assert (tmp_path / "m.onnx").read_text() == "before"
