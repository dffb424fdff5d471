"""Rows of deployed layers in one call: the same bits as module by module, and every change to a module is seen."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torchqat
from torch import nn
from torchqat.nn.quantized._plain_forward import plain_forward
from torchqat.nn.quantized._program import _KINDS, Segment
from torchqat.nn.quantized.sequential import Sequential


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.residual = True

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


class Plain(nn.Module):
    """A forward that only passes on, as block classes with optional parts have them."""

    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU())
        self.after = nn.Conv2d(width, width, 3, groups=width, padding=1)
        self.twice = False

    def forward(self, x):
        x = self.body(x)
        return self.after(self.after(x)) if self.twice else self.after(x)


def image_net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), Residual(8), nn.Sequential(Plain(8), nn.Identity()), nn.Conv2d(8, 8, 1),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 4),
    )  # fmt: skip


def made(model, config, x, edges=True):
    torch.manual_seed(0)
    prepared = torchqat.prepare_qat(model, config, example_inputs=x if edges else None).train()
    with torch.no_grad():
        for _ in range(2):
            prepared(x)
    return torchqat.convert(prepared.eval(), example_inputs=x if edges else None), prepared


def by_module(model, x):
    """What nn.Sequential itself makes of the same modules."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if type(module) is Sequential:
            module.__class__ = nn.Sequential
    with torch.no_grad():
        return plain(x)


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
VECTORS = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
MLP = {
    "int8": torchqat.QConfig.int8(), "int8_dynamic": torchqat.QConfig.int8_dynamic(), "int4_int8": torchqat.QConfig.int4_int8(32),
    "int4_weight_only": torchqat.QConfig.int4_weight_only(32), "int8_weight_only": torchqat.QConfig.int8_weight_only(),
}  # fmt: skip
MLP["int4 static"] = torchqat.QConfig(
    weight=torchqat.QuantSpec("int4", granularity="group:32"), activation=torchqat.QConfig.int8().activation
)


def mlp():
    return nn.Sequential(nn.Linear(64, 40), nn.GELU(approximate="tanh"), nn.Linear(40, 24, bias=False), nn.ReLU(), nn.Linear(24, 5))


@pytest.fixture(scope="module")
def net():
    converted, prepared = made(image_net(), torchqat.QConfig.int8(), X)
    return converted, prepared


@pytest.fixture
def fresh(net):
    return copy.deepcopy(net[0])


def parts(model):
    with torch.no_grad():
        model(X)
    return model._plan.parts


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_call_runs_a_whole_network(net, layout):
    converted, prepared = net
    x = X.to(memory_format=layout)
    assert type(converted) is Sequential
    y = converted(x)
    assert torch.equal(y, prepared(x)) and torch.equal(y, by_module(converted, x))
    assert len(converted._plan.parts) == 1 and isinstance(converted._plan.parts[0], Segment)
    assert torch.equal(converted(X[0:1]), y[0:1])


def test_every_kind_of_step_is_made_by_some_network(net):
    seen = set()

    def kinds(model, x):
        with torch.no_grad():
            assert torch.equal(model(x), by_module(model, x))
        for part in model._plan.parts:
            if isinstance(part, Segment):
                for kind, name in enumerate(_KINDS):
                    if name in recorded(model, x):
                        seen.add(name)

    def recorded(model, x):
        from torchqat.nn.quantized import _program

        names = []
        original = _program._Builder._step
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_program._Builder, "_step", lambda self, kind, *rest: (names.append(kind), original(self, kind, *rest))[1])
            _program.Plan(model)
        return names

    kinds(net[0], X)
    for config in MLP.values():
        for edges in (False, True):
            kinds(made(mlp(), config, VECTORS, edges)[0], VECTORS)
    assert seen == set(_KINDS)


@torch.no_grad()
@pytest.mark.parametrize("name", MLP)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_linear_layers(name, dtype):
    converted, prepared = made(mlp(), MLP[name], VECTORS, edges=False)
    x = VECTORS.to(dtype)
    if dtype is torch.float64 and "weight_only" in name:
        return
    if dtype is not torch.float32:
        converted = converted.to(dtype)
    y = converted(x)
    assert torch.equal(y, by_module(converted, x)) and y.dtype == dtype
    for shape in ((0, 64), (64,), (2, 3, 64)):
        part = torch.randn(shape, dtype=dtype)
        assert torch.equal(converted(part), by_module(converted, part))
    if dtype is torch.bfloat16:
        return
    for module in (converted, nn.Sequential(*converted)):
        with pytest.raises((ValueError, RuntimeError)):
            module(torch.randn(3, 63, dtype=dtype))


