"""Bare 3-D parameters that a module multiplies itself: experts written in the ways that models on the Hugging Face hub write them."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchqat
from torch import nn
from torchqat import QConfig, QuantSpec

EXPERTS, WIDTH, HIDDEN = 3, 8, 16


class Batched(nn.Module):
    """All experts at once, [experts, in, out] (Llama 4)."""

    axes = {"gate_up_proj": 1, "down_proj": 1}

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * HIDDEN))
        self.down_proj = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH))

    def forward(self, x):
        gate, up = torch.bmm(x.view(self.gate_up_proj.size(0), -1, x.size(-1)), self.gate_up_proj).chunk(2, -1)
        return torch.bmm(up * F.silu(gate), self.down_proj).reshape(x.shape)


class Routed(nn.Module):
    """The experts that tokens are sent to, [experts, out, in] (Mixtral, Qwen)."""

    axes = {"gate_up_proj": 2, "down_proj": 2}

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(EXPERTS, 2 * HIDDEN, WIDTH))
        self.down_proj = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN))

    def forward(self, x):
        result = torch.zeros_like(x)
        sent_to = torch.arange(x.size(0)) % EXPERTS
        for expert in range(EXPERTS):
            rows = (sent_to == expert).nonzero()[:, 0]
            gate, up = F.linear(x[rows], self.gate_up_proj[expert]).chunk(2, -1)
            result.index_add_(0, rows, F.linear(F.silu(gate) * up, self.down_proj[expert]))
        return result


class WithBias(nn.Module):
    """Biases beside the weights, and `@` (GPT-OSS)."""

    axes = {"up": 1, "down": 1}

    def __init__(self):
        super().__init__()
        self.up, self.up_bias = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN)), nn.Parameter(torch.randn(EXPERTS, HIDDEN))
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH))

    def forward(self, x):
        return sum((x @ self.up[e] + self.up_bias[e]).relu() @ self.down[e] for e in range(EXPERTS))


class Einsum(nn.Module):
    axes = {"up": 1, "down": 1}

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN)), nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH))

    def forward(self, x):
        return torch.einsum("beo,eoi->bi", torch.einsum("bi,eio->beo", x, self.up).relu(), self.down)


class Grouped(nn.Module):
    axes = {"up": 2}

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH))

    def forward(self, x):
        ends = torch.arange(1, EXPERTS + 1, dtype=torch.int32) * (x.size(0) // EXPERTS)
        return F.grouped_mm(x, self.up.transpose(1, 2), offs=ends)


KINDS = [Batched, Routed, WithBias, Einsum, Grouped]
SCHEMES = {
    "int8": QConfig.int8(),
    "int4": QConfig.int4_weight_only(group_size=4),
    "tensor": QConfig(weight=QuantSpec("int8", granularity="tensor")),
    "affine": QConfig(weight=QuantSpec("uint4", granularity="channel", symmetric=False)),
    "ternary": QConfig(weight=QuantSpec("ternary", granularity="channel")),
    "block": QConfig(weight=QuantSpec("int8", granularity="block:4x3")),
    "lsq": QConfig(weight=QuantSpec("int4", granularity="channel", estimator="lsq")),
    "fp8": QConfig.fp8(),
    "mxfp4": QConfig.mxfp4(),
}


def tokens(seed=0, count=12):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def prepared_of(kind, scheme="int8", seed=0, **kwargs):
    torch.manual_seed(seed)
    return torchqat.prepare_qat(nn.Sequential(kind()), SCHEMES[scheme], example_inputs=tokens(), **kwargs)


def by_row(weight, axis, grid=127):
    """Codes and scales of each expert's output channels, by the formula."""
    scale = weight.abs().amax(axis, keepdim=True) / grid
    return (weight / scale).round().clamp(-grid, grid), scale


