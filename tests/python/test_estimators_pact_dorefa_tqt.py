"""PACT, DoReFa and TQT in modules and layers: the papers' formulas in float64, training, and what is refused."""

import math

import pytest
import torch
from models import INTEGER, images, trained
from torch import nn

import torchqat
from torchqat import FakeQuantize, QConfig, QuantSpec

NEW = [name for name in INTEGER if "pact" in name or "tqt" in name or "dorefa" in name]


def test_tqt_is_the_papers_formula():
    torch.manual_seed(0)
    weight = torch.randn(6, 9, dtype=torch.float64) * 2
    module = FakeQuantize.for_weight(QuantSpec("int4", estimator="tqt"), weight)
    # s = 2^ceil(log2 t) / 2^(b - 1), starting from t = max|w|.
    log2_t = math.log2(weight.abs().max().item())
    assert module.qparams(weight)[0].item() == 2.0 ** (math.ceil(log2_t) - 3)
    with torch.no_grad():
        module.log_scale.sub_(1.3)
    s = 2.0 ** (math.ceil(log2_t - 1.3) - 3)
    dy = torch.randn_like(weight)
    y = module(weight.requires_grad_())
    (y * dy).sum().backward()
    level = torch.round(weight.detach() / s)
    torch.testing.assert_close(y.detach(), level.clamp(-8, 7) * s, rtol=0, atol=0)
    inside = (level >= -8) & (level <= 7)
    slope = torch.where(inside, level - weight.detach() / s, level.clamp(-8, 7))
    torch.testing.assert_close(module.log_scale.grad[0], (dy * s * math.log(2) * slope).sum())
    assert torch.equal(weight.grad, torch.where(inside, dy, 0)) and not inside.all()


def test_tqt_starts_at_the_power_of_two_that_holds_the_range():
    weight = torch.tensor([[-1.0, 0.3, 0.2]])
    assert FakeQuantize.for_weight(QuantSpec("int8", estimator="tqt"), weight).qparams(weight)[0].item() == 1 / 128
    spec = QuantSpec("int2", "channel", estimator="tqt")
    wide = torch.randn(4, 512) * torch.tensor([[1.0], [0.1], [3.0], [10.0]])
    module = FakeQuantize.for_weight(spec, wide)
    best, _ = torch.ops.torchqat.choose_qparams_mse(wide, [1, -1], -2, 1, True)
    ratio = module.qparams(wide)[0] / best
    assert ((ratio > 0.7) & (ratio < 1.42)).all()


def test_learning_a_threshold_lowers_the_error():
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    weight[0, 0] = 40.0
    module = FakeQuantize.for_weight(QuantSpec("int4", estimator="tqt"), weight)
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    errors = []
    for _ in range(80):
        optimizer.zero_grad()
        error = (module(weight) - weight).abs().square().clamp(max=1.0).mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert min(errors[-5:]) < 0.6 * errors[0]


