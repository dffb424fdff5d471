"""Weights and activations on float grids: trained, converted, saved and loaded with the same values."""

import copy

import pytest
import torch
from models import conv_net, images, trained
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec
from torchqat.nn.quantized.float_grid import element_values, encode

CONFIGS = {
    "fp8": QConfig.fp8(),
    "mxfp8": QConfig.mxfp8(),
    "mxfp4": QConfig.mxfp4(),
    "nvfp4": QConfig.nvfp4(),
    "e5m2 per tensor, static input": QConfig(QuantSpec("e5m2"), QuantSpec("e4m3fn", observer="ema")),
    "e2m3 in groups": QConfig(QuantSpec("e2m3", "group:8"), QuantSpec("e2m3", "token", observer="dynamic")),
    "mxfp6, short blocks": QConfig(QuantSpec("mxfp6_e3m2", "group:5", scale_rounding="rceil")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_trained_converted_saved(name, tmp_path):
    prepared = trained(CONFIGS[name]).eval()
    converted = torchqat.convert(prepared)
    expected = prepared(images(seed=9))
    torch.testing.assert_close(converted(images(seed=9)), expected)
    torchqat.save(converted, tmp_path / "model")
    loaded = torchqat.load(tmp_path / "model", conv_net())
    assert torch.equal(loaded(images()), converted(images()))
    scripted = torch.jit.script(copy.deepcopy(converted))
    assert torch.equal(scripted(images()), converted(images()))
    assert not list(converted.parameters())


@pytest.mark.parametrize("element, torch_dtype", [("e4m3fn", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
def test_element_values_against_torch(element, torch_dtype):
    expected = torch.arange(256, dtype=torch.uint8).view(torch_dtype).float()
    finite = expected.isfinite()
    assert torch.equal(element_values(element)[finite], expected[finite])


@pytest.mark.parametrize("element", ["e4m3fn", "e5m2", "e3m2", "e2m3", "e2m1"])
def test_codes_round_trip(element):
    values = element_values(element)
    assert torch.equal(values[encode(values, element).long()], values)


def test_four_bits_in_the_file(tmp_path):
    model = nn.Sequential(nn.Linear(256, 256))
    torchqat.save(torchqat.convert(torchqat.prepare_qat(model, QConfig(QuantSpec("mxfp4")))), tmp_path / "model")
    assert (tmp_path / "model").stat().st_size < 0.17 * 4 * 256 * 256


def test_errors():
    with pytest.raises(
        ValueError, match="module '0': nn.qat.Embedding: weight dtype must be an integer format, got mxfp4"
    ):
        torchqat.prepare_qat(nn.Sequential(nn.Embedding(4, 4)), overrides={"0": QConfig.mxfp4()})
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(4, 4)), QConfig.mxfp4())
    with pytest.raises(ValueError, match="on the float grid mxfp4"):
        torchqat.integer_weights(prepared[0])
    with torch.no_grad():
        prepared[0].weight[0, 0] = float("inf")
    with pytest.raises(RuntimeError, match="no exact form in mxfp4; is it finite"):
        torchqat.convert(prepared)


@pytest.mark.parametrize("element", ["e4m3fn", "e5m2", "e3m2", "e2m3", "e2m1"])
def test_a_value_just_above_the_largest_has_its_code(element):
    # The largest weight of a channel, divided by its scale, may be rounded up; behind its code lies that of a NaN or infinity.
    largest = element_values(element).max()
    above = torch.nextafter(largest, torch.tensor(float("inf")))
    assert torch.equal(encode(torch.stack([above, -above]), element), encode(torch.stack([largest, -largest]), element))


def test_converted_fp8_layers_give_no_nan():
    for seed in range(20):
        torch.manual_seed(seed)
        prepared = torchqat.prepare_qat(torch.nn.Sequential(torch.nn.Linear(13, 50)), torchqat.QConfig.fp8())
        x = torch.randn(4, 13)
        prepared(x)
        prepared.eval()
        torch.testing.assert_close(torchqat.convert(prepared)(x), prepared(x))
