"""qat_linear_grouped: bits of the deployed layer forward; straight-through and learned gradients against plain torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import torchqat  # noqa: F401
from torchqat import _C

ops = torch.ops.torchqat
ISAS = _C.supported_isas()


def problem(m=9, n=66, k=96, group=32, bits=4, per_token=True, seed=0, zero_dtype=torch.int32):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(m, k, generator=g)
    w = torch.randn(n, k, generator=g)
    b = torch.randn(n, generator=g)
    high = 2 ** (bits - 1) - 1
    # Smaller than absmax / high, so that both operands clip somewhere.
    w_scale = (torch.rand(n, -(-k // group), generator=g) + 1.0) / max(high, 1)
    s, z = ops.choose_qparams(x * 0.7, [1, -1] if per_token else [], 0, 255, False)
    return x, w, b, s, z.to(zero_dtype), w_scale, (0, 255, -high - 1, high)


def reference(x, w, b, s, z, w_scale, group, ranges, learned=(False, False), grad_scales=(1.0, 1.0)):
    """Fake-quantise both operands, then F.linear, in float64 where the codes do not depend on it."""
    x_block = [1, -1] if s.numel() > 1 else []
    if learned[0]:
        x_hat = ops.fake_quantize_learned(x, s, z, x_block, ranges[0], ranges[1], grad_scales[0])
    else:
        x_hat = ops.fake_quantize(x, s, z, x_block, ranges[0], ranges[1])
    if learned[1]:
        w_hat = ops.fake_quantize_learned(w, w_scale, None, [1, group], ranges[2], ranges[3], grad_scales[1])
    else:
        w_hat = ops.fake_quantize(w, w_scale, None, [1, group], ranges[2], ranges[3])
    return F.linear(x_hat, w_hat, b)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()


@settings(max_examples=25, deadline=None)
@given(
    m=st.sampled_from([1, 2, 9, 17]), n=st.sampled_from([1, 64, 65]), k=st.integers(1, 140),
    group=st.sampled_from([3, 8, 31, 32, 64, 1000]), bits=st.sampled_from([2, 3, 4, 8]), per_token=st.booleans(),
    seed=st.integers(0, 100),
)
def test_the_forward_has_the_bits_of_the_deployed_layer(m, n, k, group, bits, per_token, seed):
    x, w, b, s, z, w_scale, ranges = problem(m, n, k, min(group, k), bits, per_token, seed)
    codes = ops.quantize(w, w_scale, None, [1, min(group, k)], ranges[2], ranges[3], torch.int8)
    deployed = ops.linear_grouped_int8(x, ops.linear_grouped_pack(codes, bits, group), w_scale, b, s, z, *ranges[:2])
    for isa in ISAS:
        ops._set_cpu_isa(isa)
        assert torch.equal(ops.qat_linear_grouped(x, w, b, s, z, w_scale, group, *ranges), deployed), isa
        trained = ops.qat_linear_grouped(x, w.clone().requires_grad_(), b, s, z, w_scale, group, *ranges)
        assert torch.equal(trained, deployed), isa
    assert relative(deployed, reference(x, w, b, s, z, w_scale, min(group, k), ranges)) < 1e-5


@pytest.mark.parametrize("n", [1, 64, 70, 130])
@pytest.mark.parametrize("k, group", [(64, 16), (64, 64), (128, 32), (192, 48), (192, 192), (320, 64)])
def test_whole_groups_have_the_bits_of_the_deployed_layer(n, k, group):
    """Nothing is padded: quantised and packed panel by panel."""
    x, w, b, s, z, w_scale, ranges = problem(5, n, k, group, 4)
    w[0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    w[-1, k - 1] = 1e30
    codes = ops.quantize(w, w_scale, None, [1, group], ranges[2], ranges[3], torch.int8)
    deployed = ops.linear_grouped_int8(x, ops.linear_grouped_pack(codes, 4, group), w_scale, b, s, z, *ranges[:2])
    for isa in ISAS:
        ops._set_cpu_isa(isa)
        leaf = w.clone().requires_grad_()
        y = ops.qat_linear_grouped(x, leaf, b, s, z, w_scale, group, *ranges)
        assert torch.equal(y, deployed), isa
        y.sum().backward()
        inside = (torch.round(w / w_scale.repeat_interleave(group, 1)) == codes) & w.isfinite()
        assert torch.equal(leaf.grad != 0, inside), isa


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("backward, bound", [("float32", 2e-6), ("int16", 3e-4), ("bfloat16", 3e-3), ("auto", 3e-3)])
@pytest.mark.parametrize("group, k", [(32, 256), (20, 130)])
@pytest.mark.parametrize("per_token", [True, False])
def test_gradients_pass_straight_through(isa, backward, bound, group, k, per_token):
    ops._set_cpu_isa(isa)
    x, w, b, s, z, w_scale, ranges = problem(70, 130, k, group, 4, per_token)
    leaves = [t.clone().requires_grad_() for t in (x, w, b)]
    # A sum may cancel to 0 by chance, about once in 400 seeds.
    grad = torch.randn(70, 130, generator=torch.Generator().manual_seed(1))
    ops.qat_linear_grouped(*leaves, s, z, w_scale, group, *ranges, backward=backward).backward(grad)
    wanted = [t.clone().requires_grad_() for t in (x, w, b)]
    reference(*wanted, s, z, w_scale, group, ranges).backward(grad)
    for name, got, want in zip(("input", "weight", "bias"), leaves, wanted, strict=True):
        assert relative(got.grad, want.grad) < (2e-6 if name == "bias" else bound), name
        assert torch.equal(got.grad == 0, want.grad == 0), name  # the masks
    assert (wanted[0].grad == 0).any() and (wanted[1].grad == 0).any()


@settings(max_examples=40, deadline=None)
@given(
    m=st.sampled_from([1, 3, 8, 9, 64, 70]), n=st.sampled_from([1, 4, 63, 64, 130]), k=st.integers(1, 200),
    group=st.sampled_from([1, 3, 8, 16, 32, 48, 1000]), bits=st.sampled_from([2, 4, 8]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), per_token=st.booleans(), seed=st.integers(0, 100),
)
def test_int16_gradients_are_those_of_float64_and_the_same_bits_on_every_path(m, n, k, group, bits, dtype, per_token, seed):
    x, w, b, s, z, w_scale, ranges = problem(m, n, k, min(group, k), bits, per_token, seed)
    grad = torch.randn(m, n, generator=torch.Generator().manual_seed(seed)).to(dtype)
    results = []
    for isa in ISAS:
        ops._set_cpu_isa(isa)
        _, codes, _, w_codes, _ = ops._qat_linear_grouped_forward(x, w, b, s, z, w_scale, group, *ranges, False, False)
        results.append(ops._qat_linear_grouped_backward(
            grad, codes, None, w_codes, None, s, z, w_scale, group, 0, 255, torch.float32, torch.float32, "int16", [True] * 3
        ))
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))
    x_hat = torch.clamp(torch.round(x / s) + z, 0, 255).sub(z).double() * s.double()
    w_hat = w_codes.double() * w_scale.double().repeat_interleave(min(group, k), 1)[:, :k]
    wanted = grad.double() @ w_hat, grad.double().t() @ x_hat, grad.double().sum(0)
    for name, got, want in zip(("input", "weight", "bias"), results[0], wanted, strict=True):
        assert relative(got, want) < 3e-4, name


def test_int16_gradients_over_a_long_reduction():
    """More than a segment of 65536 outputs, at the ends of the limbs' range."""
    x, w, b, s, z, w_scale, ranges = problem(2, 65536 + 70, 3, 3, 4)
    for grad in (torch.ones(2, len(w)), torch.randn(2, len(w), generator=torch.Generator().manual_seed(1))):
        for codes in (torch.full_like(w, -8), torch.randint(-8, 8, w.shape, generator=torch.Generator().manual_seed(2))):
            w_hat = codes * w_scale
            results = []
            for isa in ISAS:
                ops._set_cpu_isa(isa)
                leaf = x.clone().requires_grad_()
                y = ops.qat_linear_grouped(leaf, w_hat, None, s, z, w_scale, 3, *ranges, backward="int16")
                y.backward(grad)
                results.append(leaf.grad)
            assert all(torch.equal(result, results[0]) for result in results)
            inside = results[0] != 0
            assert inside.any() and relative(results[0], grad.double() @ w_hat.double() * inside) < 3e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_row(bad):
    x, w, b, s, z, w_scale, ranges = problem(6, 20, 40)
    for isa in ISAS:
        ops._set_cpu_isa(isa)
        grads = []
        for value in (1.0, bad):
            leaf = x.clone().requires_grad_()
            grad = torch.ones(6, 20)
            grad[2, 5] = value
            ops.qat_linear_grouped(leaf, w, b, s, z, w_scale, 32, *ranges, backward="int16").backward(grad)
            grads.append(leaf.grad)
        assert torch.equal(grads[0][[0, 1, 3, 4, 5]], grads[1][[0, 1, 3, 4, 5]])
        assert torch.equal(grads[1][2].isnan(), grads[0][2] != 0)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 2e-6), (torch.bfloat16, 3e-3)])