@pytest.mark.parametrize("dtype", ["uint4", "int4"])
def test_pact_is_the_papers_formula(dtype):
    module = FakeQuantize(dtype=dtype, symmetric=True, estimator="pact")
    first = torch.linspace(-3, 3, 64, dtype=torch.float64)
    module(first)
    with torch.no_grad():
        module.log_scale.sub_(0.5)
    high, low = module.quant_max, module.quant_min
    s = module.qparams(first)[0].item()
    alpha, lower = high * s, low * s
    x = torch.linspace(-4, 4, 101, dtype=torch.float64).requires_grad_()
    dy = torch.linspace(1, 2, 101, dtype=torch.float64)
    module.zero_grad()
    (module(x) * dy).sum().backward()
    xd = x.detach()
    d_alpha = dy[xd >= alpha].sum() + (low / high) * dy[xd < lower].sum()
    assert torch.equal(x.grad, torch.where((xd >= lower) & (xd < alpha), dy, 0))
    # Plain SGD moves alpha as it would move it as a parameter: d log(alpha) = d alpha * alpha / start^2.
    start = high * module.base_scale.double().item()
    torch.testing.assert_close(module.log_scale.grad[0].double(), d_alpha * alpha / start**2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_dorefa_weights_are_the_papers_formula(granularity):
    torch.manual_seed(0)
    weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    module = FakeQuantize.for_weight(QuantSpec("int4", granularity, estimator="dorefa"), weight)
    y = module(weight)
    squashed = torch.tanh(weight)
    largest = squashed.abs().amax((0, 1) if granularity == "tensor" else 1, keepdim=True)
    unit = squashed / largest
    assert torch.equal(y.detach(), torch.round(unit.detach() / (1 / 7)).clamp(-8, 7) * module.qparams(weight)[0])
    assert y.abs().max() <= 1 + 1e-6
    dy = torch.randn_like(weight)
    (wanted,) = torch.autograd.grad(unit, weight, dy)  # straight through the rounding
    (got,) = torch.autograd.grad(y, weight, dy)
    torch.testing.assert_close(got, wanted)


def test_dorefa_activations_are_clamped_to_the_unit_interval():
    module = FakeQuantize(dtype="uint4", symmetric=True, estimator="dorefa").eval()
    x = torch.tensor([-0.5, 0.0, 0.45, 0.99, 1.0, 7.0], requires_grad=True)
    y = module(x)
    torch.testing.assert_close(y.detach(), torch.round(x.detach().clamp(0, 1) * 15) / 15)
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("scheme", NEW)
def test_every_parameter_gets_a_gradient_and_training_equals_eval_once_frozen(scheme):
    prepared = trained(INTEGER[scheme], steps=2)
    prepared(images()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prepared.parameters())
    torchqat.freeze_batch_norm(prepared)
    torchqat.freeze_observers(prepared)
    training = prepared(images()).detach()
    assert torch.equal(training, prepared.eval()(images()))
    assert torch.equal(training, torchqat.convert(prepared)(images()))


def test_an_integer_layer_learns_pacts_bound_as_the_simulated_one_does():
    torch.manual_seed(0)
    config = QConfig(QuantSpec("int8", "channel"), QuantSpec("uint4", estimator="pact"))
    layer = torchqat.nn.qat.Linear.from_float(nn.Linear(12, 5), config)
    x, dy = torch.randn(40, 12), torch.randn(40, 5)
    layer(x[:4])
    gradients = []
    for integer in (True, False):
        layer.integer = integer
        layer.zero_grad()
        layer(x).backward(dy)
        gradients.append((layer.activation_fake_quant.log_scale.grad, layer.weight.grad))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=3e-2, atol=1e-2 * b.abs().max().item())
    assert gradients[0][0].abs() > 0


def test_learned_scales_move_under_plain_sgd():
    torch.manual_seed(0)
    weight = torch.randn(8, 64) * 0.02
    module = FakeQuantize.for_weight(QuantSpec("int3", "channel", estimator="lsq"), weight)
    reference = module.qparams(weight)[0].detach().clone().requires_grad_()
    factor = module.grad_scale(weight)
    start = reference.detach().clone()
    optimizers = [torch.optim.SGD(module.parameters(), 5e-5), torch.optim.SGD([reference], 5e-5)]
    for _ in range(50):
        for optimizer, y in zip(
            optimizers,
            (module(weight), torch.ops.torchqat.fake_quantize_learned(weight, reference, None, [1, -1], -4, 3, factor)),
            strict=True,
        ):
            optimizer.zero_grad()
            ((y - weight).square().sum() / 0.02).backward()
            optimizer.step()
    moved = module.qparams(weight)[0].detach()
    assert ((moved / start - 1).abs() > 0.02).all()
    # LSQ's own path, where the scale itself is the parameter.
    torch.testing.assert_close(moved / start, reference.detach() / start, rtol=0.1, atol=0)


@pytest.mark.parametrize(
    "message, make",
    [
        ("'pact' has no zero point and so needs symmetric=True", lambda: QuantSpec("uint8", symmetric=False, estimator="pact")),
        ("'tqt' has no zero point and so needs symmetric=True", lambda: QuantSpec("uint8", symmetric=False, estimator="tqt")),
        ("'dorefa' has no zero point and so needs symmetric=True", lambda: QuantSpec("uint8", symmetric=False, estimator="dorefa")),
        ("'pact' learns one clipping bound; granularity must be 'tensor', got 'channel'", lambda: QuantSpec("int8", "channel", estimator="pact")),
        ("'dorefa' needs granularity 'tensor' or 'channel', got 'group:8'", lambda: QuantSpec("int8", "group:8", estimator="dorefa")),
        ("QConfig: weight estimator must not be 'pact'", lambda: QConfig(QuantSpec("int8", estimator="pact"))),
        ("QConfig: activations of estimator 'dorefa' are clamped to .0, 1.; they need an unsigned dtype", lambda: QConfig(QuantSpec("int8"), QuantSpec("int8", estimator="dorefa"))),
        ("FakeQuantize: activations of estimator 'dorefa'", lambda: FakeQuantize(8, symmetric=True, estimator="dorefa")),
        ("'tqt' needs an integer dtype, got 'e4m3fn'", lambda: QuantSpec("e4m3fn", estimator="tqt")),
        ("'pact' learns the scale; observer must not be 'dynamic'", lambda: QuantSpec("uint8", observer="dynamic", estimator="pact")),
    ],
)
def test_what_is_refused(message, make):
    with pytest.raises(ValueError, match=message):
        make()