@torch.no_grad()
@pytest.mark.parametrize("config", [torchqat.QConfig.int8(), torchqat.QConfig.int8_dynamic()])
def test_autocast(config):
    for edges in (False, True):
        converted, _ = made(mlp(), config, VECTORS, edges)
        with torch.autocast("cpu", torch.bfloat16):
            y = converted(VECTORS)
            assert torch.equal(y, by_module(converted, VECTORS)) and y.dtype == by_module(converted, VECTORS).dtype


@torch.no_grad()
def test_hooks_are_called_and_see_what_they_saw_before(fresh):
    expected = fresh(X)
    for name, module in list(fresh.named_modules())[1:]:
        seen = []
        handle = module.register_forward_hook(lambda m, args, out: seen.append(out))
        assert torch.equal(fresh(X), expected), name
        assert len(seen) == 1, name
        handle.remove()
        handle = module.register_forward_pre_hook(lambda m, args: seen.append(args))
        fresh(X)
        assert len(seen) == 2, name
        handle.remove()
        assert torch.equal(fresh(X), expected)
        assert len(seen) == 2 and len(fresh._plan.parts) == 1
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.append(m))
    assert torch.equal(fresh(X), expected)
    handle.remove()
    assert len(seen) >= 20


@torch.no_grad()
def test_replaced_children_forwards_buffers_and_settings(fresh):
    expected = fresh(X)
    # A child, at any depth.
    inner = fresh[4]
    kept, inner[1] = inner[1], nn.Hardtanh(-0.1, 0.1)
    assert not torch.equal(fresh(X), expected) and torch.equal(fresh(X), by_module(fresh, X))
    inner[1] = kept
    assert torch.equal(fresh(X), expected)
    # The forward of one object.
    fresh[8].forward = lambda x: torch.zeros(2, 16)
    assert torch.equal(fresh(X)[0], fresh(X)[1]) and not torch.equal(fresh(X), expected)
    del fresh[8].forward
    assert torch.equal(fresh(X), expected)
    # The forward of a class.
    class Doubled(Plain):
        pass

    inner[0].__class__ = Doubled
    assert torch.equal(fresh(X), expected)
    Doubled.forward = lambda self, x: self.after(self.body(self.body(x)))
    assert torch.equal(fresh(X), by_module(fresh, X))
    inner[0].__class__ = Plain
    # A setting that a forward reads, and one of a float module.
    inner[0].twice = True
    twice = fresh(X)
    assert torch.equal(twice, by_module(fresh, X)) and not torch.equal(twice, expected)
    inner[0].twice = False
    fresh[7].start_dim = 2
    with pytest.raises((ValueError, RuntimeError)):
        fresh(X)
    fresh[7].start_dim = 1
    assert torch.equal(fresh(X), expected)
    # Buffers: changed in place, replaced, taken away and put where there was none.
    fresh[10].bias.add_(1.0)
    assert torch.equal(fresh(X), by_module(fresh, X)) and not torch.equal(fresh(X), expected)
    fresh[10].bias = fresh[10].bias - 1.0
    other = fresh(X)
    assert torch.equal(other, by_module(fresh, X))
    kept, fresh[10].bias = fresh[10].bias, None
    assert torch.equal(fresh(X), by_module(fresh, X))
    fresh[10].bias = kept
    assert torch.equal(fresh(X), other)


@torch.no_grad()
def test_copies_files_and_state(net, fresh, tmp_path):
    expected = fresh(X)
    twin = copy.deepcopy(fresh)
    assert twin._plan is None and torch.equal(twin(X), expected)
    assert twin._plan is not fresh._plan
    twin[10].bias.zero_()
    assert torch.equal(fresh(X), expected) and not torch.equal(twin(X), expected)
    twin.load_state_dict(fresh.state_dict())
    assert torch.equal(twin(X), expected)
    twin[10].bias.zero_()
    twin.load_state_dict(fresh.state_dict(), assign=True)
    assert torch.equal(twin(X), expected)
    again = pickle.loads(pickle.dumps(fresh))
    assert type(again) is Sequential and torch.equal(again(X), expected)
    assert list(fresh.state_dict()) == list(by_keys(fresh))
    torchqat.save(fresh, tmp_path / "net.safetensors")
    loaded = torchqat.load(tmp_path / "net.safetensors", image_net())
    assert type(loaded) is Sequential and torch.equal(loaded(X), expected) and len(loaded._plan.parts) == 1
    assert torch.equal(fresh[:3](X), nn.Sequential(*list(fresh)[:3])(X)) and type(fresh[:3]) is Sequential


def by_keys(model):
    plain = copy.deepcopy(model)
    plain.__class__ = nn.Sequential
    return plain.state_dict()


