"""qat_linear_int8: forward equal to the deployed op bit for bit, gradients against float64 and the straight-through rule."""

import pytest
import torch
from cpu_paths import ISAS, isa  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

import torchqat

ops = torch.ops.torchqat
WAYS = {"float32": 1e-6, "int16": 3e-4, "bfloat16": 2e-3}


def problem(m=7, k=33, n=20, *, per_token=False, per_channel=True, bias=True, quant=(0, 255), clip=False, seed=0):
    """Arguments of a layer; clip=True makes values of input and weight fall outside the grid."""
    g = torch.Generator().manual_seed(seed)
    x, w = torch.randn(m, k, generator=g), torch.randn(n, k, generator=g) / max(k, 1) ** 0.5
    reach = 0.4 if clip else 1.2
    rows = x.abs().amax(1) if per_token and k else torch.full((m if per_token else 1,), 3.5)
    channels = w.abs().amax(1) if per_channel and k else torch.full((n if per_channel else 1,), 0.8)
    low, high = quant
    scale = rows * reach * 2 / (high - low)
    zero = torch.full_like(scale, (low + high + 1) // 2).int()
    if per_token:
        zero = zero + torch.arange(m, dtype=torch.int32) % 3
    return dict(
        x=x, w=w, b=torch.randn(n, generator=g) if bias else None, s=scale, z=zero.clamp(low, high),
        ws=(channels * (0.5 if clip else 1.0) / 127).clamp_min(1e-6), quant=quant,
    )


def call(p, backward="auto", **changes):
    p = p | changes
    return ops.qat_linear_int8(
        p["x"], p["w"], p["b"], p["s"], p["z"], p["ws"], *p["quant"], -127, 127, backward=backward
    )


def codes(x, s, z, low, high):
    level = torch.round(x / s) + z
    return level.clamp(low, high), (level >= low) & (level <= high)


def reference(p, dy, size=False):
    """Straight-through gradients in float64 from the float32 codes; size=True: the sums of the terms' absolute values."""
    col = lambda t: t.reshape(-1, 1)  # noqa: E731
    qx, in_x = codes(p["x"].float(), col(p["s"]), col(p["z"]), *p["quant"])
    qw, in_w = codes(p["w"].float(), col(p["ws"]), 0, -127, 127)
    x_hat = (qx - col(p["z"])).double() * col(p["s"]).double()
    w_hat = qw.double() * col(p["ws"]).double()
    dy = dy.double()
    if size:
        dy, w_hat, x_hat = dy.abs(), w_hat.abs(), x_hat.abs()
    return (dy @ w_hat) * in_x, (dy.t() @ x_hat) * in_w, dy.sum(0)


def gradients(p, dy, backward="auto"):
    leaves = {name: p[name].clone().requires_grad_() for name in ("x", "w", "b") if p[name] is not None}
    y = call(p | leaves, backward)
    y.backward(dy)
    return y.detach(), [leaf.grad for leaf in leaves.values()]


def error(got, wanted):
    size = wanted.norm().item()
    return (got.double() - wanted).norm().item() / size if size else got.double().norm().item()


@settings(max_examples=50, deadline=None)
@given(
    m=st.integers(1, 40), k=st.integers(1, 140), n=st.integers(1, 140), per_token=st.booleans(),
    per_channel=st.booleans(), bias=st.booleans(), clip=st.booleans(),
    quant=st.sampled_from([(0, 255), (-128, 127), (0, 15)]), seed=st.integers(0, 1000),
)
def test_forward_is_the_deployed_layer_on_every_path(m, k, n, per_token, per_channel, bias, clip, quant, seed):
    p = problem(m, k, n, per_token=per_token, per_channel=per_channel, bias=bias, clip=clip, quant=quant, seed=seed)
    qw, _ = codes(p["w"], p["ws"].reshape(-1, 1), 0, -127, 127)
    packed = ops.linear_int8_pack(qw.to(torch.int8))
    deployed = ops.linear_int8(p["x"], packed, p["ws"].expand(n).contiguous(), p["b"], p["s"], p["z"], *quant)
    before = ops._cpu_isa()
    try:
        for name in ISAS:
            ops._set_cpu_isa(name)
            assert torch.equal(call(p), deployed), name
            assert torch.equal(call(p, w=p["w"].clone().requires_grad_()), deployed), name
    finally:
        ops._set_cpu_isa(before)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 80), k=st.integers(1, 140), n=st.integers(1, 140), per_token=st.booleans(),
    per_channel=st.booleans(), clip=st.booleans(), quant=st.sampled_from([(0, 255), (-128, 127), (0, 15)]),
    backward=st.sampled_from(list(WAYS)), seed=st.integers(0, 1000),
)
def test_gradients_follow_the_straight_through_rule(m, k, n, per_token, per_channel, clip, quant, backward, seed):
    p = problem(m, k, n, per_token=per_token, per_channel=per_channel, clip=clip, quant=quant, seed=seed)
    dy = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    wanted = reference(p, dy)
    before = ops._cpu_isa()
    try:
        for name in ISAS:
            ops._set_cpu_isa(name)
            _, got = gradients(p, dy, backward)
            for g, w, terms in zip(got, wanted, reference(p, dy, size=True)):
                # The bound is on the norm. Few values have no averaging of their rounding errors, and a sum of few terms
                # may cancel: there the terms are what the error is measured by.
                if dy.numel() > 500 and w.numel() > 500 and k > 16:
                    assert error(g, w) <= WAYS[backward], (name, g.shape)
                assert (g.double() - w).norm() <= 3 * WAYS[backward] * terms.norm(), (name, g.shape)
                assert not g[(w == 0)].any() or g.dim() == 1
    finally:
        ops._set_cpu_isa(before)


