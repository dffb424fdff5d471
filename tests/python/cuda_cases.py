"""How the CUDA tests call an op on the device: on a GPU, or the same kernels compiled for the host (tests/cpp/cuda).

With TORCHQAT_CUDA_SHIM naming the library that tests/cpp/cuda builds, that library is loaded in place of torchqat: its kernels
for the CUDA dispatch key are the sources of csrc/cuda on the host shim, and take CPU tensors. Nothing of torchqat may be
imported then.
"""

import os
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

SHIM = os.environ.get("TORCHQAT_CUDA_SHIM")
if SHIM:
    torch.ops.load_library(SHIM)
elif torch.cuda.is_available():
    import torchqat  # noqa: F401

# Ops that wait for the device: no part of a step (csrc/cuda/README.md).
WAITING = {
    "conv_int8_pack": "checks its codes",
    "conv_int8_unpack": "sizes are in the packed data",
    "embedding_pack": "checks its codes",
    "embedding_unpack": "sizes are in the packed data",
    "linear_grouped_pack": "checks its codes",
    "linear_grouped_pack_scale": "part of packing",
    "linear_grouped_unpack": "sizes are in the packed data",
    "linear_int8_unpack": "sizes are in the packed data",
    "pack_bits": "checks its codes",
}
# What makes the host wait, whichever op asks for it.
_WAITS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave.Tensor")


class NoWaits(TorchDispatchMode):
    """Fails where a kernel asks for a value of the device; the shim's tensors live on the CPU, so no other sign would show."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        assert name not in _WAITS and func._schema.name.removeprefix("aten::") not in _WAITS, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


AVAILABLE = bool(SHIM) or torch.cuda.is_available()
WHY_NOT = "no CUDA device here; ctest CudaOnTheHost runs these cases on the host shim instead"
requires_device = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)
_KEYS = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


def op(name):
    """The op `name` or `name.overload` of torch.ops.torchqat."""
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.torchqat, packet), overload or "default")


def set_order(order):
    """In which order the shim's threads take turns: 0 ascending, 1 descending, 2 shuffled."""
    if SHIM:
        torch.ops.torchqat_cuda_shim.set_order(order)


def _map(value, f):
    if isinstance(value, torch.Tensor):
        return f(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_map(v, f) for v in value)
    return value


def keep_layout(tensor, device):
    """A copy on `device` with the same strides (of a dense tensor or not)."""
    if tensor.numel() == 0 or tensor.is_contiguous():
        return tensor.clone().to(device)
    room = torch.empty(
        sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride())) + 1, dtype=tensor.dtype, device=device
    )
    return room.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def on_cpu(name, *args, **named):
    """Result of the CPU op on copies of the arguments, and those copies."""
    copies = _map([*args, *named.values()], lambda t: keep_layout(t, "cpu"))
    with torch.no_grad():
        return op(name)(*copies[: len(args)], **dict(zip(named, copies[len(args) :]))), copies


def on_device(name, *args, **named):
    """The same on the device, brought back to the CPU."""
    copies = _map([*args, *named.values()], lambda t: keep_layout(t, "cpu" if SHIM else "cuda"))
    arguments, keywords = copies[: len(args)], dict(zip(named, copies[len(args) :]))
    with torch.no_grad(), nullcontext() if not SHIM or name.partition(".")[0] in WAITING else NoWaits():
        result = op(name).redispatch(_KEYS, *arguments, **keywords) if SHIM else op(name)(*arguments, **keywords)
    back = lambda t: keep_layout(t, "cpu")
    return _map(result, back), _map(copies, back)


def assert_same(a, b, where=""):
    """Equal dtype, shape, strides and bits; any NaN equals any NaN."""
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}[{i}]")
        return
    if not isinstance(a, torch.Tensor):
        assert a == b, where
        return
    assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), where
    if a.dtype.is_floating_point:
        words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
        differ = (a.contiguous().view(words) != b.contiguous().view(words)) & ~(a.isnan() & b.isnan())
    else:
        differ = a != b
    count = int(differ.sum())
    if count:
        first = tuple(differ.nonzero()[0].tolist())
        raise AssertionError(f"{where}: {count} of {a.numel()} differ, first at {first}: {a[first]} and {b[first]}")


def check(name, *args, **named):
    """CPU and device give the same bits, in the results and in what was changed in place."""
    expected, expected_args = on_cpu(name, *args, **named)
    found, found_args = on_device(name, *args, **named)
    assert_same(expected, found, name)
    assert_same(expected_args, found_args, name + " arguments")
    return expected


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

# shape, block_size: one run, short last blocks, packets across runs, columns, several dimensions, long rows.
LAYOUTS = [
    ((1,), []),
    ((7,), []),
    ((3, 1000), []),
    ((2051,), [-1]),
    ((5, 9), [1, -1]),
    ((4, 64), [1, -1]),
    ((33, 100), [1, 32]),
    ((33, 96), [1, 32]),
    ((17, 130), [-1, 1]),
    ((300, 3), [-1, 1]),
    ((3, 2600), [1, -1]),
    ((20, 40), [16, 16]),
    ((21, 43), [8, 9]),
    ((2, 5, 7, 3), [1, -1, 1, -1]),
    ((3, 6, 4, 4), [-1, 1, -1, -1]),
    ((2, 8, 3, 2), [1, 3, -1, 1]),
    ((), []),
    ((0, 5), [1, -1]),
    ((4, 0), [1, -1]),
]


def values(shape, dtype, seed=0, special=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g, dtype=torch.float64) * 3
    if special and x.numel() > 12:
        flat = x.view(-1)
        at = torch.randperm(flat.numel(), generator=g)[:8]
        flat[at] = torch.tensor(
            [float("nan"), float("inf"), -float("inf"), -0.0, 1e30, -1e30, 1e-40, 0.5], dtype=x.dtype
        )
    return x.to(dtype)


def scale_shape(shape, block_size):
    return [1 if b == -1 else -(-n // b) for n, b in zip(shape, block_size)]


def qparams(shape, block_size, scale_dtype=torch.float32, seed=1):
    g = torch.Generator().manual_seed(seed)
    sizes = scale_shape(shape, block_size)
    scale = (torch.rand(sizes, generator=g) * 0.1 + 0.01).to(scale_dtype)
    zero_point = torch.randint(-20, 20, sizes, generator=g, dtype=torch.int32)
    return scale, zero_point


def codes(shape, seed=5):
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(seed)).to(torch.int8)


@pytest.fixture(autouse=True)
def shuffled_turns():
    """On the shim threads take turns in shuffled order: a result that depends on it misses a barrier."""
    set_order(2)
    yield
    set_order(0)
