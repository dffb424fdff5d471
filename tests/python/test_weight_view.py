"""`layer.weight` of deployed layers: dtype, device and shape as the float weight's at no cost, values where they are used."""

import copy
import warnings

import pytest
import torch
import torchqat
from torch import nn
from torchqat import QConfig
from torchqat.convert import dequantized_weight
from torchqat.nn.quantized.weight_view import WeightView

SCHEMES = {
    "int8": QConfig.int8,
    "int8_dynamic": QConfig.int8_dynamic,
    "int4_int8": QConfig.int4_int8,
    "int4_weight_only": QConfig.int4_weight_only,
    "mxfp8": QConfig.mxfp8,
    "fp8": QConfig.fp8,
}
LAYERS = {
    "linear": lambda: (nn.Linear(64, 32), torch.randn(4, 64)),
    "conv": lambda: (nn.Conv2d(8, 16, 3, groups=2), torch.randn(2, 8, 6, 6)),
    "transposed": lambda: (nn.ConvTranspose2d(8, 16, 2), torch.randn(2, 8, 6, 6)),
    "embedding": lambda: (nn.Embedding(40, 64), torch.arange(5)),
}


def converted_layer(scheme, kind, dtype=torch.float32):
    torch.manual_seed(0)
    layer, x = LAYERS[kind]()
    layer = layer.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    prepared = torchqat.prepare_qat(nn.Sequential(layer), SCHEMES[scheme]())
    prepared(x)
    prepared.eval()
    rounded = prepared[0].weight_fake_quant(prepared[0].effective_weight()[0].float())
    return layer, torchqat.convert(prepared)[0], rounded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_looks_like_the_float_weight(scheme, kind, dtype):
    if kind == "embedding" and scheme in ("mxfp8", "fp8"):
        pytest.skip("embeddings stay in float on float grids")
    layer, deployed, rounded = converted_layer(scheme, kind, dtype)
    view = deployed.weight
    assert (view.shape, view.dtype, view.device) == (layer.weight.shape, dtype, layer.weight.device)
    assert isinstance(view, torch.Tensor) and not view.requires_grad
    # What was trained, in the layer's dtype.
    assert torch.equal(view.clone(), rounded.to(dtype))
    if scheme not in ("mxfp8", "fp8"):
        assert torch.equal(view.clone(), dequantized_weight(deployed).to(dtype))


def test_casting_to_its_dtype_dequantises_nothing(monkeypatch):
    _, deployed, _ = converted_layer("int8_dynamic", "linear", torch.bfloat16)
    monkeypatch.setattr(type(deployed), "weight_values", lambda self: pytest.fail("dequantised"))
    x = torch.randn(2, 64)
    assert x.to(deployed.weight.dtype).to(deployed.weight.device).dtype == torch.bfloat16
    assert deployed.weight.numel() == 2048 and deployed.weight.is_floating_point()
    assert deployed.weight.size(1) == 64 and deployed.weight.dim() == 2


def test_it_follows_the_model_and_is_in_no_file():
    _, deployed, _ = converted_layer("int8", "linear")
    assert deployed.weight.dtype == torch.float32
    assert not any("weight_like" in name or name == "weight" for name in deployed.state_dict())
    assert not list(deployed.parameters())
    assert copy.deepcopy(deployed).to(torch.bfloat16).weight.dtype == torch.bfloat16


def test_a_saved_layer_keeps_its_dtype(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32)).to(torch.bfloat16)
    converted = torchqat.convert(torchqat.prepare_qat(model, QConfig.int8_dynamic()).eval())
    torchqat.save(converted, tmp_path / "model.safetensors")
    loaded = torchqat.load(tmp_path / "model.safetensors", nn.Sequential(nn.Linear(64, 32)).to(torch.bfloat16))
    assert loaded[0].weight.dtype == torch.bfloat16
    assert torch.equal(loaded[0].weight.clone(), converted[0].weight.clone())


class ReadsItsWeight(nn.Module):
    """Computes with a layer's weight beside the layer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x) + nn.functional.linear(x, self.fc.weight)


class CastsToItsWeight(nn.Module):
    """As vision transformers cast images."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x.to(dtype=self.fc.weight.dtype, device=self.fc.weight.device))


def test_a_forward_that_computes_with_it_is_told_once_and_gets_the_values():
    converted = torchqat.convert(torchqat.prepare_qat(ReadsItsWeight(), QConfig.int8_dynamic()).eval())
    x = torch.randn(3, 8)
    with pytest.warns(UserWarning, match=r"converted Linear \[8, 8\], torch.float32 as a float tensor.*overrides"):
        y = converted(x)
    assert torch.equal(y, converted.fc(x) + nn.functional.linear(x, dequantized_weight(converted.fc)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted(x)


def test_casting_works_in_eager_compiled_and_exported_models():
    x = torch.randn(3, 8)
    prepared = torchqat.prepare_qat(CastsToItsWeight(), QConfig.int8_dynamic()).eval()
    converted = torchqat.convert(prepared)
    expected = prepared(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert torch.equal(converted(x.double()), expected)
    assert torch.equal(torch.compile(converted, fullgraph=True, backend="aot_eager")(x), expected)
    reads = torchqat.convert(torchqat.prepare_qat(ReadsItsWeight(), QConfig.int4_weight_only()).eval())
    compiled = torch.compile(reads, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(compiled, reads.fc(x) + nn.functional.linear(x, dequantized_weight(reads.fc)))
    assert torch.equal(torch.export.export(converted, (x,)).module()(x), expected)
    assert torch.equal(torch.jit.trace(converted, x)(x), expected)


def test_layers_still_script():
    _, deployed, _ = converted_layer("int8", "linear")
    x = torch.randn(3, 64)
    assert torch.equal(torch.jit.script(deployed)(x), deployed(x))


def test_looking_at_it_is_silent():
    _, deployed, rounded = converted_layer("int8", "linear")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(deployed.weight.clone()) is torch.Tensor
        assert (deployed.weight.numpy() == rounded.detach().numpy()).all()
        assert deployed.weight.detach().cpu().tolist() == rounded.tolist()
        assert repr(deployed.weight) == "weight of a converted Linear [32, 64], torch.float32"


def test_it_cannot_be_changed():
    _, deployed, rounded = converted_layer("int8", "linear")
    for change in (nn.init.zeros_, lambda w: w.data.zero_(), lambda w: w.copy_(torch.zeros(32, 64)), lambda w: w.__setitem__(0, 0.0)):
        with pytest.raises(RuntimeError, match=r"weight of a converted Linear \[32, 64\], torch.float32 cannot be changed"):
            change(deployed.weight)
    with pytest.raises(AttributeError):
        deployed.weight = torch.zeros(32, 64)
    with pytest.raises((AttributeError, KeyError)):
        deployed.weight = nn.Parameter(torch.zeros(32, 64))
    assert torch.equal(deployed.weight.clone(), rounded)


def test_it_is_a_view_and_no_copy():
    _, deployed, _ = converted_layer("int8", "conv")
    assert type(deployed.weight) is WeightView
    with pytest.warns(UserWarning, match="aten.add.Tensor"):
        assert type(deployed.weight + 0) is torch.Tensor
