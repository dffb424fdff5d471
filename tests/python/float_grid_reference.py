"""A numpy reading of the float grids and of the MX and NVFP4 formulas, over ml_dtypes casts."""

import ml_dtypes
import numpy as np
import torch

# name -> (ml_dtypes type, largest finite value, emax, mantissa bits)
ELEMENTS = {
    "e4m3fn": (ml_dtypes.float8_e4m3fn, 448.0, 8, 3),
    "e5m2": (ml_dtypes.float8_e5m2, 57344.0, 15, 2),
    "e3m2": (ml_dtypes.float6_e3m2fn, 28.0, 4, 2),
    "e2m3": (ml_dtypes.float6_e2m3fn, 7.5, 2, 3),
    "e2m1": (ml_dtypes.float4_e2m1fn, 6.0, 2, 1),
}
MX = {
    "mxfp8_e4m3": "e4m3fn",
    "mxfp8_e5m2": "e5m2",
    "mxfp6_e3m2": "e3m2",
    "mxfp6_e2m3": "e2m3",
    "mxfp4": "e2m1",
}
ROUNDINGS = ["floor", "rceil", "ceil", "even"]

def cast(values: np.ndarray, element: str) -> np.ndarray:
    """The ml_dtypes cast, saturating; NaN stays NaN (formats without NaN included)."""
    kind, largest, _, _ = ELEMENTS[element]
    with np.errstate(all="ignore"):
        rounded = np.clip(np.nan_to_num(values, nan=0.0, posinf=largest, neginf=-largest), -largest, largest)
        rounded = np.copysign(rounded, values).astype(kind).astype(values.dtype)
    return np.where(np.isnan(values), values, rounded)


def mx_scale(block: np.ndarray, element: str, rounding: str):
    """Shared scale of one block in its own dtype."""
    _, largest, emax, mantissa = ELEMENTS[element]
    work = block.dtype.type
    if block.size == 0 or not np.isfinite(block).all():
        return work(np.nan)
    amax = np.abs(block).max()
    if amax == 0:
        return work(2.0**-127)
    if rounding == "rceil":
        ratio = amax / work(largest)
        if ratio == 0:
            return work(2.0**-127)
        fraction, exponent = np.frexp(ratio)
        exponent -= fraction == 0.5
    else:
        fraction, exponent = np.frexp(amax)
        fraction, exponent = fraction * 2, exponent - 1  # fraction in [1, 2)
        exponent += rounding == "ceil" and fraction > 1
        exponent += rounding == "even" and fraction + 2.0 ** (-mantissa - 1) >= 2
        exponent -= emax
    return work(2.0 ** float(np.clip(exponent, -127, 127)))


def work_array(x: torch.Tensor) -> np.ndarray:
    return x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32).contiguous().numpy()


def reference_blocks(x: torch.Tensor, format: str, block: int, rounding="floor", tensor_scale=None):
    """-> y in x's dtype and the straight-through mask."""
    values = work_array(x)
    rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
    work = values.dtype.type
    element = MX.get(format, "e2m1")
    scales = np.empty_like(rows)
    if format == "nvfp4" and tensor_scale is None:
        finite = np.abs(rows[np.isfinite(rows)])
        tensor_scale = max(np.finfo(work).tiny, (finite.max() if finite.size else work(0)) / work(448 * 6))
    for row, out in zip(rows, scales):
        for begin in range(0, len(row), block):
            part = row[begin : begin + block]
            if format == "nvfp4":
                finite = np.abs(part[np.isfinite(part)])
                amax = finite.max() if finite.size else work(0)
                wanted = np.clip(amax / work(6) / work(tensor_scale), work(2.0**-6), work(448))
                out[begin : begin + block] = cast(np.array([wanted]), "e4m3fn") * work(tensor_scale)
            else:
                out[begin : begin + block] = mx_scale(part, element, rounding)
    with np.errstate(all="ignore"):
        u = rows / scales
        y = cast(u, element) * scales
        inside = np.abs(u) <= ELEMENTS[element][1]
    shape = x.shape
    return torch.from_numpy(y).reshape(shape).to(x.dtype), torch.from_numpy(inside).reshape(shape)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bits, signs of zero included; any NaN equals any NaN."""
    a, b = a.detach(), b.detach()
    assert a.shape == b.shape and a.dtype == b.dtype
    both_nan = a.isnan() & b.isnan()
    return bool((both_nan | ((a == b) & (a.signbit() == b.signbit()))).all())
