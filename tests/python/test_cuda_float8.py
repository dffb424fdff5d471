"""CUDA kernels of the 8-bit float layers: codes and scales equal the CPU's; products agree to the rounding of their sums."""

import pytest
import torch
from cuda_cases import SHIM, assert_same, check, on_cpu, on_device, requires_device, values

pytestmark = requires_device


@pytest.fixture(params=[80, 89, 90] if SHIM else [0])
def capability(request):
    """On the shim, what the device claims to be: without FP8 tensor cores, with them, with scales of rows in the product."""
    if SHIM:
        torch.ops.torchqat_cuda_shim.set_capability(request.param)
    yield request.param
    if SHIM:
        torch.ops.torchqat_cuda_shim.set_capability(80)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("m, k", [(1, 8), (3, 40), (5, 7), (2, 256), (3, 264), (9, 4096), (2, 5000), (1, 8200), (0, 16), (4, 0)])
def test_rows(m, k, dtype):
    for name in ("e4m3fn", "e5m2"):
        x = values((m, k), dtype)
        finite = values((m, k), dtype, seed=3, special=False)
        for masked in (False, True):
            check("_float8_rows", finite, None, name, masked)
            check("_float8_rows", finite, torch.tensor(0.003), name, masked)
            check("_float8_rows", finite, torch.rand(m) * 0.1 + 1e-3, name, masked)
            (codes, scale, mask), _ = on_cpu("_float8_rows", x, None, name, masked)
            (own_codes, own_scale, own_mask), _ = on_device("_float8_rows", x, None, name, masked)
            assert_same(scale, own_scale)
            assert_same(mask, own_mask)
            kind = getattr(torch, f"float8_{name}")
            assert_same(codes.view(kind).float(), own_codes.view(kind).float())


def test_an_invalid_scale_gives_nan():
    x = values((4, 16), torch.float32, special=False)
    scale = torch.tensor([1.0, 0.0, -1.0, float("inf")])
    codes, _, mask = on_device("_float8_rows", x, scale, "e4m3fn", True)[0]
    found = codes.view(torch.float8_e4m3fn).float()
    assert found[0].isfinite().all() and found[1:].isnan().all() and not mask[2:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("m, n, k", [(1, 16, 16), (9, 48, 80), (33, 17, 64), (5, 16, 24), (0, 16, 16), (3, 16, 0)])
def test_product(m, n, k, dtype, capability):
    x, w = (values(s, torch.float32, seed=i, special=False) for i, s in enumerate([(m, k), (n, k)]))
    for formats in (("e4m3fn", "e4m3fn"), ("e5m2", "e4m3fn"), ("e5m2", "e5m2")):
        codes, scale, _ = on_cpu("_float8_rows", x, None, formats[0], False)[0]
        weight, weight_scale, _ = on_cpu("_float8_rows", w, None, formats[1], False)[0]
        for bias in (None, torch.linspace(-1, 1, n)):
            for s in (scale, torch.tensor([0.01])):
                args = (codes, s, formats[0], weight, weight_scale, formats[1], bias, dtype)
                expected, _ = on_cpu("_float8_multiply", *args)
                found, _ = on_device("_float8_multiply", *args)
                assert (found.dtype, found.shape) == (dtype, expected.shape)
                # 13 bits of fraction are kept in sums on some tensor cores.
                sums = 2.0**-12 if not SHIM else 2.0**-20
                a, b = codes.view(getattr(torch, f"float8_{formats[0]}")), weight.view(getattr(torch, f"float8_{formats[1]}"))
                magnitude = (a.float().abs() @ b.float().abs().T) * s.view(-1, 1) * weight_scale
                bound = sums * magnitude + 2 * torch.finfo(dtype).eps * expected.float().abs() + 1e-7
                assert ((found.float() - expected.float()).abs() <= bound).all()


def test_backward_of_the_layer(capability):
    x, w, grad = (values(s, torch.float32, seed=i, special=False) for i, s in enumerate([(9, 32), (16, 32), (9, 16)]))
    codes, scale, mask = on_cpu("_float8_rows", x, None, "e4m3fn", True)[0]
    weight, weight_scale, weight_mask = on_cpu("_float8_rows", w, None, "e4m3fn", True)[0]
    device = "cpu" if SHIM else "cuda"
    args = [t.to(device) if isinstance(t, torch.Tensor) else t for t in (grad, codes, scale, mask, "e4m3fn", weight, weight_scale, weight_mask, "e4m3fn")]
    found = torch.ops.torchqat._linear_float8_backward(*args, torch.float32, torch.float32, "float32", [True, True, True])
    dx = (grad @ (weight.view(torch.float8_e4m3fn).float() * weight_scale[:, None]))
    torch.testing.assert_close(found[0].cpu(), dx * (mask[:, None] >> torch.arange(8) & 1).flatten().view(9, 32), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[2].cpu(), grad.sum(0))
