"""From a QuantSpec's granularity to the block_size that the ops take.

A layout is (kind, block_size, group, blocks_along). Kind "fixed": block_size holds. "last", "sample", "first", "group": it is
worked out from the input's rank (FakeQuantize.blocks). blocks_along: the dimension that groups and blocks lie along.
"""

from torchqat.config import QuantSpec


def weight_layout(spec: QuantSpec, dim: int, channel_axis: int, input_axis: int) -> tuple[str, list[int], int, int]:
    """Of a weight with dim dimensions."""
    granularity = spec.parsed_granularity
    block = [-1] * dim
    group = 0
    if granularity.kind == "tensor":
        block = []
    elif granularity.kind == "channel":
        block[channel_axis] = 1
    elif granularity.kind == "group":
        group = granularity.sizes[0]
        block[channel_axis], block[input_axis] = 1, group
    else:
        block[0], block[1] = granularity.sizes
    return "fixed", block, group, input_axis


def input_layout(spec: QuantSpec, by_sample: bool) -> tuple[str, list[int], int, int]:
    """Of an input of any rank. by_sample: "token" means each sample, and groups lie along dimension 1."""
    granularity = spec.parsed_granularity
    if granularity.kind == "group":
        return "group", [], granularity.sizes[0], 1 if by_sample else -1
    if granularity.kind == "block":
        return "fixed", list(granularity.sizes), 0, -1
    return (
        {"tensor": "fixed", "token": "sample" if by_sample else "last", "channel": "first"}[granularity.kind],
        [],
        0,
        -1,
    )
