"""RNN, LSTM, GRU and their cells: the split forms against torch's own, quantised training, conversion, files, scripts, packed sequences."""

import copy
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import torchqat
from torchqat import QConfig
from torchqat.nn.recurrent import SPLIT

CONFIGS = {
    "int8": QConfig.int8(),
    "int8_dynamic": QConfig.int8_dynamic(),
    "int4_int8": QConfig.int4_int8(4),
    "int4": QConfig.int4_weight_only(4),
    "fp8": QConfig.fp8(),
}
OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"num_layers": 3, "bias": False},
    {"bidirectional": True, "bias": False, "batch_first": True},
]
NETWORKS = [(cls, o) for cls in (nn.LSTM, nn.GRU, nn.RNN) for o in OPTIONS] + [
    (nn.LSTM, {"proj_size": 3}),
    (nn.LSTM, {"proj_size": 3, "num_layers": 2, "bidirectional": True, "bias": False}),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
]
# oneDNN has no projections, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def tensors(result):
    leaves = torch.utils._pytree.tree_leaves(result)
    return [t for leaf in leaves for t in (leaf if isinstance(leaf, PackedSequence) else [leaf]) if t is not None]


def assert_close(result, expected):
    result, expected = tensors(result), tensors(expected)
    assert len(result) == len(expected)
    for a, b in zip(result, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def assert_equal(result, expected):
    assert all(torch.equal(a, b) for a, b in zip(tensors(result), tensors(expected), strict=True))


def network(cls, options):
    torch.manual_seed(0)
    return cls(5, 7, **options)


def first_state(module, batch):
    layers = module.num_layers * (2 if module.bidirectional else 1)
    shape = [layers, batch] if batch else [layers]
    h = torch.randn(*shape, module.proj_size or 7)
    return (h, torch.randn(*shape, 7)) if isinstance(module, nn.LSTM) else h


@pytest.mark.parametrize("cls, options", NETWORKS)
def test_the_split_form_is_torchs(cls, options):
    module = network(cls, options)
    split = SPLIT[cls].split(module)
    assert {id(p) for p in split.parameters()} == {id(p) for p in module.parameters()}
    x = torch.randn(3, 4, 5)
    batch = 3 if options.get("batch_first") else 4
    for hx in (None, first_state(module, batch)):
        assert_close(split(x, hx), module(x, hx))
    for hx in (None, first_state(module, 0)):
        assert_close(split(x[0], hx), module(x[0], hx))
    scripted = torch.jit.script(split)
    assert_equal(scripted(x), split(x))


@pytest.mark.parametrize("cls, options", NETWORKS)
def test_gradients_are_torchs(cls, options):
    module = network(cls, options)
    twin = copy.deepcopy(module)
    parameters = list(twin.parameters())
    prepared = torchqat.prepare_qat(nn.Sequential(twin), QConfig.int8(), inplace=True)
    torchqat.set_fake_quant(prepared, False)
    x = torch.randn(3, 4, 5)
    tensors(module(x))[0].square().sum().backward()
    tensors(prepared(x))[0].square().sum().backward()
    for mine, other in zip(parameters, module.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("cls, options", NETWORKS)
def test_packed_sequences(cls, options, ordered):
    module = network(cls, options)
    first = bool(options.get("batch_first"))
    x = torch.randn(3, 4, 5) if first else torch.randn(4, 3, 5)
    packed = pack_padded_sequence(x, [4, 2, 1] if ordered else [2, 4, 1], first, ordered)
    split = SPLIT[cls].split(module)
    for hx in (None, first_state(module, 3)):
        assert_close(split(packed, hx), module(packed, hx))
    prepared = torchqat.prepare_qat(nn.ModuleList([module]))
    prepared[0](packed)
    prepared.eval()
    converted = torchqat.convert(prepared)
    assert_equal(converted[0](packed), prepared[0](packed))
    # A sequence's result does not depend on those that it is packed with.
    alone = converted[0](x[:1, :2] if first else x[:2, :1]) if not ordered else None
    if alone is not None:
        together = pad_packed_sequence(converted[0](packed)[0], first)[0]
        assert torch.equal(alone[0], together[:1, :2] if first else together[:2, :1])


class Tagger(nn.Module):
    def __init__(self, cls=nn.LSTM, **options):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 5)
        self.rnn = cls(5, 7, batch_first=True, dropout=0.1 if options.get("num_layers", 1) > 1 else 0.0, **options)
        self.head = nn.Linear(14 if options.get("bidirectional") else 7, 3)

    def forward(self, tokens):
        self.rnn.flatten_parameters()
        return self.head(self.rnn(self.embedding(tokens))[0])


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("cls, options", [(nn.LSTM, {"bidirectional": True, "num_layers": 2}), (nn.GRU, {}), (nn.RNN, {})])
def test_training_conversion_and_files(cls, options, config, tmp_path):
    model = Tagger(cls, **options)
    tokens = torch.randint(0, 11, (4, 6))
    prepared = torchqat.prepare_qat(model, CONFIGS[config], example_inputs=tokens)
    optimizer = torch.optim.Adam(prepared.parameters(), 0.02)
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(prepared(tokens).flatten(0, 1), tokens.flatten() % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in prepared.named_parameters())
    prepared.eval()
    expected = prepared(tokens).detach()
    converted = torchqat.convert(prepared, example_inputs=tokens)
    if CONFIGS[config].integer:
        assert torch.equal(converted(tokens), expected)
        assert torchqat.verify(prepared, converted, [tokens]).equal
    torch.testing.assert_close(converted(tokens), expected)
    kinds = {type(layer).__module__.split(".")[2] for cell in converted.rnn.cells for layer in (cell.ih, cell.hh)}
    assert kinds == {"quantized"} and not [n for n, _ in converted.named_parameters() if n.startswith("rnn")]
    torchqat.save(converted, tmp_path / "m")
    loaded = torchqat.load(tmp_path / "m", model)
    assert torch.equal(loaded(tokens), converted(tokens)) and type(model.rnn) is cls
    x = converted.embedding(tokens)
    for eager in (converted.rnn, prepared.rnn):
        torch.jit.save(torch.jit.freeze(torch.jit.script(eager)), tmp_path / "m.pt")
        assert_equal(torch.jit.load(tmp_path / "m.pt")(x), eager(x))
    assert torch.equal(copy.deepcopy(converted)(tokens), converted(tokens))
    again = torchqat.prepare_qat(model, CONFIGS[config], example_inputs=tokens)
    again.load_state_dict(prepared.state_dict())
    assert torch.equal(again.eval()(tokens), expected)


@pytest.mark.parametrize("cls", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(cls, bias, tmp_path):
    torch.manual_seed(0)
    cell = cls(5, 7, bias=bias)
    split = SPLIT[cls].split(cell)
    x, h = torch.randn(3, 5), torch.randn(3, 7)
    hx = (h, torch.randn(3, 7)) if cls is nn.LSTMCell else h
    assert_close(split(x, hx), cell(x, hx))
    assert_close(split(x), cell(x))
    assert_close(split(x[0]), cell(x[0]))
    weights = {id(cell.weight_ih), id(cell.weight_hh)}
    prepared = torchqat.prepare_qat(nn.ModuleList([cell]), inplace=True)
    assert weights < {id(p) for p in prepared.parameters()} or not bias
    result = None
    for _ in range(3):
        result = prepared[0](x, result)
    tensors(result)[0].sum().backward()
    prepared.eval()
    converted = torchqat.convert(prepared)
    assert_equal(converted[0](x, hx), prepared[0](x, hx))
    assert_equal(torch.jit.script(converted[0])(x, hx), prepared[0](x, hx))
    torchqat.save(converted, tmp_path / "m")
    assert_equal(torchqat.load(tmp_path / "m", nn.ModuleList([cls(5, 7, bias=bias)]))[0](x, hx), converted[0](x, hx))
    with pytest.raises(ValueError, match=r"Cell: input must have 1 or 2 dimensions, the last 5, got \[3, 4\]"):
        prepared[0](x[:, :4])
    with pytest.raises(ValueError, match=r"Cell: hx must have shape \[3, 7\], got \[2, 7\]"):
        prepared[0](x, (h[:2], h[:2]) if cls is nn.LSTMCell else h[:2])


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRUCell])
def test_a_float_checkpoint_can_be_loaded(cls):
    module, other = cls(5, 7), cls(5, 7)
    prepared = torchqat.prepare_qat(nn.ModuleList([module]), QConfig.int8_dynamic())
    prepared.load_state_dict(nn.ModuleList([other]).state_dict())
    expected = torchqat.prepare_qat(nn.ModuleList([other]), QConfig.int8_dynamic())
    x = torch.randn(3, 5)
    assert_equal(prepared[0](x), expected[0](x))