def test_the_float32_backward_takes_a_large_weight_in_parts(dtype, bound):
    x, w, b, s, z, w_scale, ranges = problem(3, 600, 2100, 32, 4)
    x, w = x.to(dtype), w.to(dtype)
    leaves = [t.clone().requires_grad_() for t in (x, w)]
    grad = torch.randn(3, 600, generator=torch.Generator().manual_seed(1)).to(dtype)
    ops.qat_linear_grouped(*leaves, None, s, z, w_scale, 32, *ranges, backward="float32").backward(grad)
    wanted = [t.float().clone().requires_grad_() for t in (x, w)]
    reference(*wanted, None, s, z, w_scale, 32, ranges).backward(grad.float())
    for got, want in zip(leaves, wanted, strict=True):
        assert got.grad.dtype == dtype
        assert relative(got.grad, want.grad) < bound


@pytest.mark.parametrize("input_learned, weight_learned", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("group", [32, 20])
def test_learned_scales(input_learned, weight_learned, per_token, group):
    x, w, b, s, z, w_scale, ranges = problem(20, 70, 96, group, 4, per_token, zero_dtype=torch.float32)
    z = z + 0.3
    leaves = lambda: [t.clone().requires_grad_() for t in (x, w, b, s, z, w_scale)]  # noqa: E731
    ours, theirs = leaves(), leaves()
    grad = torch.randn(20, 70)
    ops.qat_linear_grouped(*ours, group, *ranges, input_learned, weight_learned, 0.5, 0.25, "float32").backward(grad)
    if not input_learned:
        theirs[3] = theirs[3].detach()
        theirs[4] = theirs[4].detach().round().to(torch.int32)
    if not weight_learned:
        theirs[5] = theirs[5].detach()
    reference(*theirs, group, ranges, (input_learned, weight_learned), (0.5, 0.25)).backward(grad)
    for name, got, want in zip(("x", "w", "b", "s", "z", "w_scale"), ours, theirs, strict=True):
        if not want.requires_grad:
            assert got.grad is None, name
        else:
            assert relative(got.grad, want.grad) < 1e-5, name


def test_shapes_dtypes_and_empties():
    x, w, b, s, z, w_scale, ranges = problem(24)
    call = lambda x, w=w, b=b, s=s, z=z: ops.qat_linear_grouped(x, w, b, s, z, w_scale, 32, *ranges)  # noqa: E731
    full = call(x)
    assert torch.equal(call(x.view(2, 3, 4, 96), s=s, z=z), full.view(2, 3, 4, 66))
    assert torch.equal(call(x.t().contiguous().t()), full)
    assert call(x[:0], s=s[:1, :1], z=z[:1, :1]).shape == (0, 66)
    leaves = [x[:0].clone().requires_grad_(), w.clone().requires_grad_(), b.clone().requires_grad_()]
    call(*leaves, s=s[:1], z=z[:1]).sum().backward()
    assert all((t.grad == 0).all() and t.grad.shape == t.shape for t in leaves)
    low = [t.bfloat16().requires_grad_() for t in (x, w, b)]
    y = call(*low)
    assert y.dtype == torch.bfloat16 and torch.equal(y, call(*[t.detach().float() for t in low]).bfloat16())
    y.backward(torch.ones_like(y))
    assert all(t.grad.dtype == torch.bfloat16 for t in low)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(call(x), full.bfloat16())
    assert torch.equal(ops.qat_linear_grouped(x, w, None, s, z, w_scale, 32, *ranges), call(x, b=torch.zeros(66)))
    bad = x.clone()
    bad[3, 1] = float("nan")
    y = call(bad)
    assert y[3].isnan().all() and torch.equal(y[4:], full[4:])


def test_no_bias_and_partial_gradients():
    x, w, _, s, z, w_scale, ranges = problem()
    for wanted in ((True, False), (False, True)):
        leaves = [t.clone().requires_grad_(want) for t, want in zip((x, w), wanted, strict=True)]
        ops.qat_linear_grouped(*leaves, None, s, z, w_scale, 32, *ranges, backward="float32").sum().backward()
        theirs = [t.clone().requires_grad_(want) for t, want in zip((x, w), wanted, strict=True)]
        reference(*theirs, None, s, z, w_scale, 32, ranges).sum().backward()
        for got, want in zip(leaves, theirs, strict=True):
            assert (got.grad is None) == (want.grad is None)
            if want.grad is not None:
                assert relative(got.grad, want.grad) < 2e-6


@pytest.mark.parametrize("backward", ["int16", "bfloat16"])
@pytest.mark.parametrize("n, k", [(200, 256), (70, 1500)])
def test_threads_change_nothing(backward, n, k):
    x, w, b, s, z, w_scale, ranges = problem(130, n, k)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaves = [t.clone().requires_grad_() for t in (x, w, b)]
        y = ops.qat_linear_grouped(*leaves, s, z, w_scale, 32, *ranges, backward=backward)
        y.backward(torch.ones_like(y))
        results.append([y.detach(), *[t.grad for t in leaves]])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_opcheck_compile_script_and_double_backward():
    x, w, b, s, z, w_scale, ranges = problem(5, 66, 70)
    w_scale = torch.rand(66, 3) + 0.1
    args = (x.requires_grad_(), w.requires_grad_(), b.requires_grad_(), s, z, w_scale, 32, *ranges)
    torch.library.opcheck(ops.qat_linear_grouped.default, args)
    detached = [t.detach() if isinstance(t, torch.Tensor) else t for t in args]
    torch.library.opcheck(ops._qat_linear_grouped_forward.default, (*detached, False, False))

    def f(x: torch.Tensor, w: torch.Tensor, s: torch.Tensor, z: torch.Tensor, w_scale: torch.Tensor) -> torch.Tensor:
        return torch.ops.torchqat.qat_linear_grouped(x, w, None, s, z, w_scale, 32, 0, 255, -8, 7) * 2

    def run(function):
        leaves = [t.detach().clone().requires_grad_() for t in (x, w)]
        y = function(*leaves, s, z, w_scale)
        y.sum().backward()
        return [y.detach(), leaves[0].grad, leaves[1].grad]

    wanted = run(f)
    for other in (torch.compile(f, fullgraph=True, backend="aot_eager"), torch.jit.script(f)):
        assert all(torch.equal(a, b) for a, b in zip(run(other), wanted, strict=True))
    y = ops.qat_linear_grouped(*args)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_saved_tensors_are_small():
    x, w, b, s, z, w_scale, ranges = problem(64, 64, 256)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ops.qat_linear_grouped(x.requires_grad_(), w.requires_grad_(), b, s, z, w_scale, 32, *ranges)
    activations = [t for t in saved if t.shape[0] == 64 and t.dtype == torch.uint8]
    assert sum(t.numel() for t in activations) <= 64 * 256 * (1 + 2 / 8)
    assert not any(t.data_ptr() == x.data_ptr() for t in saved)


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"group_size": 0}, ValueError, "qat_linear_grouped: group_size must be at least 1, got 0"),
        ({"weight_scale": torch.ones(66, 2)}, ValueError, r"weight_scale must have shape \[66, 3\] for weight \[66, 96\] and group_size 32, got \[66, 2\]"),
        ({"weight_scale": torch.zeros(66, 3)}, ValueError, "weight_scale must be finite and > 0, got 0"),
        ({"weight_scale": torch.ones(66, 3, dtype=torch.int32)}, TypeError, "weight_scale must have a floating dtype"),
        ({"weight": torch.zeros(66)}, ValueError, r"weight must have shape \[N, K\]"),
        ({"input": torch.zeros(9, 95)}, ValueError, r"input must have shape \[..., 96\]"),
        ({"input": torch.zeros(9, 96, dtype=torch.float64)}, TypeError, "input must be float32, bfloat16 or float16"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias must have shape \[66\]"),
        ({"input_quant_max": 256}, ValueError, "must lie within"),
        ({"weight_quant_min": -129}, ValueError, r"must lie within \[-128, 127\]"),
        ({"backward": "int8"}, ValueError, "backward must be 'float32', 'bfloat16', 'int16' or 'auto', got 'int8'"),
    ],
)
def test_errors(changes, error, words):
    x, w, b, s, z, w_scale, ranges = problem()
    arguments = {
        "input": x, "weight": w, "bias": b, "input_scale": s, "input_zero_point": z, "weight_scale": w_scale,
        "group_size": 32, "input_quant_min": 0, "input_quant_max": 255, "weight_quant_min": -8, "weight_quant_max": 7,
    }
    with pytest.raises(error, match=words):
        ops.qat_linear_grouped(**(arguments | changes))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("backward", ["auto", "float32", "int16", "bfloat16"])
@pytest.mark.parametrize("leading", [(), (6,), (2, 3), (1, 2, 3)])
def test_any_leading_dimensions(isa, backward, leading):
    ops._set_cpu_isa(isa)
    x, w, b, s, z, w_scale, ranges = problem(m=6, n=5, k=40, per_token=False)
    rows = x[:1] if leading == () else x
    gradients = []
    for shape in (rows.shape, (*leading, 40)):
        leaves = rows.reshape(shape).clone().requires_grad_(), w.clone().requires_grad_(), b.clone().requires_grad_()
        y = ops.qat_linear_grouped(*leaves, s, z, w_scale, 32, *ranges, backward=backward)
        assert y.shape == (*shape[:-1], 5)
        y.square().sum().backward()
        gradients.append([leaves[0].grad.reshape(rows.shape), leaves[1].grad, leaves[2].grad])
    for a, b in zip(*gradients):
        assert torch.equal(a, b)
