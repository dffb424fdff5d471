"""Suite inference: the deployed int8 convolution against torch's float32 in its faster layout."""

import torch
from torch.nn import functional as F

from torchqat.bench.harness import Report, at_least, kept_memory

FASTER, CODES = "fp32 channels_last", "torchqat int8 channels_last"


def _line(report: Report, batch: int, channels: int, out: int, size: int, groups: int = 1, stride: int = 1, target: float | None = None):
    x = torch.randn(batch, channels, size, size)
    weight, bias = torch.randn(out, channels // groups, 3, 3), torch.randn(out)
    last, weight_last = x.contiguous(memory_format=torch.channels_last), weight.contiguous(memory_format=torch.channels_last)
    codes = torch.randint(-127, 128, weight.shape, dtype=torch.int8)
    packed = torch.ops.torchqat.conv_int8_pack(codes, groups)
    scale, weight_scale, zero = torch.tensor(0.03), torch.rand(out) * 0.01 + 0.001, torch.tensor(120, dtype=torch.int32)
    strides, ones = [stride, stride], [1, 1]

    def integer(value):
        return torch.ops.torchqat.conv_int8(
            value, packed, weight_scale, bias, scale, zero, 0, 255, [3, 3], strides, ones, ones, groups
        )

    def integer_codes(value):
        return torch.ops.torchqat.conv_int8_codes(
            value, packed, weight_scale, bias, scale, zero, 0, 255, [3, 3], strides, ones, ones, groups, True, scale, zero, 0, 255
        )

    codes_in = torch.randint(0, 256, x.shape, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    calls = {
        "fp32 contiguous": lambda: F.conv2d(x, weight, bias, stride, 1, 1, groups),
        FASTER: lambda: F.conv2d(last, weight_last, bias, stride, 1, 1, groups),
        "torchqat int8 contiguous": lambda: integer(x),
        CODES: lambda: integer(last),
        "torchqat codes in, codes out": lambda: integer_codes(codes_in),
    }
    kind = "depthwise " if groups > 1 else ""
    targets = {} if target is None else {CODES: at_least(target, FASTER), "torchqat codes in, codes out": at_least(target, FASTER)}
    # In a running model outputs find memory that the layer before gave back, and no fresh pages.
    with torch.inference_mode(), kept_memory():
        report.group(f"Conv2d {kind}3x3 {channels}->{out}, {size}x{size}, stride {stride}, batch {batch}", calls, baseline=FASTER, targets=targets)


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    for batch, dense in [(1, 4.2)] if quick else [(1, 4.2), (16, 3.9)]:
        _line(report, batch, 64, 64, 32, target=dense)
        _line(report, batch, 96, 96, 32, groups=96, target=4.5)
        if not quick:
            _line(report, batch, 3, 64, 32)
            _line(report, batch, 64, 128, 32, stride=2)
            _line(report, batch, 128, 128, 16)
            _line(report, batch, 256, 256, 7)
