"""MultiheadAttention: the split form against torch's own, quantised training, conversion, files and transformer layers."""

import copy

import pytest
import torch
from torch import nn

import torchqat
from torchqat import QConfig
from torchqat.nn.attention import MultiheadAttention

CONFIGS = [QConfig.int8(), QConfig.int8_dynamic(), QConfig.int4_int8(8), QConfig.int4_weight_only(8)]


def attention(**options):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(16, 4, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.5, 0.5)
    return module


def masks(kind, batch, length, keys):
    padding = torch.zeros(batch, keys, dtype=torch.bool)
    padding[:, -1] = True
    return {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "float": {"attn_mask": torch.randn(length, keys)},
        "per head": {"attn_mask": torch.randn(batch * 4, length, keys), "key_padding_mask": padding},
        "causal": {"attn_mask": torch.ones(length, keys, dtype=torch.bool).triu(1), "is_causal": True},
    }[kind]


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("kind", ["none", "padding", "float", "per head", "causal"])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {},
        {"bias": False},
        {"add_bias_kv": True, "add_zero_attn": True},
        {"kdim": 6, "vdim": 10, "batch_first": True},
    ],
)
def test_the_split_form_is_torchs(options, kind, need_weights):
    module = attention(**options)
    query = torch.randn(3, 5, 16)
    same = "kdim" not in options
    key, value = (query, query) if same else (torch.randn(3, 5, 6), torch.randn(3, 5, 10))
    if not options.get("batch_first"):
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        query = key = value = query if same else query
    arguments = {**masks(kind, 3, 5, 5), "need_weights": need_weights}
    # The mask alone says it all: given is_causal too, torch may use it in place of the mask, and then hides added keys.
    expected, weights = module(query, key, value, **{**arguments, "is_causal": False})
    result, mine = MultiheadAttention.split(module)(query, key, value, **arguments)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert (mine is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(mine, weights, rtol=1e-4, atol=1e-5)


def test_cross_attention_unbatched_and_weights_of_each_head():
    module = attention()
    split = MultiheadAttention.split(module)
    query, memory = torch.randn(4, 16), torch.randn(7, 16)
    padding = torch.arange(7) > 4
    for average in (True, False):
        arguments = {"key_padding_mask": padding, "average_attn_weights": average}
        for a, b in zip(module(query, memory, memory, **arguments), split(query, memory, memory, **arguments)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    other = torch.randn(7, 16)
    torch.testing.assert_close(split(query, memory, other)[0], module(query, memory, other)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="attn_mask must be given with is_causal"):
        split(query, query, query, is_causal=True)


class Net(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True, **options)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("config", CONFIGS, ids=["int8", "int8_dynamic", "int4_int8", "int4"])
def test_training_conversion_and_files(config, tmp_path):
    model = Net()
    prepared = torchqat.prepare_qat(model, config)
    x = torch.randn(2, 6, 16)
    prepared(x).sum().backward()
    assert prepared.attention.in_proj.weight.grad.abs().sum() > 0
    assert {"attention.in_proj", "attention.out_proj", "head"} == {r.name for r in torchqat.coverage(prepared).rows if r.quantized}
    prepared.eval()
    converted = torchqat.convert(prepared)
    expected = prepared(x)
    if config.integer:
        assert torch.equal(converted(x), expected)
    torch.testing.assert_close(converted(x), expected)
    torchqat.save(converted, tmp_path / "model")
    loaded = torchqat.load(tmp_path / "model", model)
    assert torch.equal(loaded(x), converted(x))
    assert type(model.attention) is nn.MultiheadAttention and model.attention.in_proj_weight is not None
    scripted = torch.jit.script(converted)
    assert torch.equal(scripted(x), converted(x))
    assert torch.equal(copy.deepcopy(converted)(x), converted(x))


def test_parameters_stay_the_same_objects():
    model = Net()
    weight, bias, out = model.attention.in_proj_weight, model.attention.in_proj_bias, model.attention.out_proj.weight
    prepared = torchqat.prepare_qat(model, inplace=True)
    assert prepared.attention.in_proj.weight is weight and prepared.attention.in_proj.bias is bias
    assert prepared.attention.out_proj.weight is out
    assert isinstance(prepared.attention, nn.MultiheadAttention)


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 6}])
def test_a_float_checkpoint_can_be_loaded(options):
    module = attention(**options)
    other = attention(**options)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    prepared = torchqat.prepare_qat(module, QConfig.int8_dynamic())
    prepared.load_state_dict(other.state_dict())
    again = torchqat.prepare_qat(module, QConfig.int8_dynamic())
    again.load_state_dict(prepared.state_dict())
    x = torch.randn(5, 2, 16)
    memory = x if not options else torch.randn(5, 2, 6)
    expected = torchqat.prepare_qat(other, QConfig.int8_dynamic())(x, memory, memory)[0]
    assert torch.equal(prepared(x, memory, memory)[0], expected) and torch.equal(again(x, memory, memory)[0], expected)


def test_overrides():
    model = Net()
    prepared = torchqat.prepare_qat(model, overrides={"attention": None})
    assert type(prepared.attention) is nn.MultiheadAttention
    prepared = torchqat.prepare_qat(model, overrides={nn.MultiheadAttention: QConfig.int8_dynamic()})
    assert prepared.attention.out_proj.qconfig() == QConfig.int8_dynamic()
    with pytest.raises(ValueError, match="'attention.out_proj' is part of MultiheadAttention 'attention'; name that"):
        torchqat.prepare_qat(model, overrides={"attention.out_proj": None})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("grad", [True, False])
def test_transformer_encoders_call_every_layer(grad, tmp_path):
    # In eval mode without gradients torch would take a fused path around them, with a padding mask a nested one.
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    x, padding = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    prepared = torchqat.prepare_qat(encoder, QConfig.int8())
    prepared(x, src_key_padding_mask=padding)
    prepared.eval()
    converted = torchqat.convert(prepared)
    torchqat.save(converted, tmp_path / "model")
    loaded = torchqat.load(tmp_path / "model", encoder)
    with torch.set_grad_enabled(grad):
        for arguments in ({}, {"src_key_padding_mask": padding}):
            expected = prepared(x, **arguments)
            assert torch.equal(converted(x, **arguments), expected) and torch.equal(loaded(x, **arguments), expected)
            assert not torch.allclose(expected, encoder.eval()(x), atol=1e-6)
    assert torchqat.coverage(converted).share > 0.95


def test_compile_and_export():
    prepared = torchqat.prepare_qat(Net(), QConfig.int8_dynamic())
    x = torch.randn(2, 6, 16)
    compiled = torch.compile(prepared, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    prepared.eval()
    converted = torchqat.convert(prepared)
    exported = torch.export.export(converted, (x,))
    torch.testing.assert_close(exported.module()(x), converted(x))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.mlp(self.norm(x))


@pytest.mark.filterwarnings("error")
def test_codes_flow_in_a_model_that_has_attention(tmp_path):
    x = torch.randn(2, 6, 16)
    prepared = torchqat.prepare_qat(Block(), example_inputs=x)
    assert type(prepared.mlp[1]) is torchqat.nn.qat.Activation
    prepared(x).sum().backward()
    prepared.eval()
    converted = torchqat.convert(prepared, example_inputs=x)
    assert torch.equal(converted(x), prepared(x)) and converted.mlp[0].output_scale is not None
    names = {row.name for row in torchqat.coverage(prepared).rows}
    assert "add" in names and "(functions)" not in names
    torchqat.save(converted, tmp_path / "model")
    assert torch.equal(torchqat.load(tmp_path / "model", Block())(x), converted(x))
