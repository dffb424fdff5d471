"""linear_int8_codes, the layer of integer edges: against linear_int8 and quantize on either side, on every CPU path."""

import pytest
import torch
from cpu_paths import isa  # noqa: F401

import torchqat

ops = torch.ops.torchqat


def layer(m=5, k=37, n=70, quant=(0, 255), output=(0, 255), seed=0, lead=()):
    g = torch.Generator().manual_seed(seed)
    return dict(
        input=torch.randn(*lead, m, k, generator=g),
        packed_weight=ops.linear_int8_pack(torch.randint(-127, 128, (n, k), generator=g, dtype=torch.int8)),
        weight_scale=torch.rand(n, generator=g) * 0.02 + 0.001,
        bias=torch.randn(n, generator=g),
        input_scale=torch.tensor(0.021),
        input_zero_point=torch.tensor(sum(quant) // 2 + 3, dtype=torch.int32),
        quant_min=quant[0],
        quant_max=quant[1],
        relu=False,
        output_scale=torch.tensor(0.037),
        output_zero_point=torch.tensor(sum(output) // 2 - 5, dtype=torch.int32),
        output_quant_min=output[0],
        output_quant_max=output[1],
    )


def call(p, **changes):
    return ops.linear_int8_codes(*(p | changes).values())


def code_type(quant):
    return torch.int8 if quant[0] < 0 else torch.uint8


def expected(p):
    """The layer in float, then the next layer's quantisation of it."""
    first = ["input", "packed_weight", "weight_scale", "bias", "input_scale", "input_zero_point", "quant_min", "quant_max"]
    y = ops.linear_int8(*(p[name] for name in first))
    y = torch.relu(y) if p["relu"] else y
    if p["output_scale"] is None:
        return y
    low, high = p["output_quant_min"], p["output_quant_max"]
    kind = torch.int8 if low < 0 else torch.uint8
    return ops.quantize(y, p["output_scale"], p["output_zero_point"], [], low, high, kind)


def input_codes(p):
    low, high = p["quant_min"], p["quant_max"]
    kind = torch.int8 if low < 0 else torch.uint8
    return ops.quantize(p["input"], p["input_scale"], p["input_zero_point"], [], low, high, kind)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("output", [(0, 255), (-128, 127), (0, 15), None])
@pytest.mark.parametrize("quant", [(0, 255), (-128, 127), (-8, 7)])
def test_codes_in_and_out_are_the_float_layer_between_two_quantisations(isa, quant, output, relu):
    for seed, (m, k, n) in enumerate([(1, 64, 64), (1, 100, 130), (6, 1, 1), (33, 65, 63), (40, 256, 192)]):
        p = layer(m, k, n, quant, output or (0, 255), seed) | {"relu": relu}
        if output is None:
            p |= {"output_scale": None, "output_zero_point": None}
        want = expected(p)
        for x in (p["input"], input_codes(p)):
            got = call(p, input=x)
            assert got.dtype == want.dtype and got.shape == want.shape
            assert torch.equal(got, want)


def test_leading_dimensions_strides_and_empty(isa):
    p = layer(m=4, lead=(2, 3))
    want = expected(p)
    assert torch.equal(call(p, input=input_codes(p)), want)
    assert torch.equal(call(p, input=input_codes(p).transpose(0, 1)), want.transpose(0, 1))
    assert call(p, input=p["input"][:0]).shape == (0, 3, 4, 70)
    assert torch.equal(call(p, input=input_codes(p)[0, 0, 0]), want[0, 0, 0])


def test_same_bits_on_two_threads():
    p = layer(m=200, k=512, n=700)
    x = input_codes(p)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append((call(p, input=x), call(p)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_bfloat16_input_gives_the_codes_of_its_exact_values(isa):
    p = layer()
    x = p["input"].bfloat16()
    assert torch.equal(call(p, input=x), call(p, input=x.float()))


def test_nan_becomes_the_zero_point_of_the_output():
    p = layer()
    x = p["input"].clone()
    x[1, 3] = float("nan")
    got = call(p, input=x)
    assert (got[1] == p["output_zero_point"]).all()
    keep = [0, 2, 3, 4]
    assert torch.equal(got[keep], call(p)[keep])


def test_opcheck_compile_and_script():
    p = layer()
    x = input_codes(p)
    torch.library.opcheck(ops.linear_int8_codes.default, tuple(p.values()))
    torch.library.opcheck(ops.linear_int8_codes.default, tuple((p | {"input": x}).values()))
    none = p | {"output_scale": None, "output_zero_point": None, "input": x}
    torch.library.opcheck(ops.linear_int8_codes.default, tuple(none.values()))
    compiled = torch.compile(lambda t: call(p, input=t), fullgraph=True)
    assert torch.equal(compiled(x), call(p, input=x))


def test_autocast_rounds_nothing_between_layers():
    p = layer()
    x = input_codes(p)
    want = expected(p)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(call(p, input=x), want)


@pytest.mark.parametrize(
    "changes, error, words",
    [
        (dict(input=torch.zeros(5, 37, dtype=torch.int8)), TypeError, "linear_int8_codes: input must be float32"),
        (dict(input=torch.zeros(5, 37, dtype=torch.int32)), TypeError, "linear_int8_codes: input must be float32"),
        (dict(input=torch.zeros(5, 36, dtype=torch.uint8)), ValueError, r"linear_int8_codes: input must have shape \[..., 37\]"),
        (dict(input=torch.zeros((), dtype=torch.uint8)), ValueError, "got a 0-d tensor"),
        (dict(weight_scale=torch.ones(69)), ValueError, "linear_int8_codes: weight_scale must have shape|bias must have shape"),
        (dict(weight_scale=torch.zeros(70)), ValueError, "linear_int8_codes: weight_scale must be finite and > 0, got 0"),
        (dict(bias=torch.ones(3)), ValueError, r"linear_int8_codes: bias must have shape \[70\]"),
        (dict(input_scale=torch.tensor(-1.0)), ValueError, "linear_int8_codes: input_scale must be finite and > 0, got -1"),
        (dict(input_scale=torch.tensor(float("inf"))), ValueError, "linear_int8_codes: input_scale must be finite and > 0, got inf"),
        (dict(input_zero_point=torch.tensor(256, dtype=torch.int32)), ValueError, "input_zero_point must lie within"),
        (dict(input=torch.zeros(2, 37, dtype=torch.uint8), input_scale=torch.ones(2),
              input_zero_point=torch.zeros(2, dtype=torch.int32)), ValueError, "one element where input is codes"),
        (dict(output_zero_point=None), ValueError, "output_scale and output_zero_point must be given together"),
        (dict(output_scale=torch.tensor(0.0)), ValueError, "linear_int8_codes: output_scale must be finite and > 0, got 0"),
        (dict(output_zero_point=torch.tensor(300, dtype=torch.int32)), ValueError, "output_zero_point must lie within"),
        (dict(quant_min=5, quant_max=5), ValueError, "quant_min must be less than"),
        (dict(quant_max=256), ValueError, "must lie within"),
        (dict(packed_weight=torch.zeros(100, dtype=torch.uint8)), ValueError, "packed by torchqat"),
    ],
)  # fmt: skip
def test_errors(changes, error, words):
    with pytest.raises(error, match=words):
        call(layer(), **changes)