def test_weights_are_quantised_once_for_all_steps(monkeypatch):
    prepared = torchqat.prepare_qat(nn.ModuleList([nn.LSTM(5, 7)]))
    quantizer, calls = prepared[0].cells[0].hh.weight_fake_quant, []
    original = type(quantizer)._from_data
    monkeypatch.setattr(type(quantizer), "_from_data", lambda self, x: calls.append(self) or original(self, x))
    prepared[0](torch.randn(9, 2, 5))[0].sum().backward()
    assert calls.count(quantizer) == 1 and quantizer.reused is None
    with torch.no_grad():
        prepared[0].cells[0].hh.weight.mul_(2)
    prepared.eval()
    assert_equal(torchqat.convert(prepared)[0](torch.ones(4, 2, 5)), prepared[0](torch.ones(4, 2, 5)))
    with pytest.raises(ValueError, match="hx must have shape"):
        prepared[0](torch.randn(9, 2, 5), (torch.zeros(1, 3, 7), torch.zeros(1, 3, 7)))
    assert quantizer.reused is None


def test_compiles_and_exports(tmp_path):
    model = Tagger(nn.GRU)
    tokens = torch.randint(0, 11, (2, 3))
    prepared = torchqat.prepare_qat(model)
    compiled = torch.compile(prepared, backend="aot_eager", fullgraph=True)
    compiled(tokens).sum().backward()
    prepared.eval()
    converted = torchqat.convert(prepared)
    expected = prepared(tokens).detach()
    assert torch.equal(torch.compile(converted, backend="aot_eager", fullgraph=True)(tokens), expected)
    assert torch.equal(torch.export.export(converted, (tokens,)).module()(tokens), expected)
    onnxruntime = pytest.importorskip("onnxruntime")
    torchqat.export_onnx(converted, tokens, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(os.fspath(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    result = session.run(None, {session.get_inputs()[0].name: tokens.numpy()})[0]
    np.testing.assert_allclose(result, expected.numpy(), atol=0.05)


def test_what_stays_float_and_what_overrides_name():
    normed = nn.utils.parametrizations.weight_norm(nn.LSTM(5, 7), "weight_hh_l0")
    model = nn.ModuleDict({"normed": normed, "rnn": nn.LSTM(5, 7), "head": nn.Linear(7, 2)})
    prepared = torchqat.prepare_qat(model)
    rows = {row.name: row for row in torchqat.coverage(prepared).rows}
    assert prepared["normed"].hidden_size == 7 and not any(row.quantized for n, row in rows.items() if n.startswith("normed"))
    assert rows["rnn.cells.0.ih"].quantized and rows["rnn.cells.0.hh"].quantized
    assert type(torchqat.prepare_qat(model, overrides={nn.LSTM: None})["rnn"]) is nn.LSTM
    with pytest.raises(ValueError, match="'rnn.cells.0.ih' is part of LSTM 'rnn'; name that"):
        torchqat.prepare_qat(model, overrides={"rnn.cells.0.ih": None})


def test_bad_inputs_are_named():
    rnn = torchqat.prepare_qat(nn.ModuleList([nn.GRU(5, 7)]), QConfig.int8_dynamic())[0]
    with pytest.raises(ValueError, match=r"GRU: input must have 2 or 3 dimensions, the last 5, got \[2, 3, 4\]"):
        rnn(torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match=r"GRU: input must have at least one step, got \[0, 3, 5\]"):
        rnn(torch.randn(0, 3, 5))
    with pytest.raises(ValueError, match=r"GRU: hx must have shape \[1, 3, 7\], got \[1, 2, 7\]"):
        rnn(torch.randn(2, 3, 5), torch.randn(1, 2, 7))
