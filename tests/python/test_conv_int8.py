"""conv_int8 against exact integer convolution, on every instruction set."""

import zlib

import numpy as np
import pytest
import torch
import torchqat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

ops = torch.ops.torchqat
ISAS = torchqat._C.supported_isas()
CONVS = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}
FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


def per_sample(t, dims):
    return t.reshape(-1, *[1] * (dims + 1))


def reference(x, codes, s_w, bias, s_x, z_x, low, high, stride, padding, dilation, groups):
    """Exact: float64 holds every integer below 2^53; then the float32 epilogue, one rounding an operation."""
    dims = x.dim() - 2
    s, z = per_sample(s_x.float(), dims), per_sample(z_x.float(), dims)
    q = torch.clamp(torch.round(x.float() / s) + z, low, high)
    centred = (torch.where(torch.isnan(q), z, q) - z).double()
    acc = CONVS[dims](centred, codes.double(), None, stride, padding, dilation, groups)
    assert acc.abs().max() < 2**31 if acc.numel() else True
    scale = s * s_w.float().reshape(1, -1, *[1] * dims)
    y = acc.float() * scale
    if bias is not None:
        y = y + bias.float().reshape(1, -1, *[1] * dims)
    bad = torch.isnan(x).flatten(1).any(1)
    y[bad] = float("nan")
    return y.to(x.dtype)


