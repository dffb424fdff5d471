"""verify, coverage, quantize_ptq and calibrate."""

import pytest
import torch
from models import SCHEMES, conv_net, images, trained
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec


@pytest.mark.parametrize("scheme", ["int8", "lsq", "int8_dynamic"])
def test_a_certificate_of_equal_bits(scheme):
    prepared = trained(SCHEMES[scheme])
    report = torchqat.verify(prepared, torchqat.convert(prepared), [images(seed=1), images(2, seed=2)])
    assert report.equal and report.output.equal and len(report.layers) == 6
    assert all(r.equal and r.integer and r.max_difference == 0 for r in report.layers)
    assert all(r.sqnr > 5 for r in report.layers)
    assert prepared.training and prepared[0].weight_fake_quant.enabled
    assert "yes" in str(report) and "3.second" in str(report)


def test_a_changed_weight_is_found():
    prepared = trained(QConfig.int8())
    converted = torchqat.convert(prepared)
    converted[6].bias += 1.0
    report = torchqat.verify(prepared, converted, [images()])
    assert not report.equal
    bad = {r.name: r for r in report.layers if not r.equal}
    assert set(bad) == {"6", "8"} and bad["6"].max_difference == pytest.approx(1.0, rel=1e-5) and bad["6"].max_lsb > 1
    assert "NO" in str(report)


def test_weight_only_shows_the_order_of_summation():
    prepared = trained(QConfig.int4_weight_only(4))
    report = torchqat.verify(prepared, torchqat.convert(prepared), [images()])
    assert report.equal and not any(r.integer for r in report.layers)
    assert all(r.max_difference < 1e-5 for r in report.layers)


def test_batches_are_arguments_or_keywords():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, scale=1.0):
            return {"y": self.layer(x) * scale}

    prepared = torchqat.prepare_qat(Two(), QConfig.int8_dynamic())
    x = torch.randn(4, 3)
    report = torchqat.verify(prepared, torchqat.convert(prepared), [(x, 2.0), {"x": x, "scale": 3.0}, [x]])
    assert report.equal and report.output.total == 24


def test_verify_errors():
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(3, 2)), QConfig.int8_dynamic())
    with pytest.raises(ValueError, match="verify: batches must hold at least one"):
        torchqat.verify(prepared, torchqat.convert(prepared), [])
    with pytest.raises(ValueError, match="prepared has no QAT layer"):
        torchqat.verify(nn.Linear(2, 2), nn.Linear(2, 2), [torch.ones(1, 2)])
    with pytest.raises(ValueError, match="converted has no module '0'"):
        torchqat.verify(prepared, nn.Linear(3, 2), [torch.ones(1, 3)])


def test_coverage_of_float_prepared_and_converted():
    class Own(nn.Linear):
        pass

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.norm, self.own = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm(4), Own(4, 4)
            self.skip, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.skip(self.own(self.norm(self.act(self.bn(self.conv(x))).mean((2, 3))))) + 1

    prepared = torchqat.prepare_qat(Net(), QConfig.int8_dynamic(), overrides={"skip": None})
    rows = {r.name: r for r in torchqat.coverage(prepared).rows}
    assert rows["conv"].quantized and "integer kernel" in rows["conv"].why
    assert not rows["skip"].quantized and "override" in rows["skip"].why
    assert "subclass of Linear" in rows["own"].why and rows["norm"].why == "no quantised form"
    assert rows["act"].why.startswith("float op") and rows["add"].kind == "add"
    assert not any("fake_quant" in name for name in rows)
    share = torchqat.coverage(prepared).share
    assert 0 < share < 1
    converted = torchqat.coverage(torchqat.convert(prepared))
    assert {r.name for r in converted.rows if r.quantized} == {"conv"} and "are quantised" in str(converted)
    assert torchqat.coverage(Net()).share == 0
    with pytest.raises(TypeError, match="coverage: model must be"):
        torchqat.coverage(3)


def test_coverage_of_what_cannot_be_traced():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else x

    assert "cannot trace" in str(torchqat.coverage(torchqat.prepare_qat(Dynamic())))


def test_ptq_is_close_to_float_at_8_bits_and_worse_at_2():
    torch.manual_seed(0)
    model = conv_net().eval()
    model(images())
    expected = model(images(32, seed=5))
    errors = {}
    for name in ("int8", "int8_dynamic", "int4", "int2"):
        batches = [images(32, seed=5)]
        y = torchqat.quantize_ptq(model, SCHEMES[name], batches)(images(32, seed=5))
        errors[name] = ((y - expected).norm() / expected.norm()).item()
    assert errors["int8"] < 0.03 and errors["int8_dynamic"] < 0.03
    assert errors["int8"] < errors["int4"] < errors["int2"]
    assert not model.training


def test_calibration_ranges():
    batches = [torch.tensor([[2.0]]), torch.tensor([[4.0]])]
    for observer, expected in (("minmax", 4.0), ("ema", 2.5)):
        activation = QuantSpec("uint8", symmetric=False, observer=observer, averaging_constant=0.25)
        prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(1, 1)), QConfig(QuantSpec(), activation))
        torchqat.calibrate(prepared, batches)
        assert prepared[0].activation_fake_quant.observer.max_val.item() == expected
        assert prepared.training and prepared[0].activation_fake_quant.enabled


@pytest.mark.parametrize("method", ["minmax", "ema", "percentile", "mse", "histogram"])
def test_ptq_methods(method):
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    x = torch.randn(512, 16)
    converted = torchqat.quantize_ptq(
        model, QConfig.int8(), [x[:256], x[256:]], method, overrides={"1": QConfig.int8_dynamic()}
    )
    assert (converted(x) - model(x)).norm() < 0.03 * model(x).norm()


def test_clipping_an_outlier_pays_at_four_bits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8))
    x = torch.randn(4096, 16)
    x[0, 0] = 200.0
    config = QConfig(QuantSpec("int8", "channel"), QuantSpec("uint4", symmetric=False, observer="minmax"))
    errors = {
        method: (torchqat.quantize_ptq(model, config, [x], method)(x[1:]) - model(x[1:])).norm().item()
        for method in ("minmax", "mse", "percentile")
    }
    assert errors["percentile"] < 0.3 * errors["minmax"] and errors["mse"] < errors["minmax"]


def test_ptq_errors():
    with pytest.raises(RuntimeError, match="has seen no data"):
        torchqat.quantize_ptq(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="quantize_ptq: method must be one of minmax, ema, .*, got 'best'"):
        torchqat.quantize_ptq(nn.Linear(2, 2), method="best")


class Experts(nn.Module):
    """Weights of several experts in bare parameters."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 4, 8)), nn.Parameter(torch.randn(3, 8, 4))

    def forward(self, x):
        each = torch.relu(torch.einsum("bi,eio->beo", x, self.up))
        return torch.einsum("beo,eoi,be->bi", each, self.down, self.router(x).softmax(-1))


def test_coverage_says_that_bare_parameters_stay_in_float():
    table = torchqat.coverage(torchqat.prepare_qat(nn.Sequential(Experts(), nn.LayerNorm(4))))
    row = next(row for row in table.rows if row.kind == "Experts")
    assert row.why == (
        "its own parameters (up, down) have no quantised form; layers such as nn.Linear have; 3-D ones that it multiplies have, where "
        "prepare_qat is given example_inputs to see it"
    )
    assert not row.quantized and row.parameters == 192 and table.share < 0.1
