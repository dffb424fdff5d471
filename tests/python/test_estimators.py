"""Learned scales: positive by construction, gradients as LSQ's rule says, and steps that lower the loss."""

import math

import pytest
import torch
from models import INTEGER, images, trained
from torch import nn

import torchqat
from torchqat import FakeQuantize, QConfig, QuantSpec


def test_a_learned_scale_starts_from_the_data_and_stays_positive():
    weight = torch.randn(5, 16)
    module = FakeQuantize.for_weight(QuantSpec("int4", "channel", estimator="lsq"), weight)
    start, _ = torch.ops.torchqat.choose_qparams(weight, [1, -1], -8, 7, True)
    assert torch.equal(module.qparams(weight)[0], start)
    with torch.no_grad():
        module.log_scale.sub_(200.0)
    scale = module.qparams(weight)[0]
    assert (scale > 0).all() and module(weight).isfinite().all()


def test_weight_decay_pulls_the_scale_to_its_start():
    weight = torch.randn(3, 8)
    module = FakeQuantize.for_weight(QuantSpec("int4", estimator="lsq"), weight)
    start = module.qparams(weight)[0].item()
    with torch.no_grad():
        module.log_scale.mul_(0.0)
    assert module.qparams(weight)[0].item() == start


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradient_is_lsqs(symmetric):
    spec = QuantSpec("int4", symmetric=symmetric, estimator="lsq" if symmetric else "lsq+")
    weight = torch.randn(6, 9, dtype=torch.float64) * 2
    module = FakeQuantize.for_weight(spec, weight)
    dy = torch.randn_like(weight)
    with torch.no_grad():
        module.log_scale.add_(-0.4)
    (module(weight) * dy).sum().backward()
    scale, zero = module.qparams(weight)
    scale, zero = scale.detach(), zero.detach().round()
    low, high = module.quant_min, module.quant_max
    level = torch.round(weight / scale) + zero
    inside = (level >= low) & (level <= high)
    clipped = level.clamp(low, high) - zero
    d_scale = (dy * torch.where(inside, clipped - weight / scale, clipped)).sum()
    factor = 1 / math.sqrt(weight.numel() * high)
    # As plain SGD would move the scale itself: its derivative times 1 / start^2.
    torch.testing.assert_close(module.log_scale.grad[0], d_scale * scale * factor / module.base_scale**2)
    if not symmetric:
        torch.testing.assert_close(module.zero_point.grad[0], -(dy * ~inside).sum() * scale * factor)


def test_an_activation_starts_at_the_first_training_batch():
    module = FakeQuantize(4, estimator="lsq+")
    with pytest.raises(RuntimeError, match="no data has been observed"):
        module.eval()(torch.ones(3))
    module.train()
    module(torch.empty(0, 3))
    assert not module.initialized
    x = torch.rand(64) * 3
    module(x)
    start = module.qparams(x)[0].item()
    module(x * 10)
    assert module.qparams(x)[0].item() == start > 0
    fresh = FakeQuantize(4, estimator="lsq+").eval()
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh(x), module(x))


@pytest.mark.parametrize("scheme", ["lsq", "lsq_per_tensor"])
def test_every_learned_scale_of_a_model_gets_a_gradient(scheme):
    prepared = trained(INTEGER[scheme], steps=1)
    prepared(images()).square().mean().backward()
    scales = {n: p for n, p in prepared.named_parameters() if "log_scale" in n or "zero_point" in n}
    assert all(p.grad is not None for p in scales.values())
    # Nothing clips at the range of the first batch, and only clipped values move a zero point.
    assert all(p.grad.abs().sum() > 0 for n, p in scales.items() if "log_scale" in n)


def test_learning_a_scale_lowers_the_error_at_two_bits():
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    module = FakeQuantize.for_weight(QuantSpec("int3", "channel", estimator="lsq"), weight)
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        error = (module(weight) - weight).square().mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert min(errors[-5:]) < 0.75 * errors[0]


def test_two_bit_weights_start_from_least_squares():
    weight = torch.randn(8, 256)
    by_mse = FakeQuantize.for_weight(QuantSpec("int2", "channel"), weight)
    by_range = torch.ops.torchqat.fake_quantize_dynamic(weight, [1, -1], -2, 1, True)
    assert (by_mse(weight) - weight).square().mean() < 0.6 * (by_range - weight).square().mean()


@pytest.mark.parametrize("level", ["ternary", "binary"])
@pytest.mark.parametrize("activation", [None, QuantSpec("uint8", symmetric=False, observer="ema")])
def test_ternary_and_binary_weights(level, activation):
    prepared = trained(QConfig(QuantSpec(level, "channel"), activation)).eval()
    converted = torchqat.convert(prepared)
    if activation is not None:
        assert torch.equal(prepared(images()), converted(images()))
    torch.testing.assert_close(prepared(images()), converted(images()))
    codes = torchqat.integer_weights(converted[0]).codes.unique().tolist()
    assert set(codes) <= {"ternary": {-1, 0, 1}, "binary": {-1, 1}}[level] and len(codes) > 1
    scale = torchqat.integer_weights(converted[8]).scale
    if level == "binary":
        torch.testing.assert_close(scale, prepared[8].weight.abs().mean(1, keepdim=True))


def test_log_scales_are_in_the_optimiser_and_the_state():
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(4, 4)), INTEGER["lsq"])
    assert {"0.weight_fake_quant.log_scale", "0.activation_fake_quant.zero_point"} <= set(
        dict(prepared.named_parameters())
    )


def test_stochastic_rounding_is_unbiased_in_training_and_nearest_in_eval():
    module = FakeQuantize(4, estimator="stochastic", symmetric=True, granularity="tensor")
    x = torch.tensor([0.3, 7.0]).repeat(20000, 1)
    y = module(x)
    assert y[:, 0].unique().tolist() == [0.0, 1.0] and y[:, 0].mean().item() == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(module(x), y)
    assert module.eval()(x)[0].tolist() == [0.0, 7.0]


def test_stochastic_schemes_train_and_ship():
    config = QConfig(
        QuantSpec("int4", "channel", estimator="stochastic"), QuantSpec("uint8", symmetric=False, observer="ema")
    )
    prepared = trained(config)
    x = images()
    assert not torch.equal(prepared(x), prepared(x))
    prepared.eval()
    assert torch.equal(prepared(x), torchqat.convert(prepared)(x))
