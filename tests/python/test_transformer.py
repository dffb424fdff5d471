"""Transformer encoders: as torch's layer by layer, and what their fused paths stood in the way of (scripts, traces)."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchqat
from torchqat import QConfig
from torchqat.nn.quantized import Linear
from torchqat.nn.transformer import TransformerEncoder, TransformerEncoderLayer, leave_fused_paths


def encoder(**options):
    torch.manual_seed(0)
    options = {"dropout": 0.0, "batch_first": True, **options}
    norm = nn.LayerNorm(16) if options.get("norm_first") else None
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, **options), 2, norm, enable_nested_tensor=False)


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu", "batch_first": False}, {"bias": False}])
@pytest.mark.parametrize("kind", ["none", "causal", "padding", "both"])
def test_layer_by_layer_as_torch(options, kind):
    model = encoder(**options)
    x = torch.randn(5, 5, 16)
    arguments = {}
    if kind in ("causal", "both"):
        arguments["mask"] = nn.Transformer.generate_square_subsequent_mask(5)
    if kind in ("padding", "both"):
        arguments["src_key_padding_mask"] = torch.arange(5).expand(5, 5) > 3
    expected = model(x, **arguments)
    leave_fused_paths(model, (nn.Linear,))
    assert type(model) is TransformerEncoder and all(type(layer) is TransformerEncoderLayer for layer in model.layers)
    for mode in (True, False):
        assert torch.equal(model.train(mode)(x, **arguments), expected)
    if not options.get("norm_first"):
        assert torch.equal(model.layers[0](x, arguments.get("mask"), arguments.get("src_key_padding_mask")), model.layers[0](
            x, src_mask=arguments.get("mask"), src_key_padding_mask=arguments.get("src_key_padding_mask")
        ))  # fmt: skip


class Classifier(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


@pytest.mark.parametrize("config", [QConfig.int8(), QConfig.int8_dynamic()], ids=["int8", "int8_dynamic"])
@pytest.mark.parametrize("options", [{}, {"activation": "gelu", "norm_first": True}, {"activation": nn.ReLU()}])
def test_scripts_and_codes_flow(config, options, tmp_path):
    model = Classifier(encoder(**options))
    x = torch.randn(3, 5, 16)
    prepared = torchqat.prepare_qat(model, config, example_inputs=x)
    prepared(x).square().sum().backward()
    prepared.eval()
    converted = torchqat.convert(prepared, example_inputs=x)
    expected = prepared(x).detach()
    assert torch.equal(converted(x), expected)
    first = converted.encoder.layers[0].linear1
    assert type(first) is Linear
    if config == QConfig.int8() and options.get("activation") != "gelu":
        assert first.output_scale is not None
    for eager in (prepared, converted):
        torch.jit.save(torch.jit.freeze(torch.jit.script(eager)), tmp_path / "m.pt")
        assert torch.equal(torch.jit.load(tmp_path / "m.pt")(x), expected)
    torchqat.save(converted, tmp_path / "m")
    assert torch.equal(torchqat.load(tmp_path / "m", model)(x), expected)
    assert torch.equal(torch.export.export(converted, (x,)).module()(x), expected)
    assert isinstance(model.encoder.layers[0], nn.TransformerEncoderLayer) and type(model.encoder) is nn.TransformerEncoder


def test_a_layer_of_a_class_of_its_own_keeps_its_forward():
    class Own(nn.TransformerEncoderLayer):
        def forward(self, src, **masks):
            return super().forward(src, **masks) + 1.0

    model = nn.Sequential(Own(16, 4, 32, dropout=0.0, batch_first=True))
    prepared = torchqat.prepare_qat(model, QConfig.int8_dynamic()).eval()
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        assert type(prepared[0]) is Own and torch.equal(torchqat.convert(prepared)(x), prepared(x))
        torch.testing.assert_close(F.layer_norm(prepared(x) - 1.0, [16]), prepared(x) - 1.0, atol=1e-3, rtol=1e-3)
