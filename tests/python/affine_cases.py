"""Inputs and helpers that the tests of the affine family share."""

import contextlib

import torch

import torchqat
from torchqat import _C

ISAS = _C.supported_isas()
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# Sizes around vectors, mask bytes and tiles; short last blocks; every granularity.
CASES = [
    ((), []),
    ((1,), [1]),
    ((7,), []),
    ((600,), [3]),
    ((1025,), [512]),
    ((0, 4), [1, -1]),
    ((4, 0), [1, -1]),
    ((7, 33), []),
    ((7, 33), [1, -1]),
    ((33, 65), [-1, 1]),
    ((9, 31), [1, 5]),
    ((17, 96), [1, 32]),
    ((70, 33), [32, 16]),
    ((64, 64), [16, 32]),
    ((5, 6, 7), [-1, 1, -1]),
    ((3, 32, 5, 4), [-1, 1, -1, -1]),
    ((4, 10, 3, 3), [1, 4, -1, -1]),
    ((2, 3, 2, 3, 2), [2, 1, -1, 2, 1]),
]


@contextlib.contextmanager
def isa(name):
    before = torch.ops.torchqat._cpu_isa()
    torch.ops.torchqat._set_cpu_isa(name)
    try:
        yield
    finally:
        torch.ops.torchqat._set_cpu_isa(before)


@contextlib.contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sample(shape, dtype=torch.float32, seed=0, special=True):
    """Normal values, with edges of a grid of scale 1/4, zeros of both signs, and (special) nan and infinities mixed in."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    flat = x.view(-1)
    if flat.numel() > 20:
        flat[1], flat[2], flat[4], flat[5] = 0.0, -0.0, 0.125, 0.375  # ties of rint for scale 1/4
        if special:
            flat[3], flat[7], flat[9] = float("nan"), float("inf"), -float("inf")
            flat[11] = 3e38
    return x.to(dtype)


def same(a, b):
    """Equal bits, any NaN equal to any NaN, -0 different from +0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    nan = torch.isnan(a)
    return (
        torch.equal(nan, torch.isnan(b))
        and torch.equal(a[~nan], b[~nan])
        and torch.equal(torch.signbit(a[~nan]), torch.signbit(b[~nan]))
    )


__all__ = ["CASES", "DTYPES", "ISAS", "isa", "same", "sample", "threads", "torchqat"]
