"""A transposed convolution as one plain convolution: what its training and its deployed form share.

Output pixel u of the whole transposed convolution meets tap t at input pixel (u - t) / stride. So with the taps of each phase
u % stride taken as output channels of their own, a convolution of stride 1 gives every phase at once, and interleaving the
phases gives the image. Nothing is computed on zeros between pixels; a kernel that stride does not divide, or a
dilation, is filled up with zero weights, whose codes are 0. Lists have one entry for each spatial dimension.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def taps_of_phase(kernel: list[int], stride: list[int], dilation: list[int]) -> list[int]:
    """Kernel size of the plain convolution."""
    return [(d * (k - 1) + s) // s for k, s, d in zip(kernel, stride, dilation)]


def phase_weight(weight: Tensor, stride: list[int], dilation: list[int], groups: int) -> Tensor:
    """[in, out / groups, *kernel] -> [out * phases, in / groups, *taps_of_phase], phases of an output channel side by side."""
    dims = len(stride)
    for i in range(dims):
        moved = weight.movedim(2 + i, -1)
        kernel, step = moved.size(-1), dilation[i]
        if step > 1:
            moved = F.pad(moved.unsqueeze(-1), [0, step - 1]).flatten(-2).narrow(-1, 0, step * (kernel - 1) + 1)
        weight = F.pad(moved, [0, (stride[i] - moved.size(-1) % stride[i]) % stride[i]]).movedim(-1, 2 + i)
    shape = [groups, weight.size(0) // groups, weight.size(1)]
    flipped: list[int] = []
    phases: list[int] = []
    taps: list[int] = []
    sizes: list[int] = []
    for i in range(dims):
        count = weight.size(2 + i) // stride[i]
        shape += [count, stride[i]]
        taps.append(3 + 2 * i)
        phases.append(4 + 2 * i)
        sizes.append(count)
    flipped += taps
    parts = weight.reshape(shape).flip(flipped).permute([0, 2] + phases + [1] + taps)
    outputs = groups * shape[2]
    for s in stride:
        outputs *= s
    return parts.reshape([outputs, shape[1]] + sizes)


def whole_weight(weight: Tensor, kernel: list[int], stride: list[int], dilation: list[int], groups: int) -> Tensor:
    """The inverse of phase_weight."""
    dims = len(stride)
    phases = 1
    for s in stride:
        phases *= s
    taps = list(weight.shape[2:])
    outputs, inputs = weight.size(0) // groups // phases, weight.size(1)
    parts = weight.reshape([groups, outputs] + list(stride) + [inputs] + taps)
    order = [0, 2 + dims, 1]
    for i in range(dims):
        order += [3 + dims + i, 2 + i]
    parts = parts.permute(order).flip([3 + 2 * i for i in range(dims)])
    whole = parts.reshape([groups * inputs, outputs] + [t * s for t, s in zip(taps, stride)])
    for i in range(dims):
        index = torch.arange(kernel[i], device=weight.device) * dilation[i]
        whole = whole.index_select(2 + i, index)
    return whole


def phase_scale(scale: Tensor, outputs: int, stride: list[int], groups: int) -> Tensor:
    """[out * phases] from a scale for each of out / groups channels, or one."""
    phases = 1
    for s in stride:
        phases *= s
    return scale.reshape(-1).expand(outputs // groups).repeat(groups).repeat_interleave(phases)


def phase_bias(bias: Tensor, stride: list[int]) -> Tensor:
    phases = 1
    for s in stride:
        phases *= s
    return bias.repeat_interleave(phases)


def output_lengths(
    input: Tensor, output_size: list[int] | None, kernel: list[int], stride: list[int], padding: list[int],
    output_padding: list[int], dilation: list[int],
) -> list[int]:  # fmt: skip
    """Spatial sizes of the output of a batched input.

    Raises:
        ValueError: output_size has other dimensions, or cannot be reached.
    """
    dims = len(stride)
    least = [(input.size(2 + i) - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(dims)]
    if output_size is None:
        return [least[i] + output_padding[i] for i in range(dims)]
    wanted = output_size[len(output_size) - dims :]
    if len(output_size) not in (dims, dims + 2):
        raise ValueError(f"ConvTranspose: output_size must have {dims} or {dims + 2} entries, got {len(output_size)}")
    for i in range(dims):
        if wanted[i] < least[i] or wanted[i] >= least[i] + max(stride[i], dilation[i]):
            raise ValueError(f"ConvTranspose: output_size must be in reach of {least}, got {wanted}")
    return wanted


def grown(input: Tensor, lengths: list[int], taps: list[int], stride: list[int], padding: list[int]) -> Tensor:
    """The input with zeros at the far ends where the output reaches beyond what its pixels touch."""
    short: list[int] = []
    needed = False
    for i in range(len(stride)):
        d = len(stride) - 1 - i
        more = max(0, (padding[d] + lengths[d] + stride[d] - 1) // stride[d] - (input.size(2 + d) + taps[d] - 1))
        needed = needed or more > 0
        short += [0, more]
    return F.pad(input, short) if needed else input


def interleaved(y: Tensor, lengths: list[int], stride: list[int], padding: list[int]) -> Tensor:
    """[N, out * phases, *sizes] -> [N, out, *lengths]: phases side by side, without the padding; in the memory format of y."""
    return torch.ops.torchqat._interleave_phases(y, stride, padding, lengths)
