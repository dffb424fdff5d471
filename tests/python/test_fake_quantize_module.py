"""FakeQuantize, the module: against the formula and torch's own op, its modes and its errors."""

import copy
import pickle

import pytest
import torch

from torchqat import FakeQuantize, QuantSpec


def formula(x, scale, zero_point, low, high):
    return (torch.clamp(torch.round(x / scale) + zero_point, low, high) - zero_point) * scale


def test_the_textbook_module_in_a_forward_pass():
    x = torch.randn(4, 7, requires_grad=True)
    y = FakeQuantize(bits=8)(x)
    scale = (x.max() - x.min()) / 255
    assert (y - x).abs().max() <= scale / 2 * 1.0001
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
@pytest.mark.parametrize("symmetric", [False, True])
def test_against_the_formula(bits, symmetric):
    x = torch.randn(65) * 3
    module = FakeQuantize(bits, symmetric=symmetric)
    scale, zero_point = module.qparams(x)
    assert torch.equal(module(x), formula(x, scale, zero_point, module.quant_min, module.quant_max))
    assert (module.quant_min < 0) == symmetric and module.quant_max - module.quant_min == 2**bits - 1


@pytest.mark.parametrize(
    "granularity, shape, blocks",
    [
        ("tensor", (3, 4, 5), []),
        ("token", (3, 4, 5), [1, 1, -1]),
        ("channel", (3, 4, 5), [1, -1, -1]),
        ("group:3", (3, 7), [1, 3]),
        ("block:2x3", (3, 7), [2, 3]),
    ],
)
def test_granularities(granularity, shape, blocks):
    x = torch.randn(shape)
    module = FakeQuantize(4, symmetric=True, granularity=granularity)
    scale, _ = torch.ops.torchqat.choose_qparams(x, blocks, -8, 7, True)
    assert torch.equal(module(x), torch.ops.torchqat.fake_quantize(x, scale, None, blocks, -8, 7))


def test_a_static_range_is_used_in_eval():
    module = FakeQuantize(observer="minmax")
    module(torch.tensor([0.0, 2.55]))
    module.eval()
    assert module(torch.tensor([5.0])).item() == pytest.approx(2.55)


def test_no_data_in_eval_is_an_error():
    module = FakeQuantize(observer="ema").eval()
    with pytest.raises(RuntimeError, match="no data has been observed"):
        module(torch.ones(3))


def test_switched_off_it_watches_but_does_not_round():
    module = FakeQuantize(2, observer="minmax")
    module.enabled = False
    x = torch.tensor([0.1234, 0.7])
    assert torch.equal(module(x), x)
    assert module.observer.max_val.item() == pytest.approx(0.7)


def test_copies_and_state():
    module = FakeQuantize(observer="ema")
    module(torch.randn(9))
    module.eval()
    x = torch.randn(9)
    fresh = FakeQuantize(observer="ema").eval()
    fresh.load_state_dict(module.state_dict())
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh):
        assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    x = torch.randn(33).to(dtype)
    assert FakeQuantize(8)(x).dtype == dtype


@pytest.mark.parametrize("scale_dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e6, 1e37])
def test_scales_are_rounded_to_what_is_stored(scale_dtype, size):
    spec = QuantSpec("int4", "channel", scale_dtype=scale_dtype)
    weight = torch.randn(3, 8) * size
    module = FakeQuantize.for_weight(spec, weight)
    scale, _ = module.qparams(weight)
    assert torch.equal(scale, scale.to(getattr(torch, scale_dtype)).float())
    assert (scale > 0).all() and scale.isfinite().all()


def test_spec_comes_back():
    spec = QuantSpec("uint8", symmetric=False, observer="ema", averaging_constant=0.2, quant_max=100)
    assert FakeQuantize.from_spec(spec).spec() == spec


@pytest.mark.parametrize(
    "error, words, arguments",
    [
        (ValueError, "bits must be from 2 to 16, got 0", {"bits": 0}),
        (ValueError, "bits must be from 2 to 16, got 1;", {"bits": 1}),
        (ValueError, "got 17", {"bits": 17}),
        (TypeError, "bits must be an int, got float", {"bits": 8.0}),
        (TypeError, "dtype must be a string", {"dtype": torch.int8}),
        (ValueError, "needs observer='dynamic'", {"granularity": "token", "observer": "ema"}),
        (ValueError, "QuantSpec: observer", {"observer": "best"}),
    ],
)
def test_errors(error, words, arguments):
    with pytest.raises(error, match=words):
        FakeQuantize(**arguments)
