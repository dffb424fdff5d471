"""Integer edges: codes between convolutions, the same bits as without, and only where that is certain."""

import copy
import warnings

import pytest
import torch
from torch import nn

import torchqat
from torchqat.nn.quantized.conv import Conv


def block(inputs, outputs, **kwargs):
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **kwargs), nn.BatchNorm2d(outputs), nn.ReLU()]


def chain():
    return nn.Sequential(
        *block(3, 8), *block(8, 8), nn.MaxPool2d(2), *block(8, 8, groups=8), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 6, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(x)) + x)


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.a(x)
        return self.b(x if x.sum() > 0 else -x)


def trained(model, x):
    torch.manual_seed(0)
    prepared = torchqat.prepare_qat(model, torchqat.QConfig.int8()).train()
    for _ in range(3):
        prepared(x + 0.1 * torch.randn_like(x))
    return prepared.eval()


def givers(model):
    return [m.output_scale is not None for m in model.modules() if isinstance(m, Conv)]


@pytest.fixture(scope="module")
def prepared():
    torch.manual_seed(0)
    return trained(chain(), torch.randn(4, 3, 12, 12))


@pytest.mark.parametrize("isa", torchqat._C.supported_isas())
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_same_bits_with_codes_between_the_layers(prepared, isa, channels_last):
    x = torch.randn(5, 3, 12, 12)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    before = torch.ops.torchqat._cpu_isa()
    try:
        torch.ops.torchqat._set_cpu_isa(isa)
        converted = torchqat.convert(prepared, example_inputs=x)
        assert givers(converted) == [True, True, True, True, False]  # the average pool behind the last has no integer form here
        seen = []
        converted[3].register_forward_pre_hook(lambda m, args: seen.append(args[0].dtype))
        assert torch.equal(converted(x), prepared(x))
        assert torch.equal(converted(x), torchqat.convert(prepared)(x))
        assert seen[0] == torch.uint8
    finally:
        torch.ops.torchqat._set_cpu_isa(before)


def test_scripts_saves_loads_and_copies(prepared, tmp_path):
    x = torch.randn(2, 3, 12, 12)
    converted = torchqat.convert(prepared, example_inputs=(x,))
    expected = prepared(x)
    torch.jit.freeze(torch.jit.script(converted)).save(str(tmp_path / "m.pt"))
    assert torch.equal(torch.jit.load(str(tmp_path / "m.pt"))(x), expected)
    torchqat.save(converted, tmp_path / "m.safetensors")
    again = torchqat.load(tmp_path / "m.safetensors", chain())
    assert givers(again) == givers(converted) and torch.equal(again(x), expected)
    assert torch.equal(copy.deepcopy(converted)(x), expected)
    assert torch.equal(torch.compile(converted, fullgraph=True, backend="aot_eager")(x), expected)


def test_a_result_that_is_read_twice_stays_float():
    x = torch.randn(2, 4, 6, 6)
    model = trained(Residual(), x)
    converted = torchqat.convert(model, example_inputs=x)
    assert givers(converted) == [False, False, False]
    assert torch.equal(converted(x), model(x))


def test_a_model_that_cannot_be_traced_converts_and_says_so():
    x = torch.randn(2, 4, 6, 6)
    model = trained(DataDependent(), x)
    with pytest.warns(UserWarning, match="cannot be traced .* converted without integer edges"):
        converted = torchqat.convert(model, example_inputs=x)
    assert givers(converted) == [False, False]
    assert torch.equal(converted(x), model(x))


def test_without_example_inputs_nothing_is_traced():
    model = trained(DataDependent(), torch.randn(2, 4, 6, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert givers(torchqat.convert(model)) == [False, False]


def test_verify_reads_a_model_with_edges(prepared):
    x = torch.randn(2, 3, 12, 12)
    report = torchqat.verify(prepared, torchqat.convert(prepared, example_inputs=x), [x])
    assert report.equal and "(output)" in str(report)