@pytest.mark.parametrize("backward", list(WAYS))
@pytest.mark.parametrize("per_token", [False, True])
def test_measured_gradient_error_of_a_real_layer(backward, per_token):
    p = problem(256, 512, 320, per_token=per_token)
    dy = torch.randn(256, 320) * torch.rand(256, 1)
    for g, w in zip(gradients(p, dy, backward)[1], reference(p, dy)):
        assert error(g, w) <= WAYS[backward]


def test_limbs_give_the_same_bits_on_every_path():
    p = problem(70, 130, 150, clip=True)
    dy = torch.randn(70, 150)
    before = ops._cpu_isa()
    results = []
    try:
        for name in ISAS:
            ops._set_cpu_isa(name)
            results.append(gradients(p, dy, "int16")[1])
    finally:
        ops._set_cpu_isa(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("backward", list(WAYS))
def test_gradients_do_not_depend_on_threads(backward):
    p = problem(300, 256, 1100)
    dy = torch.randn(300, 1100)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gradients(p, dy, backward)
        torch.set_num_threads(2)
        two = gradients(p, dy, backward)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], two[0])
    if backward == "float32":  # at::mm does not promise it
        assert torch.equal(one[1][2], two[1][2])
    else:
        assert all(torch.equal(a, b) for a, b in zip(one[1], two[1]))


def test_long_reductions_are_flushed_in_segments():
    m = 65536 + 70
    p = problem(m, 3, 2)
    p["x"] = torch.full((m, 3), 1e3)
    dy = torch.ones(m, 2)
    for backward in ("int16", "bfloat16"):
        for g, w in zip(gradients(p, dy, backward)[1][1:], reference(p, dy)[1:]):
            assert error(g, w) < WAYS[backward]


@pytest.mark.parametrize("backward", list(WAYS))
def test_a_gradient_that_is_not_finite_is_seen(backward):
    p = problem(20, 40, 70)
    for bad in (float("inf"), float("nan")):
        dy = torch.randn(20, 70)
        dy[3, 5] = bad
        dx, dw, db = gradients(p, dy, backward)[1]
        assert not dx[3].isfinite().any() and not dw[5].isfinite().any() and not db[5].isfinite()
        keep = torch.arange(70) != 5
        assert dw[keep].isfinite().all() and dx[torch.arange(20) != 3].isfinite().all()
    zero = gradients(p, torch.zeros(20, 70), backward)[1]
    assert all(not g.any() for g in zero)


def test_nan_input_row_passes_no_gradient():
    p = problem(6, 40, 70)
    p["x"][2, 1] = float("nan")
    y, (dx, dw, _) = gradients(p, torch.ones(6, 70))
    assert y[2].isnan().all() and dx[2, 1] == 0 and dw.isfinite().all()