@pytest.mark.parametrize("kind", KINDS)
def test_each_expert_and_output_channel_has_its_scale(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind())
    prepared = torchqat.prepare_qat(model, QConfig.int8(), example_inputs=tokens())
    expected = copy.deepcopy(model)
    for name, axis in kind.axes.items():
        codes, scale = by_row(getattr(model[0], name).detach(), axis)
        found = torchqat.integer_weights(prepared.get_submodule(f"0.{name}_quant"))
        assert torch.equal(found.codes.float(), codes) and torch.equal(found.scale, scale)
        assert found.block_size == ([1, 1, -1] if axis == 2 else [1, -1, 1])
        getattr(expected[0], name).data = codes * scale
        assert torch.equal(getattr(prepared[0], name), codes * scale)
    x = tokens(1)
    assert torch.equal(prepared(x), expected(x))
    # Straight through: absmax scales clip nothing.
    prepared(x).square().sum().backward()
    expected(x).square().sum().backward()
    for name in kind.axes:
        assert torch.equal(prepared[0]._modules[f"{name}_quant"].weight.grad, getattr(expected[0], name).grad)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_ships(kind, scheme, tmp_path):
    prepared = prepared_of(kind, scheme)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.3)
    for step in range(2):
        optimizer.zero_grad()
        prepared(tokens(step)).square().mean().backward()
        optimizer.step()
    prepared.eval()
    converted = torchqat.convert(prepared)
    x = tokens(9)
    assert torch.equal(prepared(x), converted(x)) and not torch.equal(prepared(x), prepared_of(kind, scheme)(x))
    assert not list(converted.get_submodule(f"0.{next(iter(kind.axes))}_quant").parameters())
    report = torchqat.verify(prepared, converted, [x])
    assert {layer.name for layer in report.layers} == {f"0.{name}_quant" for name in kind.axes}
    assert all(layer.equal and layer.total for layer in report.layers)
    for again in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(again(x), converted(x)) and isinstance(again[0], kind)
    torchqat.save(converted, tmp_path / "model.safetensors")
    loaded = torchqat.load(tmp_path / "model.safetensors", nn.Sequential(kind()))
    assert torch.equal(loaded(x), converted(x))
    other = torchqat.convert(prepared_of(kind, scheme, seed=5).eval())
    other.load_state_dict(converted.state_dict())
    assert torch.equal(other(x), converted(x))


