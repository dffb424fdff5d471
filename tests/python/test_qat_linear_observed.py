"""The training layer's weights packed once, and its statistics in the same call: equal to the ops one after another."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchqat

ops = torch.ops.torchqat
ISAS = torchqat._C.supported_isas()
CONSTANT = 0.01


def each_isa():
    before = ops._cpu_isa()
    try:
        for name in ISAS:
            ops._set_cpu_isa(name)
            yield name
    finally:
        ops._set_cpu_isa(before)


def state():
    return [torch.tensor(float("inf")), torch.tensor(float("-inf")), torch.zeros((), dtype=torch.int64)]


def operands(m, k, n, seed=0, dtype=torch.float32, bias=True):
    g = torch.Generator().manual_seed(seed)
    x, w = torch.randn(m, k, generator=g), torch.randn(n, k, generator=g) / max(k, 1) ** 0.5
    b = torch.randn(n, generator=g) if bias else None
    return [t if t is None else t.to(dtype).requires_grad_() for t in (x, w, b)]


def observed(x, w, b, s, symmetric=False, backward="auto"):
    low, high = (-128, 127) if symmetric else (0, 255)
    return ops.qat_linear_int8_observed(x, w, b, *s, CONSTANT, low, high, symmetric, -127, 127, backward)


def apart(x, w, b, s, symmetric=False, backward="auto"):
    low, high = (-128, 127) if symmetric else (0, 255)
    scale, zero = ops.observe_minmax_(x.detach(), *s, [], CONSTANT, low, high, symmetric)
    weight_scale, _ = ops.choose_qparams(w.detach(), [1, -1], -127, 127, True)
    return ops.qat_linear_int8(x, w, b, scale, zero, weight_scale, low, high, -127, 127, backward=backward)


def step(f, leaves, s, **options):
    for t in leaves:
        if t is not None:
            t.grad = None
    y = f(*leaves, s, **options)
    y.backward(torch.ones_like(y) * torch.arange(1, y.shape[-1] + 1, dtype=y.dtype))
    return [y.detach(), *(t.grad for t in leaves if t is not None), *s]


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 70), k=st.integers(1, 140), n=st.integers(1, 140), bias=st.booleans(), symmetric=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_one_call_equals_the_ops_apart(m, k, n, bias, symmetric, dtype, seed):
    leaves = operands(m, k, n, seed, dtype, bias)
    for name in each_isa():
        ours, theirs = state(), state()
        for _ in range(2):  # the second batch is averaged in
            a, b = step(observed, leaves, ours, symmetric=symmetric), step(apart, leaves, theirs, symmetric=symmetric)
            assert all(torch.equal(p, q) for p, q in zip(a, b)), name


@pytest.mark.parametrize("n, k", [(1, 1), (5, 7), (64, 64), (65, 130), (3, 2100), (130, 1024)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_finds_the_scales_of_choose_qparams(n, k, dtype):
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(n)).to(dtype)
    w[0, 0] = float("inf")
    w[-1, -1] = float("nan")
    scale = ops.choose_qparams(w, [1, -1], -127, 127, True)[0].flatten()
    codes = ops.quantize(w, scale[:, None], None, [1, -1], -127, 127, torch.int8)
    packed = ops.linear_int8_pack(codes)
    for name in each_isa():
        for given_scale in (None, scale, scale.view(n, 1)):
            got = ops.qat_linear_int8_pack(w, given_scale, -127, 127)
            assert torch.equal(got[0], packed) and torch.equal(got[2], scale), name
            assert got[2].data_ptr() != scale.data_ptr()
            inside = torch.zeros(n, (k + 7) // 8 * 8, dtype=torch.bool)
            inside[:, :k] = (w.float() / scale[:, None]).round().abs() <= 127
            bits = (inside.view(n, -1, 8).long() << torch.arange(8)).sum(-1).to(torch.uint8)
            assert torch.equal(got[1], bits)


def test_zero_and_empty_weights():
    packed, mask, scale = ops.qat_linear_int8_pack(torch.zeros(3, 5), None, -127, 127)
    assert torch.equal(scale, torch.ones(3)) and not ops.linear_int8_unpack(packed).any()
    for shape in [(0, 4), (4, 0)]:
        packed, mask, scale = ops.qat_linear_int8_pack(torch.zeros(shape), None, -127, 127)
        assert ops.linear_int8_unpack(packed).shape == shape and scale.shape == (shape[0],)
        y = observed(torch.randn(2, shape[1]), torch.zeros(shape), None, state())
        assert y.shape == (2, shape[0])


def test_a_packed_weight_stands_for_the_weight():
    x, w, b = operands(33, 70, 90)
    packed, mask, scale = ops.qat_linear_int8_pack(w, None, -127, 127)
    rest = (torch.tensor(0.02), torch.tensor(128))

    def run(packed=None, mask=None):
        for t in (x, w, b):
            t.grad = None
        y = ops.qat_linear_int8(x, w, b, *rest, scale, 0, 255, -127, 127, packed_weight=packed, weight_mask=mask)
        y.sum().backward()
        return y.detach(), x.grad, w.grad, b.grad

    for name in each_isa():
        for a, c in zip(run(), run(packed, mask)):
            assert torch.equal(a, c), name
    with torch.no_grad():
        y = ops.qat_linear_int8(x, w, b, *rest, scale, 0, 255, -127, 127, packed_weight=packed)
    assert torch.equal(y, run()[0])
    # It is used, not made again.
    with torch.no_grad():
        w.mul_(3.0)
    assert torch.equal(run(packed, mask)[0], y)


def test_compile_script_autocast_inference():
    leaves = operands(17, 40, 24)
    wanted = step(observed, leaves, state())
    compiled = torch.compile(observed, fullgraph=True)
    for a, b in zip(step(compiled, leaves, state()), wanted):
        assert torch.equal(a, b)

    @torch.jit.script
    def scripted(x, w, b, lo, hi, count):
        return torch.ops.torchqat.qat_linear_int8_observed(x, w, b, lo, hi, count, 0.01, 0, 255, False, -127, 127)

    for a, b in zip(step(lambda x, w, b, s: scripted(x, w, b, *s), leaves, state()), wanted):
        assert torch.equal(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        y = observed(*leaves, state())
    assert torch.equal(y, wanted[0].bfloat16())
    s = state()
    with torch.inference_mode():
        assert torch.equal(observed(*leaves, s), wanted[0])
    versions = [t._version for t in s]
    observed(*leaves, s)
    assert all(t._version > v for t, v in zip(s, versions))


def test_opcheck():
    x, w, b = operands(3, 9, 5)
    torch.library.opcheck(ops.qat_linear_int8_pack.default, (w.detach(), None, -127, 127))
    torch.library.opcheck(ops.qat_linear_int8_pack.default, (w.detach(), torch.rand(5) + 0.1, -127, 127))
    args = (x, w, b, torch.tensor(0.02), torch.tensor(3), None, 0, 255, -127, 127)
    torch.library.opcheck(ops.qat_linear_int8.default, args)
    torch.library.opcheck(
        ops.qat_linear_int8_observed.default, (x, w, b, *state(), 0.01, 0, 255, False, -127, 127),
        test_utils=("test_schema", "test_faketensor"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ((torch.zeros(4), None, -127, 127), ValueError, r"weight must have shape \[N, K\]"),
        ((torch.zeros(4, 4).long(), None, -127, 127), TypeError, "weight must be float32, bfloat16 or float16"),
        ((torch.zeros(4, 4), torch.ones(3), -127, 127), ValueError, "weight_scale must have one element or 4"),
        ((torch.zeros(4, 4), torch.ones(4).long(), -127, 127), TypeError, "weight_scale must have a floating dtype"),
        ((torch.zeros(4, 4), -torch.ones(4), -127, 127), ValueError, "weight_scale must be finite and > 0"),
        ((torch.zeros(4, 4), None, -200, 127), ValueError, "must lie within"),
        ((torch.zeros(4, 4), None, -127, 0), ValueError, "must be > 0 where weight_scale is absent"),
    ],
)
def test_errors_of_packing(arguments, error, words):
    with pytest.raises(error, match="qat_linear_int8_pack: .*" + words):
        ops.qat_linear_int8_pack(*arguments)


def test_errors_of_the_layer():
    x, w, s, z = torch.zeros(2, 8), torch.zeros(4, 8), torch.tensor(1.0), torch.tensor(0)
    packed, mask, scale = ops.qat_linear_int8_pack(torch.zeros(4, 9), None, -127, 127)
    with pytest.raises(ValueError, match="packed_weight needs the weight_scale"):
        ops.qat_linear_int8(x, w, None, s, z, None, 0, 255, -127, 127, packed_weight=packed)
    with pytest.raises(ValueError, match="packed_weight must hold 8 columns"):
        ops.qat_linear_int8(x, w, None, s, z, scale, 0, 255, -127, 127, packed_weight=packed)
    with pytest.raises(ValueError, match="weight_scale must be given where weight_learned is true"):
        ops.qat_linear_int8(x, w, None, s, z, None, 0, 255, -127, 127, False, True)


class Counted:
    """Counts calls of ops by name."""

    def __enter__(self):
        self.counts: dict[str, int] = {}
        owner = self

        class Mode(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                name = func.name().split("::")[-1]
                owner.counts[name] = owner.counts.get(name, 0) + 1
                return func(*args, **(kwargs or {}))

        self.mode = Mode()
        self.mode.__enter__()
        return self

    def __exit__(self, *exc):
        self.mode.__exit__(*exc)


@pytest.mark.parametrize("config", [torchqat.QConfig.int8(), torchqat.QConfig.int8_dynamic()])
def test_reuse_weights_packs_once(config):
    torch.manual_seed(0)
    model = torchqat.prepare_qat(torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.ReLU(), torch.nn.Linear(40, 8)), config)
    plain = copy.deepcopy(model)
    batches = torch.randn(3, 16, 24)
    for batch in batches:
        plain(batch).square().mean().backward()
    with torchqat.reuse_weights(model), Counted() as seen:
        for batch in batches:
            model(batch).square().mean().backward()
    assert seen.counts["qat_linear_int8_pack"] == 2
    for a, b in zip(model.parameters(), plain.parameters()):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(model.buffers(), plain.buffers()):
        assert torch.equal(a, b)
    # Outside, a changed weight is seen at once; also one written without a new version.
    before = model.eval()(batches[0])
    torch.optim.SGD(model.parameters(), lr=0.5, fused=True).step()
    after = model(batches[0])
    assert not torch.equal(after, before)
    plain.load_state_dict(model.state_dict())
    with torchqat.reuse_weights(plain):
        assert torch.equal(plain.eval()(batches[0]), after)
    plain[0].weight.data.numpy()[:] = 0.0
    assert not torch.equal(plain(batches[0]), after)


@pytest.mark.parametrize("estimator", ["ste", "lsq", "tqt", "dorefa"])
def test_reuse_weights_with_every_estimator(estimator):
    config = torchqat.QConfig(torchqat.QuantSpec("int8", "channel", estimator=estimator), torchqat.QuantSpec("uint8", symmetric=False, observer="ema"))
    torch.manual_seed(0)
    plain = torchqat.prepare_qat(torch.nn.Sequential(torch.nn.Linear(9, 4)), config)
    reused = copy.deepcopy(plain)
    batches = torch.randn(3, 5, 9)
    for batch in batches:
        plain(batch).square().sum().backward()
    with torchqat.reuse_weights(reused):
        for batch in batches:
            reused(batch).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), reused.parameters()):
        assert torch.equal(a.grad, b.grad), name