def saved_bytes(f):
    sizes = {}

    def pack(t):
        sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        f()
    return sum(sizes.values())


def test_saves_codes_and_masks_only():
    def cost(m):
        p = problem(m, 256, 64)
        leaf = p["x"].clone().requires_grad_()
        return saved_bytes(lambda: call(p | dict(x=leaf, w=p["w"].clone().requires_grad_())))

    assert (cost(512) - cost(256)) / (256 * 256 * 4) <= 0.32


def test_only_wanted_gradients():
    p = problem(5, 20, 9)
    dy = torch.randn(5, 9)
    full = gradients(p, dy)[1]
    for i, name in enumerate(("x", "w", "b")):
        leaf = p[name].clone().requires_grad_()
        call(p | {name: leaf}).backward(dy)
        assert torch.equal(leaf.grad, full[i])
    with torch.no_grad():
        assert not call(p | dict(w=p["w"].clone().requires_grad_())).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision(dtype):
    p = problem(6, 40, 70)
    q = p | {name: p[name].to(dtype) for name in ("x", "w", "b")}
    wide = p | {name: q[name].float() for name in ("x", "w", "b")}
    dy = torch.randn(6, 70).to(dtype)
    y, got = gradients(q, dy)
    wide_y, wanted = gradients(wide, dy.float())
    assert y.dtype == dtype and torch.equal(y, wide_y.to(dtype))
    for g, w in zip(got, wanted):
        assert g.dtype == dtype and torch.equal(g, w.to(dtype))


def test_leading_dimensions_strides_and_empty():
    p = problem(6, 40, 70)
    dy = torch.randn(6, 70)
    y, (dx, dw, db) = gradients(p, dy)
    y3, (dx3, dw3, db3) = gradients(p | dict(x=p["x"].view(2, 3, 40)), dy.view(2, 3, 70))
    assert torch.equal(y3, y.view(2, 3, 70)) and torch.equal(dx3, dx.view(2, 3, 40))
    assert torch.equal(dw3, dw) and torch.equal(db3, db)
    strided = p | dict(x=p["x"].t().contiguous().t(), w=p["w"].t().contiguous().t())
    _, got = gradients(strided, dy.t().contiguous().t())
    assert torch.equal(got[0], dx) and torch.equal(got[1], dw) and torch.equal(got[2], db)
    _, (dx0, dw0, db0) = gradients(problem(0, 40, 70), torch.zeros(0, 70))
    assert dx0.shape == (0, 40) and not dw0.any() and not db0.any()


@pytest.mark.filterwarnings("ignore:.*")
def test_compile_script_checkpoint_autocast(tmp_path):
    p = problem(6, 40, 70)
    dy = torch.randn(6, 70)
    y, wanted = gradients(p, dy)

    def f(x, w, b):
        return call(p | dict(x=x, w=w, b=b))

    def run(function, dy=dy):
        leaves = [p[name].clone().requires_grad_() for name in ("x", "w", "b")]
        out = function(*leaves)
        out.backward(dy)
        return out.detach(), [leaf.grad for leaf in leaves]

    def same(a, b):
        assert torch.equal(a[0], b[0]) and all(torch.equal(s, t) for s, t in zip(a[1], b[1]))

    same(run(torch.compile(f, fullgraph=True)), (y, wanted))
    for reentrant in (False, True):
        same(run(lambda x, w, b: checkpoint(f, x, w, b, use_reentrant=reentrant)), (y, wanted))

    @torch.jit.script
    def scripted(x, w, b, s, z, ws):
        return torch.ops.torchqat.qat_linear_int8(x, w, b, s, z, ws, 0, 255, -127, 127)

    same(run(lambda x, w, b: scripted(x, w, b, p["s"], p["z"], p["ws"])), (y, wanted))
    with torch.autocast("cpu", torch.bfloat16):
        low, got = run(f, dy.bfloat16())
    assert torch.equal(low, y.bfloat16())
    same((y, got), (y, gradients(p, dy.bfloat16().float())[1]))


