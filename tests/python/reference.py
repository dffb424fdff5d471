"""Slow, obvious numpy oracles of the numerics (float64 bookkeeping, one IEEE operation per step in the compute type)."""

import numpy as np
import torch


def compute_dtype(tensor: torch.Tensor):
    return np.float64 if tensor.dtype == torch.float64 else np.float32


def scale_shape(shape, block_size) -> list:
    """ceil(dim / block); a whole dimension has one scale, an empty one too."""
    return [1 if b == -1 else -(-n // b) for n, b in zip(shape, block_size)]


def expand(values: torch.Tensor, shape, block_size) -> np.ndarray:
    """Scales or zero points of every element: entry [i // b, j // b, ...]; an empty block_size is the whole tensor."""
    values = values.detach().cpu()
    array = values.double().numpy() if values.is_floating_point() else values.long().numpy()
    if len(block_size) == 0:
        return np.broadcast_to(array.reshape(()), tuple(shape))
    blocks = [max(1, n) if b == -1 else b for n, b in zip(shape, block_size)]
    array = array.reshape(scale_shape(shape, block_size))
    for axis, (n, b) in enumerate(zip(shape, blocks)):
        array = np.repeat(array, b, axis=axis)
        array = np.take(array, np.arange(n), axis=axis)
    return array


def to_compute(tensor: torch.Tensor, dtype) -> np.ndarray:
    return tensor.detach().cpu().to(torch.float64 if dtype == np.float64 else torch.float32).contiguous().numpy()


def tensor(array, shape) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).reshape(shape)


def levels(x, scale, zero_point, block_size):
    """rint(x / s) + z, and s, z per element, in the compute type."""
    dtype = compute_dtype(x)
    s = expand(scale.to(torch.float64 if dtype == np.float64 else torch.float32), x.shape, block_size).astype(dtype)
    z = np.zeros_like(s) if zero_point is None else expand(zero_point, x.shape, block_size).astype(dtype)
    with np.errstate(all="ignore"):
        return (np.rint(to_compute(x, dtype) / s) + z).astype(dtype), s, z


def fake_quantize(x, scale, zero_point, block_size, quant_min, quant_max):
    """-> y (dtype of x) and the straight-through mask (bool), as tensors."""
    level, s, z = levels(x, scale, zero_point, block_size)
    with np.errstate(all="ignore"):
        inside = (level >= quant_min) & (level <= quant_max)
        y = (np.clip(level, level.dtype.type(quant_min), level.dtype.type(quant_max)) - z) * s
    return tensor(y, x.shape).to(x.dtype), tensor(inside, x.shape)


def quantize(x, scale, zero_point, block_size, quant_min, quant_max, dtype):
    level, _, z = levels(x, scale, zero_point, block_size)
    code = np.where(np.isnan(level), z, np.clip(level, quant_min, quant_max))
    return tensor(code.astype(np.int64), x.shape).to(dtype)


def dequantize(codes, scale, zero_point, block_size, dtype):
    work = np.float64 if dtype == torch.float64 else np.float32
    s = expand(scale.to(torch.float64 if work == np.float64 else torch.float32), codes.shape, block_size).astype(work)
    z = np.zeros_like(s) if zero_point is None else expand(zero_point, codes.shape, block_size).astype(work)
    y = (codes.detach().cpu().contiguous().numpy().astype(work) - z) * s
    return tensor(y, codes.shape).to(dtype)


def block_ranges(x, block_size):
    """Finite minimum and maximum of every block (+inf, -inf where there is none), and how many values were not finite."""
    a = to_compute(x, compute_dtype(x))
    blocks = [max(1, n) if b == -1 else b for n, b in zip(a.shape, block_size)] if len(block_size) else None
    counts = scale_shape(a.shape, block_size)
    lo = np.full(counts, np.inf, dtype=a.dtype)
    hi = np.full(counts, -np.inf, dtype=a.dtype)
    for index in np.ndindex(*counts):
        part = a if blocks is None else a[tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, blocks))]
        part = part[np.isfinite(part)]
        if part.size:
            lo[index], hi[index] = part.min(), part.max()
    return lo, hi, int(a.size - np.isfinite(a).sum())


def qparams(lo, hi, quant_min, quant_max, symmetric):
    """Scale and zero point of ranges (numpy arrays of the compute type)."""
    lo, hi = np.asarray(lo), np.asarray(hi)
    dtype = lo.dtype.type
    seen = lo <= hi
    lo, hi = np.minimum(lo, dtype(0)), np.maximum(hi, dtype(0))
    with np.errstate(all="ignore"):
        span = np.maximum(-lo, hi) if symmetric else hi - lo
        steps = dtype(quant_max if symmetric else quant_max - quant_min)
        s = np.where(np.isfinite(span), span / steps, hi / steps - lo / steps)
    s = np.where(span == 0, dtype(1), np.maximum(s, np.finfo(dtype).tiny)).astype(dtype)
    z = np.zeros_like(s) if symmetric else np.where(seen, np.rint(dtype(quant_min) - lo / s), dtype(0))
    return torch.from_numpy(np.array(s)), torch.from_numpy(np.array(np.clip(z, quant_min, quant_max))).to(torch.int32)


def choose_qparams(x, block_size, quant_min, quant_max, symmetric):
    lo, hi, _ = block_ranges(x, block_size)
    return qparams(lo, hi, quant_min, quant_max, symmetric)