@torch.no_grad()
def test_script_trace_compile_export(fresh):
    expected = fresh(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(fresh)
        traced = torch.jit.trace(fresh, X)
    stream = io.BytesIO()
    torch.jit.save(scripted, stream)
    stream.seek(0)
    for model in (scripted, traced, torch.jit.load(stream)):
        assert "_run_layers" not in str(model.graph)
        assert torch.equal(model(X), expected)
    assert torch.equal(torch.compile(fresh, fullgraph=True, backend="aot_eager")(X), expected)
    exported = torch.export.export(fresh, (X,))
    assert "_run_layers" not in str(exported.graph)
    assert torch.equal(exported.module()(X), expected)
    fake = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        assert fresh(fake.from_tensor(X)).shape == expected.shape


def test_gradients_are_refused_as_layer_by_layer(fresh):
    x = X.clone().requires_grad_()
    outcomes = []
    for model in (fresh, by_module):
        try:
            y = model(x) if model is fresh else nn.Sequential(*fresh)(x)
            y.sum().backward()
            outcomes.append("gradient")
        except RuntimeError as error:
            outcomes.append(type(error).__name__)
    assert outcomes[0] == outcomes[1]


class Counting(Plain):
    count = 0

    def forward(self, x):
        self.count += 1
        return self.after(self.body(x))


class Global(Plain):
    def forward(self, x):
        return self.after(self.body(x)) if torch.is_grad_enabled() else self.after(x)


class Method(Plain):
    def forward(self, x):
        return self.inside(x)

    def inside(self, x):
        return self.after(self.body(x))


class Listed(Plain):
    def __init__(self, width):
        super().__init__(width)
        self.scale = [1.0]

    def forward(self, x):
        return self.after(self.body(x)) if self.scale else x


class ByShape(Plain):
    def forward(self, x):
        return self.after(self.body(x)) if x.shape else x


class Keyword(Plain):
    def forward(self, *x):
        return self.after(self.body(*x))


@torch.no_grad()
def test_only_forwards_without_effects_become_graphs():
    assert plain_forward(Plain(2)) is not None and plain_forward(Residual(2)) is not None
    for kind in (Counting, Global, Method, Listed, ByShape, Keyword):
        assert plain_forward(kind(2)) is None, kind
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Counting(4), nn.Conv2d(4, 4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted, _ = made(model, torchqat.QConfig.int8(), X, edges=False)
    before = converted[1].count
    assert torch.equal(converted(X), by_module(converted, X))
    assert [type(part) for part in converted._plan.parts] == [Segment, Counting, Segment]
    assert converted[1].count == before + 1


@torch.no_grad()
def test_inplace_functions_change_the_input_as_before():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(64, 4))
    converted, _ = made(model, torchqat.QConfig.int8_dynamic(), VECTORS, edges=False)
    x = VECTORS.clone()
    converted(x)
    assert torch.equal(x, VECTORS.relu())


def test_op(fresh):
    x = X.clone()
    with torch.no_grad():
        expected = fresh(x)
    (segment,) = fresh._plan.parts
    held = [buffers[name] for buffers, name in segment.slots]
    assert torch.equal(torch.ops.torchqat._run_layers(x, held, segment.words), expected)
    assert torch.ops.torchqat._run_layers(x, [], torch.tensor([1])) is not None
    words = segment.words
    for bad in (words.int(), words.reshape(1, -1), torch.empty(0, dtype=torch.int64), words[::2]):
        with pytest.raises(ValueError, match="_run_layers: program must"):
            torch.ops.torchqat._run_layers(x, held, bad)
    for cut in (1, 2, 3):
        with pytest.raises(ValueError, match="_run_layers: program must"):
            torch.ops.torchqat._run_layers(x, held, words[:-cut].clone())
    for at, value in ((0, 0), (0, -1), (1, 99), (2, 1 << 40), (3, 5), (5, 1000), (5, -3)):
        bad = words.clone()
        bad[at] = value
        with pytest.raises(ValueError, match="_run_layers: program must"):
            torch.ops.torchqat._run_layers(x, held, bad)



@pytest.mark.parametrize("preset", ["int8", "int8_dynamic", "int4_weight_only", "int4_int8"])
def test_rows_of_layers_follow_their_tensors_to_another_device(preset):
    """The program stays on the CPU; what it computes does not."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 32), nn.GELU(), nn.Linear(32, 8))
    x = torch.randn(2, 3, 8, 8)
    prepared = torchqat.prepare_qat(model, getattr(torchqat.QConfig, preset)(), example_inputs=(x,))
    prepared(x)
    converted = torchqat.convert(prepared.eval(), example_inputs=(x,))
    shape = converted(x).shape
    y = converted.to("meta")(x.to("meta"))
    assert y.is_meta and y.shape == shape and converted._plan.segments