def test_opcheck_and_double_backward():
    p = problem(3, 9, 5)
    leaves = {name: p[name].clone().requires_grad_() for name in ("x", "w", "b")}
    q = p | leaves
    args = (q["x"], q["w"], q["b"], q["s"], q["z"], q["ws"], 0, 255, -127, 127)
    torch.library.opcheck(ops.qat_linear_int8.default, args)
    y = call(q)
    with pytest.raises(RuntimeError, match="qat_linear_int8: double backward .* is not supported"):
        torch.autograd.grad(y.sum(), q["x"], create_graph=True)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("float_zero", [False, True])
def test_learned_scales_have_the_gradients_of_fake_quantize_learned(per_token, per_channel, float_zero):
    p = problem(6, 40, 70, per_token=per_token, per_channel=per_channel, clip=True)
    if float_zero:
        p["z"] = p["z"].float() + 0.3
    dy = torch.randn(2, 3, 70)
    p["x"] = p["x"].view(2, 3, 40)
    names = ["x", "w", "b", "s", "ws"] + (["z"] if float_zero else [])

    def leaves():
        return {name: p[name].clone().requires_grad_() for name in names}

    a, b = leaves(), leaves()
    qa, qb = p | a, p | b
    y = ops.qat_linear_int8(qa["x"], qa["w"], qa["b"], qa["s"], qa["z"], qa["ws"], 0, 255, -127, 127, True, True,
                            0.25, 0.5, "float32")
    y.backward(dy)
    token, channel = (2, 3, 1) if per_token else (1,), (70, 1) if per_channel else (1,)
    x_hat = ops.fake_quantize_learned(qb["x"], qb["s"].view(token), qb["z"].view(token), [1, 1, -1] if per_token else [],
                                      0, 255, 0.25)
    w_hat = ops.fake_quantize_learned(qb["w"], qb["ws"].view(channel), None, [1, -1] if per_channel else [], -127, 127, 0.5)
    wanted = torch.nn.functional.linear(x_hat, w_hat, qb["b"])
    wanted.backward(dy)
    torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-5)
    for name in names:
        assert a[name].grad.shape == p[name].shape
        assert error(a[name].grad, b[name].grad.double()) < 1e-5, name
    only = p | {"s": p["s"].clone().requires_grad_()}
    ops.qat_linear_int8(only["x"], only["w"], None, only["s"], only["z"], only["ws"], 0, 255, -127, 127, True, False,
                        0.25, 1.0, "float32").backward(dy)
    assert torch.equal(only["s"].grad, a["s"].grad)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(x=torch.zeros(2, 9)), ValueError, r"input must have shape \[..., 8\]"),
        (dict(x=torch.zeros(2, 8, dtype=torch.float64)), TypeError, "input must be float32, bfloat16 or float16"),
        (dict(w=torch.zeros(8)), ValueError, r"weight must have shape \[N, K\]"),
        (dict(w=torch.zeros(4, 8, dtype=torch.int8)), TypeError, "weight must be float32"),
        (dict(ws=torch.ones(3)), ValueError, "weight_scale must have one element or 4"),
        (dict(ws=torch.zeros(4)), ValueError, "weight_scale must be finite and > 0"),
        (dict(s=torch.tensor(-1.0)), ValueError, "input_scale must be finite and > 0"),
        (dict(z=torch.tensor(300)), ValueError, "input_zero_point must lie within"),
        (dict(b=torch.zeros(3)), ValueError, r"bias must have shape \[4\]"),
        (dict(backward="fp8"), ValueError, "backward must be 'float32', 'bfloat16', 'int16' or 'auto', got 'fp8'"),
    ],
)
def test_errors(change, error, words):
    p = dict(
        x=torch.zeros(2, 8), w=torch.zeros(4, 8), b=None, s=torch.tensor(1.0), z=torch.tensor(0), ws=torch.ones(4),
        quant=(0, 255), backward="auto",
    )
    p.update(change)
    with pytest.raises(error, match="qat_linear_int8: " + words):
        call(p, p["backward"])
    with pytest.raises(ValueError, match=r"weight_quant_min and weight_quant_max must lie within \[-128, 127\]"):
        ops.qat_linear_int8(torch.zeros(2, 8), torch.zeros(4, 8), None, torch.tensor(1.0), torch.tensor(0),
                            torch.ones(4), 0, 255, -128, 128)
