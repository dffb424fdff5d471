"""RangeObserver: when statistics move, what they hold, and how they travel."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchqat
from torchqat import FakeQuantize, QuantSpec
from torchqat.observers import HistogramObserver, RangeObserver


def observer(constant=1.0, symmetric=False):
    return RangeObserver(0, 255, symmetric=symmetric, averaging_constant=constant)


def test_minmax_keeps_the_extremes():
    watch = observer()
    watch.observe(torch.tensor([-1.0, 2.0]))
    watch.observe(torch.tensor([-0.5, 4.1]))
    assert (watch.min_val.item(), watch.max_val.item()) == (-1.0, pytest.approx(4.1))
    scale, zero_point = watch.qparams()
    assert scale.item() == pytest.approx(5.1 / 255) and int(zero_point) == 50


def test_ema_starts_from_the_first_batch():
    watch = observer(0.25)
    watch.observe(torch.tensor([-1.0, 2.0]))
    assert watch.max_val.item() == 2.0
    watch.observe(torch.tensor([-2.0, 4.0]))
    assert (watch.min_val.item(), watch.max_val.item()) == (-1.25, 2.5)


def test_the_returned_scale_is_this_steps_and_stays():
    watch = observer()
    scale, _ = watch.observe(torch.tensor([0.0, 2.55]))
    kept = scale.clone()
    watch.observe(torch.tensor([0.0, 25.5]))
    assert torch.equal(scale, kept)
    assert watch.qparams()[0] > scale


def test_nonfinite_values_are_left_out_and_counted():
    watch = observer()
    watch.observe(torch.tensor([float("nan"), 1.0, float("inf"), -float("inf")]))
    assert watch.nonfinite_count.item() == 3
    assert watch.max_val.item() == 1.0


def test_an_empty_batch_changes_nothing():
    watch = observer(0.5)
    watch.observe(torch.tensor([1.0]))
    watch.observe(torch.empty(0))
    assert watch.max_val.item() == 1.0 and watch.has_data()


def test_nothing_seen_gives_scale_one():
    scale, zero_point = observer().qparams()
    assert scale.item() == 1.0 and int(zero_point) == 0


def test_state_travels():
    watch = observer()
    watch.observe(torch.tensor([3.0]))
    for other in (copy.deepcopy(watch), pickle.loads(pickle.dumps(watch))):
        assert other.max_val.item() == 3.0
    fresh = observer()
    fresh.load_state_dict(watch.state_dict())
    assert torch.equal(fresh.qparams()[0], watch.qparams()[0])


@pytest.mark.parametrize("change", [lambda m: m.bfloat16(), lambda m: m.to(torch.float16), lambda m: m.half()])
def test_ranges_keep_their_dtype(change):
    watch = observer()
    watch.observe(torch.tensor([1.2345678]))
    before = watch.max_val.clone()
    change(watch)
    assert watch.max_val.dtype == torch.float32 and torch.equal(watch.max_val, before)


def test_eval_and_frozen_observers_do_not_move():
    module = FakeQuantize(observer="minmax")
    module(torch.tensor([1.0]))
    module.eval()
    module(torch.tensor([9.0]))
    assert module.observer.max_val.item() == 1.0
    module.train()
    module.observer_enabled = False
    module(torch.tensor([9.0]))
    assert module.observer.max_val.item() == 1.0


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_observes_once_and_uses_the_same_scale(reentrant):
    def run(wrap):
        module = FakeQuantize.from_spec(QuantSpec("uint4", symmetric=False, observer="ema", averaging_constant=0.3))
        gradients = []
        for step in range(3):
            x = torch.linspace(-1, 1 + step, 33, requires_grad=True)
            (wrap(module, x) ** 2).sum().backward()
            gradients.append(x.grad)
        return module, gradients

    plain, expected = run(lambda m, x: m(x))
    checkpointed, got = run(lambda m, x: checkpoint(m, x, use_reentrant=reentrant))
    assert torch.equal(plain.observer.max_val, checkpointed.observer.max_val)
    assert all(torch.equal(a, b) for a, b in zip(expected, got))


def test_reset():
    watch = observer()
    watch.observe(torch.tensor([1.0, float("nan")]))
    watch.reset()
    assert not watch.has_data() and watch.nonfinite_count.item() == 0


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_histograms_clip_outliers_and_travel(method):
    watch = HistogramObserver(0, 15, symmetric=False, method=method, percentile=99.0)
    for _ in range(3):
        watch.observe(torch.cat([torch.rand(20000), torch.tensor([40.0, float("nan")])]))
    assert watch.nonfinite_count.item() == 3 and watch.max_val.item() == 40.0
    scale, zero_point = watch.qparams()
    assert 0.9 < scale * 15 < 20.0
    fresh = HistogramObserver(0, 15, symmetric=False, method=method, percentile=99.0)
    fresh.load_state_dict(watch.state_dict())
    assert torch.equal(fresh.bfloat16().qparams()[0], scale)
    watch.reset()
    assert not watch.has_data() and watch.histogram.sum() == 0


@pytest.mark.parametrize("observer", ["percentile", "mse", "histogram"])
def test_histogram_observers_in_a_module(observer):
    module = FakeQuantize(8, observer=observer)
    x = torch.randn(1000)
    module(x)
    module.eval()
    assert (module(x) - x).abs().max() < 0.5
    assert module.spec().observer == observer


@pytest.mark.parametrize("observer", ["mse", "percentile"])
@pytest.mark.parametrize("layer", [nn.Linear(8, 4), nn.Conv1d(8, 4, 1), nn.Conv2d(8, 4, 1)], ids=lambda m: type(m).__name__)
def test_a_training_layer_fills_its_histogram(layer, observer):
    spec = torchqat.QuantSpec("uint8", symmetric=False, observer=observer)
    config = torchqat.QConfig(weight=torchqat.QuantSpec("int8", granularity="channel"), activation=spec)
    model = torchqat.prepare_qat(nn.Sequential(layer), config).train()
    alone = torchqat.FakeQuantize(dtype="uint8", observer=observer).train()
    for seed in range(2):
        x = torch.randn(8, 8, 6, 1, generator=torch.Generator().manual_seed(seed))
        x = {nn.Linear: x[..., 0].movedim(1, -1), nn.Conv1d: x[..., 0], nn.Conv2d: x}[type(layer)]
        model(x)
        alone(x)
    found = model[0].activation_fake_quant.observer
    assert found.histogram.sum() == 2 * x.numel() and torch.equal(found.histogram, alone.observer.histogram)
    assert torch.equal(found.qparams()[0], alone.observer.qparams()[0])
