"""linear_int8 and linear_int8_dynamic against exact int64 sums in numpy, on every CPU path."""

import numpy as np
import pytest
import torch
from cpu_paths import ISAS, isa  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

import torchqat

ops = torch.ops.torchqat


def layer(m, k, n, *, per_token=False, quant=(0, 255), bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    low, high = quant
    rows = m if per_token else 1
    return dict(
        x=torch.randn(m, k, generator=g),
        codes=torch.randint(-128, 128, (n, k), generator=g, dtype=torch.int8),
        weight_scale=torch.rand(n, generator=g) * 0.02 + 0.001,
        bias=torch.randn(n, generator=g) if bias else None,
        scale=torch.rand(rows, generator=g) * 0.03 + 0.001,
        zero_point=torch.randint(low, high + 1, (rows,), generator=g, dtype=torch.int32),
        quant=quant,
    )


def run(p, x=None):
    return ops.linear_int8(
        p["x"] if x is None else x, ops.linear_int8_pack(p["codes"]), p["weight_scale"], p["bias"], p["scale"],
        p["zero_point"], *p["quant"],
    )


def oracle(p):
    """float32 steps of the contract around an exact int64 sum."""
    f = np.float32
    x = p["x"].float().numpy()
    s, z = p["scale"].float().numpy().reshape(-1, 1), p["zero_point"].numpy().astype(np.int64).reshape(-1, 1)
    q = np.clip(np.rint((x / s).astype(f)) + z.astype(f), f(p["quant"][0]), f(p["quant"][1])).astype(np.int64)
    w = p["codes"].numpy().astype(np.int64)
    total = None
    for start in range(0, max(x.shape[1], 1), 65536):
        part = ((q - z)[:, start : start + 65536] @ w[:, start : start + 65536].T).astype(f)
        total = part if total is None else total + part
    y = total * (s * p["weight_scale"].float().numpy().reshape(1, -1))
    if p["bias"] is not None:
        y = y + p["bias"].float().numpy()
    assert y.dtype == f
    return torch.from_numpy(y)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(0, 40), k=st.integers(0, 140), n=st.integers(0, 140), per_token=st.booleans(), bias=st.booleans(),
    quant=st.sampled_from([(0, 255), (-128, 127), (-127, 127), (0, 15), (-8, 7), (3, 200)]), seed=st.integers(0, 1000),
)
def test_equals_exact_integer_arithmetic_on_every_path(m, k, n, per_token, bias, quant, seed):
    p = layer(m, k, n, per_token=per_token, quant=quant, bias=bias, seed=seed)
    wanted = oracle(p)
    before = ops._cpu_isa()
    try:
        for name in ISAS:
            ops._set_cpu_isa(name)
            assert torch.equal(run(p), wanted), name
            assert torch.equal(ops.linear_int8_unpack(ops.linear_int8_pack(p["codes"])), p["codes"])
    finally:
        ops._set_cpu_isa(before)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("k", [1024, 65536, 65537, 131072 + 64])
def test_extremes_at_long_k(isa, k, sign):
    if isa == "scalar" and k > 70000:
        pytest.skip("slow, and the same loop")
    p = layer(2, k, 3, quant=(0, 255))
    p["x"] = torch.full((2, k), 1e6)
    p["codes"] = torch.full((3, k), 127 if sign > 0 else -128, dtype=torch.int8)
    p["zero_point"] = torch.tensor([0])
    assert torch.equal(run(p), oracle(p))


