"""Block-scaled operands and their product on the device: layouts against formulas and torchao, and what happens where the hardware errs.

On the host torch has no block-scaled product. The tests put one in its place that decodes what it is handed in float64, rightly or
with a mistake in it; each in a process of its own, since a device is asked once.
"""

import os
import re
import subprocess
import sys
import textwrap

import pytest
import torch
from cuda_cases import SHIM, on_device, requires_device, values

pytestmark = requires_device
MX = ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4"]
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
E2M1 = torch.cat([E2M1, -E2M1])


def unswizzled(scale, rows, blocks):
    """The formula of the layout, element by element: 128 x 4 tiles, and in a tile rows 32 apart side by side."""
    tiles = -(-blocks // 4)
    assert scale.numel() == -(-rows // 128) * 128 * tiles * 4
    r, b = torch.meshgrid(torch.arange(rows), torch.arange(blocks), indexing="ij")
    tile, inner = (r // 128) * tiles + b // 4, (r % 32) * 16 + (r % 128) // 32 * 4 + b % 4
    return scale[tile * 512 + inner]


def decoded(codes, scale, tensor_scale, name, columns):
    """Float64 values of what tensor cores are handed."""
    rows, block = codes.shape[0], 16 if name == "nvfp4" else 32
    blocks = unswizzled(scale, rows, columns // block)
    if name == "nvfp4":
        elements = torch.stack([E2M1[(codes & 15).long()], E2M1[(codes >> 4).long()]], -1).flatten(1).double()
        factor = blocks.view(torch.float8_e4m3fn).double() * tensor_scale.double()
    else:
        assert tensor_scale.item() == 1 and not (blocks == 255).any()
        kind = torch.float8_e5m2 if name == "mxfp8_e5m2" else torch.float8_e4m3fn
        elements, factor = codes.view(kind).double(), torch.exp2(blocks.double() - 127)
    return elements * factor.repeat_interleave(block, 1)


def rounded(x, name, rounding="floor"):
    return torch.ops.torchqat.fake_quantize_float(x, None, [], name, rounding)


def wide(shape, dtype=torch.float32, seed=0):
    """Blocks of very different size, zeros among them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g) * torch.exp2(torch.randint(-9, 9, (shape[0], shape[1] // 16), generator=g)).repeat_interleave(16, 1)
    if shape[0] > 1:
        x[0, :32] = 0
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 32), (5, 64), (33, 96), (130, 160), (300, 128)])
@pytest.mark.parametrize("rounding", ["floor", "rceil", "ceil", "even"])
def test_mx_operands_are_the_values(shape, dtype, rounding):
    for name in MX:
        y = rounded(wide(shape, dtype), name, rounding)
        (codes, scale, whole), _ = on_device("_block_float_operand", y, name)
        assert torch.equal(decoded(codes, scale, whole, name, shape[1]), y.double()), name


def test_mx_operands_reach_the_ends_of_the_exponent():
    for name in MX:
        for power in (-140, -130, -127, -120, 100, 119):
            y = rounded(torch.randn(4, 64, generator=torch.Generator().manual_seed(power)).double().mul(2.0**power).float(), name)
            (codes, scale, whole), _ = on_device("_block_float_operand", y, name)
            assert torch.equal(decoded(codes, scale, whole, name, 64), y.double()), (name, power)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 32), (5, 64), (33, 96), (130, 160), (300, 128)])
@pytest.mark.parametrize("given", [False, True])
def test_nvfp4_operands_are_the_values(shape, dtype, given):
    x = wide(shape, dtype)
    y = rounded(x, "nvfp4")
    (codes, scale, whole), _ = on_device("_block_float_operand", y, "nvfp4", x if given else None)
    # Each value is rounded to its dtype; the tensor scale too where it comes from such values.
    slack = torch.finfo(dtype).eps * (1 if given or dtype == torch.float32 else 2)
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    found = decoded(codes, scale, whole, "nvfp4", shape[1])
    assert ((found - y.double()).abs() <= slack * y.double().abs() + tiny).all()
    if given:
        assert whole.item() == (x.float().abs().max() / (448 * 6)).item()


@pytest.mark.parametrize("name", ["mxfp8_e4m3", "nvfp4"])
def test_scales_lie_as_in_torchao(name):
    utils = pytest.importorskip("torchao.prototype.mx_formats.utils")
    y = rounded(wide((200, 224)), name)
    _, scale, _ = on_device("_block_float_operand", y, name)[0]
    blocks = 224 // (16 if name == "nvfp4" else 32)
    assert torch.equal(utils.to_blocked(unswizzled(scale, 200, blocks)).flatten(), scale)


def test_what_is_not_finite_spoils_its_block():
    for name in (*MX, "nvfp4"):
        y = rounded(values((4, 64), torch.float32, special=False), name)
        y[1, 5], y[2, 40] = float("nan"), float("inf")
        (codes, scale, whole), _ = on_device("_block_float_operand", y, name)
        found = decoded(codes, scale, whole, name, 64)
        assert found[1, 5].isnan() and found[2, 40].isnan() and found[[0, 3]].isfinite().all(), name


PRODUCT = """
import sys, warnings
import torch
sys.path.insert(0, sys.argv[1])
from test_cuda_block_float import decoded, rounded, wide
from cuda_cases import _KEYS
mistake, capability = sys.argv[2], int(sys.argv[3])
torch.ops.torchqat_cuda_shim.set_capability(capability)
calls = []

def scaled_mm(a, b, scale_a, scale_b, bias=None, scale_result=None, out_dtype=None, use_fast_accum=False):
    assert a.is_contiguous() and b.t().is_contiguous() and out_dtype == torch.float32 and bias is None
    calls.append(a.dtype)
    one = torch.ones(())
    def side(t, scale):
        halves = t.dtype == torch.float4_e2m1fn_x2
        assert scale.dtype == (torch.float8_e4m3fn if halves else torch.float8_e8m0fnu)
        name = "nvfp4" if halves else "mxfp8_e5m2" if t.dtype == torch.float8_e5m2 else "mxfp8_e4m3"
        codes, scale = t.view(torch.uint8), scale.view(torch.uint8)
        if mistake == "nibbles" and halves and t is a:  # on both sides it would only be another order of the sum
            codes = codes >> 4 | codes << 4
        if mistake == "layout":
            columns = t.shape[1] * (2 if halves else 1) // (16 if halves else 32)
            plain = scale.view(-1, -(-columns // 4) * 4)  # as if rows lay one after another
            import test_cuda_block_float as module
            kept, module.unswizzled = module.unswizzled, lambda s, r, c: plain[:r, :c]
            try:
                return decoded(codes, scale, one, name, t.shape[1] * (2 if halves else 1))
            finally:
                module.unswizzled = kept
        return decoded(codes, scale, one, name, t.shape[1] * (2 if halves else 1))
    y = side(a, scale_a) @ side(b.t(), scale_b).t()
    return (y * (1.01 if mistake == "scale" else 1.0)).float()

library = torch.library.Library("aten", "IMPL")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    if mistake != "refusal":  # torch's own has no such product on the CPU
        library.impl("_scaled_mm", scaled_mm, "CPU")

def layer(x, w, bias, fx, fw, raw, dtype):
    return torch.ops.torchqat.linear_block_float.default.redispatch(_KEYS, x, w, bias, fx, fw, raw, dtype)

PAIRS = [("mxfp8_e4m3", "mxfp8_e4m3"), ("mxfp8_e4m3", "mxfp8_e5m2"), ("mxfp8_e5m2", "mxfp6_e2m3"), ("mxfp6_e3m2", "mxfp4"), ("nvfp4", "nvfp4")]
for fx, fw in PAIRS:
    for dtype in (torch.float32, torch.bfloat16):
        raw, w, bias = wide((20, 96), dtype), rounded(wide((48, 96), seed=1), fw), torch.linspace(-1, 1, 48)
        x = rounded(raw, fx)
        exact = x.double() @ w.double().t()
        most = x.double().abs() @ w.double().abs().t()
        before = len(calls)
        y = layer(x.view(4, 5, 96), w, bias, fx, fw, raw, None).view(20, 48)
        used = len(calls) > before
        bound = (2**-20 if dtype == torch.float32 else 2**-8) * (most + 1)
        assert y.dtype == dtype and ((y.double() - exact - bias).abs() <= bound).all(), (fx, fw)
        expected = torch.nn.functional.linear(x, w.to(dtype), bias.to(dtype))
        print("same" if torch.equal(expected, y) else "other", "used" if used else "unused", fx)
        # What has no such product: sizes, e5m2 twice, float64.
        before = len(calls)
        layer(x, w[:40], None, fx, fw, raw, None)
        layer(x[:, :80], w[:, :80], None, fx, fw, raw, None)
        layer(x.double(), w.double(), None, fx, fw, raw, None)
        layer(x[:0], w, None, fx, fw, raw, None)
        layer(x, w, None, "mxfp8_e5m2", "mxfp8_e5m2", raw, None)
        assert len(calls) == before
print("calls", len(calls))
"""


def product(mistake, capability=100):
    if not SHIM:
        pytest.skip("the product's stand-in is for the host")
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PRODUCT), os.path.dirname(__file__), mistake, str(capability)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    # C++ warnings reach Python's filters or the error stream, as torch decides.
    return run.stdout, re.findall(r"torchqat: block-scaled tensor cores.*", run.stderr)


def test_a_right_product_is_used():
    out, warned = product("none")
    assert not warned and "unused" not in out


@pytest.mark.parametrize("mistake", ["refusal", "layout", "scale"])
def test_a_wrong_product_is_not_used(mistake):
    out, warned = product(mistake)
    # Asked once for each of the four kinds of operands, and said each time; never used.
    assert f"calls {0 if mistake == 'refusal' else 4}" in out and len(warned) == 4, (out, warned)
    assert out.count("same") == 10 and "other" not in out
    why = "their product failed: " if mistake == "refusal" else "their product differs from that of the same values"
    assert all(why in w for w in warned)


def test_a_wrong_order_of_nibbles_is_found():
    out, warned = product("nibbles")
    assert len(warned) == 1 and "(capability 10.0) are not used for NVFP4 layers" in warned[0]
    assert "unused mx" not in out and out.count("same unused nvfp4") == 1


def test_older_devices_are_not_asked():
    out, warned = product("none", 90)
    assert "calls 0" in out and not warned and "other" not in out
