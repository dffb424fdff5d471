"""Gradients of 1x1 training convolutions, which the CPU takes through a linear layer's products where channels are many or pixels few."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_qat_conv_int8 import ISAS, Layer, check_gradients, ops

LAYERS = {
    "many channels": dict(c=128, o=24),
    "no whole block": dict(c=133, o=50),
    "bits in whole bytes": dict(c=136, o=33),
    "few pixels": dict(c=17, o=40, size=(3, 5)),
    "no whole bytes, many samples": dict(c=9, o=20, n=5, size=(2, 3)),
    "one pixel": dict(c=70, o=30, n=6, size=(1, 1)),
    "one pixel, contiguous": dict(c=70, o=30, n=6, size=(1, 1), channels_last=False),
    "one output channel": dict(c=192, o=1),
    "one input channel": dict(c=1, o=9, size=(4, 4)),
    "signed grid": dict(c=140, o=16, grid=(-128, 127)),
    "wide": dict(c=320, o=260, n=3, size=(14, 13)),
    "1d": dict(c=130, o=20, kernel=(1,), size=(31,), channels_last=False),
    "3d": dict(c=130, o=20, kernel=(1, 1, 1), size=(3, 4, 5)),
    "samples' scales": dict(c=130, o=20, samples=True),
    "one weight scale": dict(c=130, o=20, per_tensor=True, bias=False),
}


def layer_of(**options):
    return Layer(**{"kernel": (1, 1), "padding": 0, "channels_last": True, **options})


@pytest.fixture(params=ISAS)
def isa(request):
    before = ops._cpu_isa()
    ops._set_cpu_isa(request.param)
    yield request.param
    ops._set_cpu_isa(before)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_match_float64(name, isa):
    check_gradients(layer_of(**LAYERS[name]), "int16")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 140), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_any_size(channels, outputs, samples, height, width, channels_last):
    options = dict(c=channels, o=outputs, n=samples, size=(height, width), channels_last=channels_last)
    check_gradients(layer_of(seed=channels * 31 + outputs, **options), "int16")


def gradients(layer, upstream):
    for leaf in (layer.x, layer.w, layer.bias):
        leaf.grad = None
    layer.run("int16").backward(upstream)
    return [leaf.grad.clone() for leaf in (layer.x, layer.w, layer.bias)]


@pytest.mark.parametrize("name", ["wide", "one pixel", "no whole block"])
def test_threads_and_vector_paths_do_not_change_bits(name):
    layer = layer_of(**LAYERS[name])
    upstream = torch.randn(layer.run("int16").shape, generator=torch.Generator().manual_seed(1))
    upstream = upstream.contiguous(memory_format=torch.channels_last)
    threads, before = torch.get_num_threads(), ops._cpu_isa()
    found = []
    try:
        for isa in ISAS:
            for count in (1, 2, 3):
                ops._set_cpu_isa(isa)
                torch.set_num_threads(count)
                found.append(gradients(layer, upstream))
    finally:
        torch.set_num_threads(threads)
        ops._set_cpu_isa(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True), (True, False, True)])
def test_what_is_not_wanted_is_left_out(wanted):
    layer = layer_of(**LAYERS["many channels"])
    upstream = torch.ones_like(layer.run("int16"))
    everything = gradients(layer, upstream)
    layer.x.grad = layer.w.grad = layer.bias.grad = None
    for leaf, is_wanted in zip((layer.x, layer.w, layer.bias), wanted):
        leaf.requires_grad_(is_wanted)
    layer.run("int16").backward(upstream)
    for leaf, expected, is_wanted in zip((layer.x, layer.w, layer.bias), everything, wanted):
        assert torch.equal(leaf.grad, expected) if is_wanted else leaf.grad is None


def test_a_nan_in_the_gradient_reaches_what_it_touches():
    layer = layer_of(**LAYERS["one pixel"])
    upstream = torch.ones_like(layer.run("int16"))
    upstream[2, 3] = float("nan")
    dx, dw, db = gradients(layer, upstream)
    assert dx[2].isnan().any() and not dx[0].isnan().any()
    assert dw[3].isnan().any() and not dw[0].isnan().any() and db[3].isnan() and not db[0].isnan()
