"""How the CUDA tests call an op on the device: on a GPU, or the same kernels compiled for the host (tests/cpp/cuda).

With TORCHQAT_CUDA_SHIM naming the library that tests/cpp/cuda builds, that library is loaded in place of torchqat: its kernels
for the CUDA dispatch key are the sources of csrc/cuda on the host shim, and take CPU tensors. Nothing of torchqat may be
imported then.
"""

import os

import torch

SHIM = os.environ.get("TORCHQAT_CUDA_SHIM")
if SHIM:
    torch.ops.load_library(SHIM)
elif torch.cuda.is_available():
    import torchqat  # noqa: F401

AVAILABLE = bool(SHIM) or torch.cuda.is_available()
WHY_NOT = "no CUDA device here; ctest CudaOnTheHost runs these cases on the host shim instead"
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
    room = torch.empty(sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride())) + 1, dtype=tensor.dtype, device=device)
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
    with torch.no_grad():
        result = op(name).redispatch(_KEYS, *arguments, **keywords) if SHIM else op(name)(*arguments, **keywords)
    back = lambda t: keep_layout(t, "cpu")  # noqa: E731
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
