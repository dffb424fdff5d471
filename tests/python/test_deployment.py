"""Prepared and converted models under torch.jit, torch.compile, torch.export, checkpointing and threads."""

import copy

import pytest
import torch
from models import SCHEMES, conv_net, images, trained
from torch import nn
from torch.utils.checkpoint import checkpoint

import torchqat
from torchqat import FakeQuantize, QConfig

SOME = ["int8", "int8_dynamic", "lsq", "int4_int8", "int4_weight_only"]


class Tokens(nn.Module):
    """Embedding, linear layers on [batch, tokens, width], and a head."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(20, 12), nn.LayerNorm(12)
        self.up, self.down = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.table(x)
        return h + self.down(torch.relu(self.up(self.norm(h))))


def tokens(n=3, seed=0):
    return torch.randint(0, 20, (n, 5), generator=torch.Generator().manual_seed(seed))


NETS = {"conv": (conv_net, images), "tokens": (Tokens, tokens)}


def both(scheme, net):
    make, batch = NETS[net]
    prepared = trained(SCHEMES[scheme], make=make, batch=batch).eval()
    return prepared, torchqat.convert(prepared), batch


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("scheme", SOME)
def test_torchscript(scheme, net, tmp_path):
    prepared, converted, batch = both(scheme, net)
    for index, model in enumerate((prepared, converted)):
        expected = model(batch())
        scripted = torch.jit.script(copy.deepcopy(model))
        assert torch.equal(scripted(batch()), expected)
        path = str(tmp_path / f"{index}.pt")
        torch.jit.freeze(scripted.eval()).save(path)
        assert torch.equal(torch.jit.load(path)(batch()), expected)


@pytest.mark.parametrize("scheme", ["int8", "lsq"])
def test_a_scripted_model_trains_like_eager(scheme):
    eager = trained(SCHEMES[scheme])
    scripted = torch.jit.script(copy.deepcopy(eager))
    for model in (eager, scripted):
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for step in range(2):
            optimizer.zero_grad()
            model(images(seed=step)).square().mean().backward()
            optimizer.step()
    for a, b in zip(eager.state_dict().values(), scripted.state_dict().values()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "net, scheme",
    [("conv", "int8"), ("tokens", "int8_dynamic"), ("tokens", "int4_int8"), ("tokens", "int8_weight_only")],
)
def test_compile(net, scheme):
    prepared, converted, batch = both(scheme, net)
    for model in (prepared, converted):
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            assert torch.equal(compiled(batch()), model(batch()))


@pytest.mark.parametrize("net, scheme", [("conv", "int8"), ("tokens", "lsq"), ("tokens", "int8_weight_only")])
def test_compiled_training_step(net, scheme):
    make, batch = NETS[net]
    eager = trained(SCHEMES[scheme], make=make, batch=batch)
    other = copy.deepcopy(eager)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for model, module in ((eager, eager), (compiled, other)):
        module.zero_grad()
        model(batch(seed=7)).square().mean().backward()
    for a, b in zip(eager.parameters(), other.parameters()):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(eager.buffers(), other.buffers()):
        torch.testing.assert_close(a, b)


def test_inductor():
    prepared, converted, batch = both("int8_dynamic", "tokens")
    for model in (prepared, converted):
        with torch.no_grad():
            torch.testing.assert_close(torch.compile(model, fullgraph=True)(batch()), model(batch()))


@pytest.mark.parametrize("net, scheme", [("conv", "int8"), ("tokens", "int8_dynamic"), ("tokens", "int4_weight_only")])
def test_export(net, scheme):
    prepared, converted, batch = both(scheme, net)
    for model in (prepared, converted):
        program = torch.export.export(model, (batch(4),), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=64)},))
        assert torch.equal(program.module()(batch(9, seed=3)), model(batch(9, seed=3)))
        assert "observe_minmax_" not in str(program.graph)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("scheme", ["int8", "lsq", "int4_int8"])
def test_checkpointed_training_equals_plain(scheme, reentrant):
    make, batch = NETS["tokens"]

    def run(wrap):
        torch.manual_seed(0)
        model = torchqat.prepare_qat(make(), SCHEMES[scheme])
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for step in range(3):
            optimizer.zero_grad()
            h = model.table(batch(seed=step))
            wrap(lambda t: model.down(torch.relu(model.up(model.norm(t)))), h).square().mean().backward()
            optimizer.step()
        return model

    plain = run(lambda f, h: f(h))
    repeated = run(lambda f, h: checkpoint(f, h, use_reentrant=reentrant))
    for a, b in zip(plain.state_dict().values(), repeated.state_dict().values()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("scheme", ["int8", "int8_dynamic", "int4_int8"])
def test_threads_and_batch_companions_change_no_bit(scheme):
    _, converted, batch = both(scheme, "tokens")
    x = batch(8)
    before = torch.get_num_threads()
    try:
        outputs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            outputs.append(converted(x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*outputs)


@pytest.mark.parametrize("scheme", ["int8", "int4", "int8_dynamic", "lsq"])
def test_every_cpu_path_gives_the_same_bits(scheme):
    prepared = trained(SCHEMES[scheme], steps=1).eval()
    converted = torchqat.convert(prepared)
    layers = [m for m in converted.modules() if type(m).__module__.startswith("torchqat")]
    x = images()
    inputs = {}
    handles = [m.register_forward_pre_hook(lambda m, i: inputs.__setitem__(m, i[0])) for m in layers]
    converted(x)
    [h.remove() for h in handles]
    outputs = {}
    chosen = torch.ops.torchqat._cpu_isa()
    try:
        for isa in torchqat._C.supported_isas():
            torch.ops.torchqat._set_cpu_isa(isa)
            outputs[isa] = [m(inputs[m]) for m in layers]
    finally:
        torch.ops.torchqat._set_cpu_isa(chosen)
    first = next(iter(outputs.values()))
    assert all(torch.equal(a, b) for other in outputs.values() for a, b in zip(first, other))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"symmetric": True},
        {"granularity": "token"},
        {"granularity": "group:3", "bits": 4},
        {"observer": "ema"},
        {"estimator": "lsq+"},
        {"observer": "percentile"},
        {"dtype": "mxfp4"},
        {"dtype": "e4m3fn"},
        {"dtype": "ternary"},
    ],
)
def test_fake_quantize_modules_script_compile_and_export(arguments):
    module = FakeQuantize(**arguments)
    x = torch.randn(4, 6)
    module(x)
    other, third = copy.deepcopy(module), copy.deepcopy(module)
    scripted, compiled = torch.jit.script(other), torch.compile(third, fullgraph=True, backend="aot_eager")
    expected = module(x)
    assert torch.equal(scripted(x), expected) and torch.equal(compiled(x), expected)
    module.eval()
    assert torch.equal(torch.export.export(module, (x,)).module()(x), module(x))


def test_inference_mode_and_functional_call():
    prepared = trained(QConfig.int8()).eval()
    expected = prepared(images())
    with torch.inference_mode():
        assert torch.equal(prepared(images()), expected)
        assert torch.equal(torchqat.convert(prepared)(images()), expected)
    state = {**dict(prepared.named_parameters()), **dict(prepared.named_buffers())}
    assert torch.equal(torch.func.functional_call(prepared, state, (images(),)), expected)