@pytest.mark.parametrize("m", [63, 64, 65, 96, 127, 129, 160, 289])
def test_many_rows_are_exact_around_tile_edges(isa, m):
    for k, n in ((1, 70), (64, 64), (513, 65), (1100, 130), (512, 1), (1024, 192)):
        g = torch.Generator().manual_seed(m * k)
        w = torch.randint(-128, 128, (n, k), generator=g, dtype=torch.int8)
        x = torch.randint(0, 256, (m, k), generator=g).float() - 77
        weight_scale = 2.0 ** -torch.randint(0, 9, (n,), generator=g).float()
        got = ops.linear_int8(x, ops.linear_int8_pack(w), weight_scale, None, torch.ones(()), torch.tensor(77, dtype=torch.int32), 0, 255)
        assert torch.equal(got, (x.double() @ w.double().T).float() * weight_scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_rounded_once_at_the_end(isa, dtype):
    p = layer(5, 70, 33, per_token=True)
    p["x"] = p["x"].to(dtype)
    y = run(p)
    assert y.dtype == dtype and torch.equal(y, oracle(p).to(dtype))


def test_leading_dimensions_strides_and_scale_dtypes(isa):
    p = layer(6, 40, 20, per_token=True)
    wanted = run(p)
    x = p["x"]
    assert torch.equal(run(p, x.view(2, 3, 40)), wanted.view(2, 3, 20))
    assert torch.equal(run(p, x.view(1, 6, 1, 40)), wanted.view(1, 6, 1, 20))
    assert torch.equal(run(p, x.t().contiguous().t()), wanted)
    one = layer(1, 40, 20)
    assert torch.equal(run(one, one["x"][0]), run(one)[0])
    p["zero_point"] = p["zero_point"].long().view(6, 1)
    p["scale"] = p["scale"].double().view(6, 1)
    p["weight_scale"] = p["weight_scale"].view(20, 1)
    assert torch.equal(run(p), wanted)
    p["scale"] = p["scale"].bfloat16()
    assert torch.equal(run(p), oracle(p | {"scale": p["scale"].float()}))


def test_a_row_does_not_depend_on_the_others_or_on_threads(isa):
    p = layer(70, 130, 200)
    whole = run(p)
    for rows in [slice(0, 1), slice(3, 7), slice(11, 44), slice(69, 70)]:
        assert torch.equal(run(p, p["x"][rows]), whole[rows])
    big = layer(300, 256, 320)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = run(big)
        torch.set_num_threads(2)
        assert torch.equal(run(big), single)
    finally:
        torch.set_num_threads(threads)


def test_nan_rows_are_nan_and_inf_saturates(isa):
    p = layer(8, 50, 70)
    clean = run(p)
    x = p["x"].clone()
    x[2, 49] = float("nan")
    y = run(p, x)
    assert y[2].isnan().all()
    keep = [i for i in range(8) if i != 2]
    assert torch.equal(y[keep], clean[keep])
    low, high = x.clone(), x.clone()
    high[2, 49], low[2, 49] = float("inf"), 1e30
    assert torch.equal(run(p, high), run(p, low))


def test_compile_export_script_autocast(tmp_path):
    p = layer(4, 33, 17)
    packed = ops.linear_int8_pack(p["codes"])
    rest = (packed, p["weight_scale"], p["bias"], p["scale"], p["zero_point"], 0, 255)

    def f(x):
        return ops.linear_int8(x, *rest)

    wanted = f(p["x"])
    assert torch.equal(torch.compile(f, fullgraph=True)(p["x"]), wanted)

    class Deployed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("packed", packed)
            self.register_buffer("weight_scale", p["weight_scale"])
            self.register_buffer("bias", p["bias"])
            self.register_buffer("scale", p["scale"])
            self.register_buffer("zero_point", p["zero_point"])

        def forward(self, x):
            return torch.ops.torchqat.linear_int8(
                x, self.packed, self.weight_scale, self.bias, self.scale, self.zero_point, 0, 255
            )

    module = Deployed().eval()
    assert torch.equal(torch.export.export(module, (p["x"],)).module()(p["x"]), wanted)
    torch.jit.freeze(torch.jit.script(module)).save(tmp_path / "m.pt")
    assert torch.equal(torch.jit.load(tmp_path / "m.pt")(p["x"]), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(f(p["x"]), wanted.bfloat16())
        assert f(p["x"].half()).dtype == torch.float16
    x = p["x"].clone().requires_grad_()
    with pytest.raises(RuntimeError, match="derivative"):
        f(x).sum().backward()


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_dynamic_is_choose_qparams_then_linear_int8(isa, per_token, symmetric):
    quant = (-128, 127) if symmetric else (0, 255)
    p = layer(11, 70, 33)
    p["x"][4] = 0
    p["x"][6, 3] = float("nan")
    packed = ops.linear_int8_pack(p["codes"])
    scale, zero = ops.choose_qparams(p["x"], [1, -1] if per_token else [], *quant, symmetric)
    wanted = ops.linear_int8(p["x"], packed, p["weight_scale"], p["bias"], scale, zero, *quant)
    for x in (p["x"], p["x"].view(1, 11, 70)):
        y = ops.linear_int8_dynamic(x, packed, p["weight_scale"], p["bias"], per_token, *quant, symmetric)
        assert torch.equal(y.view(11, 33).nan_to_num(7e7), wanted.nan_to_num(7e7)) and y[..., 6, :].isnan().all()
    if per_token:
        rows = ops.linear_int8_dynamic(p["x"][2:5], packed, p["weight_scale"], p["bias"], True, *quant, symmetric)
        assert torch.equal(rows, wanted[2:5])


def test_opcheck():
    p = layer(3, 9, 5, per_token=True)
    torch.library.opcheck(
        ops.linear_int8_dynamic.default,
        (p["x"], ops.linear_int8_pack(p["codes"]), p["weight_scale"], p["bias"], True, 0, 255, False),
    )
    packed = ops.linear_int8_pack(p["codes"])
    args = (p["x"], packed, p["weight_scale"], p["bias"], p["scale"], p["zero_point"], 0, 255)
    torch.library.opcheck(ops.linear_int8.default, args)
    torch.library.opcheck(ops.linear_int8_pack.default, (p["codes"],))


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(x=torch.zeros(2, 9)), ValueError, r"input must have shape \[..., 8\]"),
        (dict(x=torch.tensor(1.0)), ValueError, r"input must have shape \[..., K\]"),
        (dict(x=torch.zeros(2, 8, dtype=torch.int32)), TypeError, "input must be float32, bfloat16 or float16"),
        (dict(packed=torch.zeros(100, dtype=torch.uint8)), ValueError, "packed_weight must be a weight packed by torchqat"),
        (dict(packed=torch.zeros(100)), TypeError, "packed_weight must be uint8"),
        (dict(weight_scale=torch.ones(3)), ValueError, r"weight_scale must have shape \[4\]"),
        (dict(weight_scale=torch.tensor([1.0, 1, 0, 1])), ValueError, "weight_scale must be finite and > 0, got 0 at 2"),
        (dict(weight_scale=torch.ones(4, 2)), ValueError, r"weight_scale must have shape \[N\]"),
        (dict(weight_scale=torch.ones(4, dtype=torch.int32)), TypeError, "weight_scale must have a floating dtype"),
        (dict(bias=torch.ones(5)), ValueError, r"bias must have shape \[4\]"),
        (dict(bias=torch.ones(4, dtype=torch.int32)), TypeError, "bias must have a floating dtype"),
        (dict(scale=torch.tensor(float("inf"))), ValueError, "input_scale must be finite and > 0"),
        (dict(scale=torch.tensor(float("nan"))), ValueError, "input_scale must be finite and > 0"),
        (dict(scale=torch.ones(3), zero_point=torch.zeros(3, dtype=torch.int32)), ValueError, "one per row"),
        (dict(scale=torch.tensor(1)), TypeError, "input_scale must have a floating dtype"),
        (dict(zero_point=torch.tensor([0, 0])), ValueError, "as many elements as input_scale"),
        (dict(zero_point=torch.tensor(256)), ValueError, r"input_zero_point must lie within \[0, 255\], got 256"),
        (dict(zero_point=torch.tensor(True)), TypeError, "input_zero_point must have an integer"),
        (dict(quant=(0, 256)), ValueError, r"must lie within \[-128, 127\] or \[0, 255\]"),
        (dict(quant=(-1, 128)), ValueError, "must lie within"),
        (dict(quant=(5, 5)), ValueError, "quant_min must be less than quant_max"),
    ],
)
def test_errors(change, error, words):
    p = dict(
        x=torch.zeros(2, 8), packed=ops.linear_int8_pack(torch.zeros(4, 8, dtype=torch.int8)), weight_scale=torch.ones(4),
        bias=None, scale=torch.tensor(1.0), zero_point=torch.tensor(0), quant=(0, 255),
    )
    p.update(change)
    with pytest.raises(error, match="linear_int8: .*" + words):
        ops.linear_int8(
            p["x"], p["packed"], p["weight_scale"], p["bias"], p["scale"], p["zero_point"], *p["quant"]
        )


def test_foreign_and_newer_packed_weights_are_refused():
    packed = ops.linear_int8_pack(torch.zeros(4, 8, dtype=torch.int8))
    newer = packed.clone()
    newer[12] = 9
    with pytest.raises(ValueError, match="must have version 1 to 1, got 9"):
        ops.linear_int8_unpack(newer)
    other = ops.embedding_pack(torch.zeros(4, 8, dtype=torch.int8), 8)
    with pytest.raises(ValueError, match="must have the format linear_int8, got embedding"):
        ops.linear_int8_unpack(other)
    with pytest.raises(ValueError, match="packed_weight must hold 4 x 8 codes"):
        ops.linear_int8_unpack(packed[:-64].clone())
    with pytest.raises(TypeError, match="codes must be int8, got Byte"):
        ops.linear_int8_pack(torch.zeros(4, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"codes must have shape \[N, K\]"):
        ops.linear_int8_pack(torch.zeros(4, dtype=torch.int8))