class Case:
    """One convolution's arguments."""

    def __init__(self, seed, n=1, c=3, o=4, size=(5, 5), kernel=(3, 3), stride=1, padding=1, dilation=1, groups=1, bias=True,
                 samples=False, grid=(0, 255), extreme=False):
        g = torch.Generator().manual_seed(seed)
        dims = len(size)
        as_list = lambda v: [v] * dims if isinstance(v, int) else list(v)
        self.kernel, self.stride, self.padding, self.dilation = map(as_list, (kernel, stride, padding, dilation))
        self.groups, self.grid = groups, grid
        self.x = torch.randn(n, c, *size, generator=g) * 2
        count = n if samples else 1
        self.s_x = torch.rand(count, generator=g) * 0.02 + 0.005
        self.z_x = torch.randint(grid[0], grid[1] + 1, (count,), generator=g, dtype=torch.int32)
        self.codes = torch.randint(-128, 128, (o, c // groups, *self.kernel), generator=g, dtype=torch.int8)
        if extreme:
            self.x = torch.where(self.x > 0, 1e30, -1e30)
            self.codes = torch.where(self.codes > 0, 127, -128).to(torch.int8)
        self.s_w = torch.rand(o, generator=g) * 0.01 + 0.001
        self.bias = torch.randn(o, generator=g) if bias else None
        self.packed = ops.conv_int8_pack(self.codes, groups)

    def args(self, x=None):
        return (self.x if x is None else x, self.packed, self.s_w, self.bias, self.s_x, self.z_x, *self.grid, self.kernel, self.stride,
                self.padding, self.dilation, self.groups)

    def run(self, x=None):
        return ops.conv_int8(*self.args(x))

    def expect(self, x=None):
        return reference(self.x if x is None else x, self.codes, self.s_w, self.bias, self.s_x, self.z_x, *self.grid, self.stride,
                         self.padding, self.dilation, self.groups)

    def check(self, isas=ISAS):
        expected = self.expect()
        dims = self.x.dim() - 2
        for isa in isas:
            ops._set_cpu_isa(isa)
            y = self.run()
            assert y.is_contiguous()
            assert_same(y, expected, isa)
            if dims > 1:
                x = self.x.to(memory_format=FORMATS[dims])
                y = self.run(x)
                # One pixel or one channel is both formats at once.
                assert y.is_contiguous(memory_format=FORMATS[dims]) or x.is_contiguous()
                assert_same(y, expected, isa + " channels_last")


def assert_same(y, expected, what=""):
    assert y.shape == expected.shape and y.dtype == expected.dtype, what
    same = torch.equal(torch.isnan(y), torch.isnan(expected)) and torch.equal(y.nan_to_num(), expected.nan_to_num())
    assert same, f"{what}: {(y != expected).sum()} of {y.numel()} differ"


CASES = {
    "3x3": dict(c=64, o=64, size=(9, 17)),
    "odd": dict(c=5, o=7, size=(7, 6)),
    "first layer": dict(n=2, c=3, o=33, size=(19, 21), stride=2),
    "7x7 stem": dict(c=3, o=20, size=(23, 24), kernel=(7, 7), stride=2, padding=3),
    "1x1": dict(n=2, c=65, o=130, size=(6, 5), kernel=(1, 1), padding=0),
    "1x1 batch": dict(n=5, c=68, o=130, size=(3, 5), kernel=(1, 1), padding=0),
    "1x1 batch per sample": dict(n=3, c=8, o=70, size=(3, 5), kernel=(1, 1), padding=0, samples=True),
    "1x1 stride": dict(c=16, o=16, size=(7, 7), kernel=(1, 1), padding=0, stride=2),
    "small maps": dict(n=3, c=64, o=70, size=(4, 4)),
    "one pixel": dict(c=70, o=9, size=(3, 3), padding=0),
    "flat 7x7": dict(c=32, o=17, size=(7, 7)),
    "stride 2": dict(c=24, o=40, size=(14, 15), stride=2),
    "dilated": dict(c=20, o=18, size=(13, 12), dilation=2, padding=2),
    "dilated in x": dict(c=33, o=18, size=(13, 12), dilation=(1, 3), padding=(1, 3)),
    "tall kernel": dict(c=9, o=5, size=(12, 6), kernel=(5, 2), padding=(2, 1), stride=(3, 1)),
    "two groups": dict(c=128, o=96, size=(6, 9), groups=2),
    "narrow groups": dict(n=2, c=32, o=32, size=(8, 8), groups=8),
    "uneven merge": dict(c=14, o=21, size=(8, 8), groups=7),
    "depthwise": dict(c=33, o=33, size=(9, 10), groups=33),
    "depthwise 5x5": dict(n=2, c=80, o=80, size=(9, 10), kernel=(5, 5), padding=2, stride=2, groups=80),
    "depthwise dilated": dict(c=64, o=64, size=(11, 10), dilation=2, groups=64),
    "multiplier": dict(c=6, o=18, size=(8, 8), groups=6),
    "wide row": dict(c=8, o=16, size=(2, 300)),
    "per sample": dict(n=5, c=9, o=11, size=(6, 6), samples=True),
    "signed": dict(n=2, c=9, o=11, size=(6, 6), grid=(-128, 127)),
    "narrow grid": dict(n=2, c=9, o=11, size=(6, 6), grid=(-8, 7)),
    "no bias": dict(c=4, o=16, bias=False),
    "no padding": dict(n=2, c=4, o=16, padding=0),
    "1d": dict(n=2, c=17, o=19, size=(40,), kernel=(5,), padding=2, stride=2),
    "1d dilated": dict(n=2, c=17, o=19, size=(40,), kernel=(3,), padding=4, dilation=4),
    "1d depthwise": dict(n=2, c=20, o=20, size=(33,), kernel=(4,), padding=3, groups=20),
    "3d": dict(n=2, c=6, o=18, size=(4, 6, 7), kernel=(3, 3, 3)),
    "3d stride": dict(c=16, o=24, size=(5, 7, 9), kernel=(3, 2, 3), stride=(2, 1, 2), padding=(1, 0, 1), dilation=(1, 2, 1)),
    "3d depthwise": dict(c=18, o=18, size=(4, 5, 6), kernel=(3, 3, 3), groups=18),
    "extremes": dict(c=64, o=16, size=(6, 6), extreme=True),
    "many strips": dict(c=8, o=16, size=(40, 40), kernel=(1, 1), padding=0),
}


@pytest.mark.parametrize("name", CASES)
def test_every_path_is_exact(name):
    Case(zlib.crc32(name.encode()), **CASES[name]).check()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_geometry(data):
    draw = lambda low, high: data.draw(st.integers(low, high))
    dims = draw(1, 3)
    groups = data.draw(st.sampled_from([1, 1, 2, 3, 5]))
    case = dict(
        seed=draw(0, 10**6), n=draw(1, 3), groups=groups, bias=data.draw(st.booleans()), samples=data.draw(st.booleans()),
        grid=data.draw(st.sampled_from([(0, 255), (-128, 127), (0, 15), (-4, 3)])),
        size=[draw(1, 12) for _ in range(dims)], kernel=[draw(1, 4) for _ in range(dims)], stride=[draw(1, 3) for _ in range(dims)],
        padding=[draw(0, 3) for _ in range(dims)], dilation=[draw(1, 3) for _ in range(dims)],
    )  # fmt: skip
    case["c"] = groups * (1 if data.draw(st.booleans()) else draw(1, 40))
    case["o"] = groups * (1 if data.draw(st.booleans()) else draw(1, 40))
    fits = all(
        s + 2 * p >= d * (k - 1) + 1 for s, p, d, k in zip(case["size"], case["padding"], case["dilation"], case["kernel"])
    )
    if fits:
        Case(**case).check()


def test_sums_longer_than_65536_are_added_in_float():
    case = Case(3, c=7300, o=3, size=(3, 3), extreme=True)
    # acc in ascending segments of K = (kernel row, kernel column, channel)
    z = case.z_x.item()
    q = torch.clamp(torch.round(case.x / case.s_x) + z, 0, 255).double() - z
    patches = torch.nn.functional.unfold(q, 3, padding=1).reshape(7300, 9, 9).permute(2, 1, 0).reshape(9, -1)
    w = case.codes.double().permute(0, 2, 3, 1).reshape(3, -1)
    acc = sum((patches[:, k : k + 65536] @ w[:, k : k + 65536].T).float() for k in range(0, 65700, 65536))
    expected = (acc * (case.s_x * case.s_w) + case.bias).T.reshape(1, 3, 3, 3)
    for isa in ISAS:
        ops._set_cpu_isa(isa)
        assert_same(case.run(), expected, isa)


@pytest.mark.parametrize("name", ["3x3", "depthwise 5x5", "narrow groups", "3d", "small maps", "1x1 batch"])
def test_threads_and_batch_do_not_change_bits(name):
    case = Case(5, **CASES[name] | dict(n=3, samples=True))
    whole = case.run()
    torch.set_num_threads(1)
    assert torch.equal(case.run(), whole)
    torch.set_num_threads(4)
    assert torch.equal(case.run(), whole)
    for i in range(3):
        args = list(case.args(case.x[i : i + 1]))
        args[4], args[5] = case.s_x[i : i + 1], case.z_x[i : i + 1]
        assert torch.equal(ops.conv_int8(*args), whole[i : i + 1])


@pytest.mark.parametrize("isa", ISAS)
def test_nan_poisons_its_sample_and_infinity_saturates(isa):
    ops._set_cpu_isa(isa)
    case = Case(7, n=3, c=19, o=6, size=(6, 6))
    case.x[1, 3, 2, 2] = float("nan")
    case.x[2, 0, 0, 0] = float("inf")
    case.x[2, 1, 0, 0] = -float("inf")
    for x in (case.x, case.x.to(memory_format=torch.channels_last)):
        y = case.run(x)
        assert y[1].isnan().all() and not y[[0, 2]].isnan().any()
        assert_same(y, case.expect())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_input_is_exact_and_output_rounded_once(dtype):
    case = Case(9, n=2, c=16, o=24, size=(6, 6))
    x = case.x.to(dtype)
    assert_same(case.run(x), case.expect(x.float()).to(dtype))


def test_autocast_rounds_the_float32_result_once():
    case = Case(9, n=2, c=16, o=24, size=(6, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = case.run()
    assert_same(y, case.expect().bfloat16())


def test_strided_and_empty_inputs():
    case = Case(11, n=4, c=6, o=5, size=(6, 8))
    wide = torch.randn(4, 6, 6, 16)
    assert_same(case.run(wide[..., ::2]), case.expect(wide[..., ::2]))
    assert_same(case.run(case.x.transpose(2, 3)), case.expect(case.x.transpose(2, 3)))
    assert case.run(case.x[:0]).shape == (0, 5, 6, 8)


@pytest.mark.parametrize("name", CASES)
def test_unpack_returns_what_was_packed(name):
    case = Case(1, **CASES[name])
    assert torch.equal(ops.conv_int8_unpack(case.packed), case.codes)


def test_opcheck_compile_and_script():
    case = Case(13, n=2, c=8, o=12, size=(6, 6))
    opcheck(ops.conv_int8, case.args())
    opcheck(ops.conv_int8, case.args(case.x.to(memory_format=torch.channels_last)))
    opcheck(ops.conv_int8_pack, (case.codes, 1))

    def f(x):
        return ops.conv_int8(*case.args(x)) * 2

    for x in (case.x, case.x.to(memory_format=torch.channels_last)):
        assert torch.equal(torch.compile(f, fullgraph=True, backend="aot_eager")(x), f(x))

    @torch.jit.script
    def scripted(x: torch.Tensor, w: torch.Tensor, s_w: torch.Tensor, s_x: torch.Tensor, z_x: torch.Tensor):
        return torch.ops.torchqat.conv_int8(x, w, s_w, None, s_x, z_x, 0, 255, [3, 3], [1, 1], [1, 1], [1, 1], 1)

    case.bias = None
    assert torch.equal(scripted(case.x, case.packed, case.s_w, case.s_x, case.z_x), case.run())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("grid", [(0, 255), (-128, 127), (0, 127)])
@pytest.mark.parametrize("name", ["first layer", "7x7 stem", "dilated in x", "3x3", "odd", "depthwise", "narrow groups", "small maps",
                                  "3d", "per sample", "flat 7x7", "1x1", "1x1 batch", "1x1 batch per sample", "1x1 stride", "no padding"])
def test_codes_in_and_out_equal_the_float_way(name, grid, isa):
    ops._set_cpu_isa(isa)
    case = Case(21, **CASES[name] | dict(grid=grid))
    dims = case.x.dim() - 2
    s, z = per_sample(case.s_x, dims), per_sample(case.z_x, dims)
    codes = torch.clamp(torch.round(case.x / s) + z, *grid).to(torch.int8 if grid[0] < 0 else torch.uint8)
    y = case.run()
    for form in {torch.contiguous_format, FORMATS[dims]}:
        assert_same(case.run(codes.contiguous(memory_format=form)), y)
    scale, zero = (y.abs().max() / 100).reshape(()), torch.tensor(grid[0] + 120, dtype=torch.int32)
    for relu in (False, True):
        value = y.relu() if relu else y
        expected = torch.clamp(torch.round(value / scale) + zero, *grid).to(codes.dtype)
        for x in (case.x, codes):
            for form in {torch.contiguous_format, FORMATS[dims]}:
                out = ops.conv_int8_codes(*case.args(x.contiguous(memory_format=form)), relu, scale, zero, *grid)
                assert torch.equal(out, expected)


def test_codes_of_a_nan_sample_are_the_zero_point():
    case = Case(22, n=2, c=4, o=5)
    case.x[1, 0, 0, 0] = float("nan")
    out = ops.conv_int8_codes(*case.args(), False, torch.tensor(0.1), torch.tensor(7), 0, 255)
    assert (out[1] == 7).all() and (out[0] != 7).any()
    opcheck(ops.conv_int8_codes, (*case.args(), True, torch.tensor(0.1), torch.tensor(7), 0, 255))


def test_codes_errors_are_named():
    case = Case(23, c=4, o=5)
    with pytest.raises(TypeError, match="conv_int8: input must be .* or Byte codes for the range"):
        case.run(torch.zeros(1, 4, 5, 5, dtype=torch.int8))
    for message, values in {
        "output_scale must have 1 element": (torch.ones(2), torch.tensor(0), 0, 255),
        "output_scale must be finite and > 0": (torch.zeros(()), torch.tensor(0), 0, 255),
        "output_zero_point must be an integer in": (torch.ones(()), torch.tensor(300), 0, 255),
        "output_quant_min and output_quant_max must be": (torch.ones(()), torch.tensor(0), 0, 256),
    }.items():
        with pytest.raises(ValueError, match="conv_int8_codes: " + message):
            ops.conv_int8_codes(*case.args(), False, *values)


ERRORS = {
    "input must have 4 dimensions": dict(input=torch.zeros(3, 5, 5)),
    "input must be float32, bfloat16 or float16, got Double": dict(input=torch.zeros(1, 4, 5, 5, dtype=torch.float64)),
    "packed_weight must fit the other arguments": dict(input=torch.zeros(1, 3, 5, 5)),
    "packed_weight must be uint8": dict(packed_weight=torch.zeros(100)),
    "packed_weight must be a weight packed by torchqat": dict(packed_weight=torch.zeros(100, dtype=torch.uint8)),
    "weight_scale must have shape": dict(weight_scale=torch.ones(1, 6)),
    "weight_scale must be floating": dict(weight_scale=torch.ones(6, dtype=torch.int32)),
    "weight_scale must be finite and > 0, got 0": dict(weight_scale=torch.zeros(6)),
    r"bias must have shape \[6\]": dict(bias=torch.zeros(5)),
    "bias must be floating": dict(bias=torch.zeros(6, dtype=torch.int32)),
    "input_scale must be finite and > 0, got inf": dict(input_scale=torch.tensor(float("inf"))),
    "input_scale must have 1 element or one for each of the 1 samples": dict(input_scale=torch.ones(3)),
    "input_zero_point must have 1 element": dict(input_zero_point=torch.ones(3, dtype=torch.int32)),
    r"input_zero_point must be an integer in \[0, 255\], got 256": dict(input_zero_point=torch.tensor(256)),
    "quant_min and quant_max must be an increasing range": dict(quant_min=-1, quant_max=255),
    "kernel_size must have 1 to 3 entries": dict(kernel_size=[]),
    "stride must have 2 entries": dict(stride=[1]),
    "stride must be at least 1": dict(stride=[1, 0]),
    "padding must be at least 0": dict(padding=[1, -1]),
    "dilation must be at least 1": dict(dilation=[0, 1]),
    "groups must be at least 1": dict(groups=0),
    "groups must divide the 4 input channels": dict(groups=3),
    "must fit the input": dict(input=torch.zeros(1, 4, 1, 1), padding=[0, 0]),
}


@pytest.mark.parametrize("message", ERRORS)
def test_bad_arguments_are_named(message):
    arguments = dict(
        input=torch.zeros(1, 4, 5, 5), packed_weight=ops.conv_int8_pack(torch.ones(6, 4, 3, 3, dtype=torch.int8), 1),
        weight_scale=torch.ones(6), bias=None, input_scale=torch.ones(()), input_zero_point=torch.zeros((), dtype=torch.int32),
        quant_min=0, quant_max=255, kernel_size=[3, 3], stride=[1, 1], padding=[1, 1], dilation=[1, 1], groups=1,
    )  # fmt: skip
    with pytest.raises((ValueError, TypeError), match="^conv_int8: .*" + message):
        ops.conv_int8(**arguments | ERRORS[message])


def test_bad_codes_and_packed_weights_are_named():
    with pytest.raises(TypeError, match="conv_int8_pack: codes must be int8, got Float"):
        ops.conv_int8_pack(torch.ones(2, 2, 3), 1)
    with pytest.raises(ValueError, match="conv_int8_pack: codes must be .* got shape"):
        ops.conv_int8_pack(torch.ones(2, 2, dtype=torch.int8), 1)
    with pytest.raises(ValueError, match="conv_int8_pack: codes must not be empty"):
        ops.conv_int8_pack(torch.ones(0, 2, 3, dtype=torch.int8), 1)
    with pytest.raises(ValueError, match="conv_int8_pack: groups must divide the 4 output channels, got 3"):
        ops.conv_int8_pack(torch.ones(4, 2, 3, dtype=torch.int8), 3)
    packed = ops.conv_int8_pack(torch.ones(4, 2, 3, dtype=torch.int8), 1)
    with pytest.raises(ValueError, match="truncated or damaged"):
        ops.conv_int8_unpack(packed[:-1].clone())
    newer = packed.clone()
    newer[12] = 99
    with pytest.raises(ValueError, match="version"):
        ops.conv_int8_unpack(newer)


def test_wide_random_images_agree_with_numpy_integers():
    case = Case(17, c=3, o=5, size=(30, 31), kernel=(3, 3), padding=1, bias=False)
    q = np.clip(np.rint(case.x.numpy() / case.s_x.numpy()) + case.z_x.numpy(), 0, 255).astype(np.int64) - case.z_x.numpy()
    padded = np.pad(q[0], ((0, 0), (1, 1), (1, 1)))
    acc = np.zeros((5, 30, 31), dtype=np.int64)
    for ky in range(3):
        for kx in range(3):
            acc += np.einsum("oc,chw->ohw", case.codes.numpy()[:, :, ky, kx].astype(np.int64), padded[:, ky : ky + 30, kx : kx + 31])
    scale = (case.s_x * case.s_w).numpy()[:, None, None]
    assert np.array_equal(case.run()[0].numpy(), acc.astype(np.float32) * scale)