@pytest.mark.parametrize("kind", KINDS)
def test_an_ordinary_module(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind())
    own = dict(model[0]._parameters)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    prepared = torchqat.prepare_qat(model, QConfig.int8(), example_inputs=tokens(), inplace=True).train()
    assert isinstance(prepared[0], kind) and type(prepared[0]).__name__ == kind.__name__
    assert {id(p) for p in prepared.parameters()} == {id(p) for p in own.values()}
    before, x = prepared(x := tokens(1)).detach(), x
    prepared(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(prepared(x), before)
    for again in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared))):
        assert torch.equal(again(x), prepared(x))
        again.load_state_dict(prepared.state_dict())
    with torchqat.reuse_weights(prepared):
        assert torch.equal(prepared(x), prepared(x))
    torchqat.set_fake_quant(prepared, False)
    plain = nn.Sequential(kind())
    plain[0].load_state_dict({name: p for name, p in own.items()})
    assert torch.equal(prepared(x), plain(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_float_checkpoint_loads(kind):
    prepared = prepared_of(kind)
    torch.manual_seed(7)
    other = nn.Sequential(kind())
    assert not prepared.load_state_dict(other.state_dict()).unexpected_keys
    expected = torchqat.prepare_qat(other, QConfig.int8(), example_inputs=tokens())
    assert torch.equal(prepared(tokens(1)), expected(tokens(1)))


@pytest.mark.parametrize("kind", [Batched, Routed, Einsum])
def test_compiles_and_exports(kind):
    prepared = prepared_of(kind).eval()
    converted = torchqat.convert(prepared)
    x = tokens(1)
    for model in (prepared, converted):
        if kind is not Routed:  # whose shapes depend on its data
            compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
            torch.testing.assert_close(compiled(x), model(x))
        program = torch.export.export(model, (x,), strict=False) if kind is not Routed else None
        if program is not None:
            torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", [Batched, Einsum])
def test_scripts(kind, scheme, tmp_path):
    prepared = prepared_of(kind, scheme).eval()
    converted = torchqat.convert(prepared)
    x = tokens(1)
    assert torch.equal(torch.jit.script(prepared)(x), prepared(x))
    scripted = torch.jit.script(converted)
    assert torch.equal(scripted(x), converted(x))
    torch.jit.freeze(scripted).save(str(tmp_path / "model.pt"))
    assert torch.equal(torch.jit.load(str(tmp_path / "model.pt"))(x), converted(x))


def test_a_weight_is_rounded_once_in_a_forward_and_its_gradient_is_not_lost():
    class ReadsFirst(Routed):
        def forward(self, x):
            with torch.no_grad():
                self.seen = self.gate_up_proj.abs().max()
            return super().forward(x)

    prepared = prepared_of(ReadsFirst)
    calls = []
    prepared[0]._modules["gate_up_proj_quant"].register_forward_hook(lambda *args: calls.append(1))
    prepared(tokens()).sum().backward()
    assert len(calls) == 2  # without and with gradients, not once for each expert
    assert prepared[0]._modules["gate_up_proj_quant"].weight.grad.abs().sum() > 0


def test_which_parameters_are_found():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.randn(1, 4, WIDTH))  # added, not multiplied
            self.unused = nn.Parameter(torch.randn(2, WIDTH, WIDTH))
            self.both = nn.Parameter(torch.randn(2, WIDTH, WIDTH))  # summed over both axes
            self.bilinear = nn.Bilinear(WIDTH, WIDTH, WIDTH)
            self.experts = Routed()

        def forward(self, x):
            x = self.bilinear(x, x) + self.position.mean((0, 1))
            return self.experts(F.linear(x @ self.both[0], self.both[1]))

    prepared = torchqat.prepare_qat(Net(), QConfig.int8(), example_inputs=tokens())
    rows = {row.name: row for row in torchqat.coverage(prepared).rows}
    assert {name for name, row in rows.items() if row.quantized} == {"experts.gate_up_proj_quant", "experts.down_proj_quant"}
    assert rows["(model)"].why.startswith("its own parameters (position, unused, both) have no quantised form")
    assert rows["experts.down_proj_quant"].why == "weight int8 per channel; simulated in float"


def test_overrides():
    def quantised(**overrides):
        model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Routed())
        overrides = {key.replace("_at_", "."): value for key, value in overrides.items()}
        prepared = torchqat.prepare_qat(model, QConfig.int8(), example_inputs=tokens(), overrides=overrides)
        return {row.name for row in torchqat.coverage(prepared).rows if row.quantized}, prepared

    assert quantised()[0] == {"0", "1.gate_up_proj_quant", "1.down_proj_quant"}
    assert quantised(**{"1": None})[0] == {"0"}
    found, prepared = quantised(**{"1.gate_up_proj": None})
    assert found == {"0", "1.down_proj_quant"} and "gate_up_proj" in prepared[1]._parameters
    _, prepared = quantised(**{"1.down_proj": QConfig.int4_weight_only(group_size=8)})
    assert torchqat.integer_weights(prepared.get_submodule("1.down_proj_quant")).block_size == [1, 1, 8]
    assert quantised(**{"1": QConfig(activation=QuantSpec("uint8", symmetric=False))})[0] == {"0"}
    model = nn.Sequential(Routed())
    torchqat.prepare_qat(nn.Sequential(nn.Linear(2, 2), Routed()), overrides={Routed: None}, example_inputs=None)
    with pytest.raises(ValueError, match="nothing in the model would be quantised"):
        torchqat.prepare_qat(model, QConfig.int8(), example_inputs=tokens(), overrides={Routed: None}, inplace=True)
    assert type(model[0]) is Routed and set(model[0]._parameters) == {"gate_up_proj", "down_proj"}


def test_errors():
    with pytest.raises(ValueError, match="module '0.gate_up_proj_quant': nn.qat.BareWeight: the rows of a block must divide .* got 3 and 32"):
        torchqat.prepare_qat(nn.Sequential(Routed()), QConfig(weight=QuantSpec(granularity="block:3x4")), example_inputs=tokens())
    with pytest.raises(ValueError, match="no Q/DQ form of BareWeight"):
        torchqat.export_onnx(torchqat.convert(prepared_of(Batched).eval()), (tokens(),), "/dev/null")


def test_file_and_memory_are_small(tmp_path):
    prepared = prepared_of(Routed, "int4").eval()
    converted = torchqat.convert(prepared)
    held = sum(t.numel() * t.element_size() for t in converted.state_dict().values())
    numel = sum(p.numel() for p in prepared.parameters())
    assert held < numel * 1.6  # a half for the code, one float32 scale for four, headers
    assert torchqat.coverage(converted).share == 1.0


def test_without_training():
    batches = [tokens(seed) for seed in range(3)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Routed())
    quantised = torchqat.quantize_ptq(model, QConfig.int8(), batches, example_inputs=batches[0])
    assert {row.name for row in torchqat.coverage(quantised).rows if row.quantized} == {"0", "1.gate_up_proj_quant", "1.down_proj_quant"}
    exact = model(batches[0])
    assert 0 < (quantised(batches[0]) - exact).norm() < 0.1 * exact.norm()
