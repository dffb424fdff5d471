"""Packed codes and integer embeddings on CUDA against the CPU ops, bit for bit, on a GPU or on the host shim (see cuda_cases)."""

import pytest
import torch
from cuda_cases import DTYPES, check, on_device, requires_device, shuffled_turns  # noqa: F401

pytestmark = requires_device


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_bit_streams(bits):
    for count in (0, 1, 7, 8, 9, 2500):
        stored = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(count)).to(torch.uint8)
        packed = check("pack_bits", stored, bits)
        for signed in (False, True):
            check("unpack_bits", packed, bits, count, signed)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("dim, group", [(1, -1), (5, -1), (64, 32), (70, 32)])
def test_embeddings(bits, signed, dim, group):
    g = torch.Generator().manual_seed(bits)
    low = -(2 ** (bits - 1)) if signed else 0
    table = torch.randint(low, low + 2**bits, (11, dim), generator=g).to(torch.int8 if signed else torch.uint8)
    packed = check("embedding_pack", table, bits)
    check("embedding_unpack", packed)
    groups = 1 if group == -1 else -(-dim // group)
    scale = torch.rand(11, groups, generator=g) + 0.01
    zero_point = torch.randint(0, 3, (11, groups), generator=g, dtype=torch.int32)
    indices = torch.randint(0, 11, (4, 6), generator=g)
    for dtype, z in zip(DTYPES, (None, zero_point, None, zero_point)):
        check("embedding_int", indices, packed, scale, z, dim, group, dtype)
        for mode in ("sum", "mean", "max"):
            check("embedding_bag_int", indices, packed, scale, z, dim, group, dtype, mode=mode, padding_idx=3)
    offsets = torch.tensor([0, 0, 7, 24])
    weights = torch.rand(24, generator=g)
    flat = (indices.view(-1), packed, scale, zero_point, dim, group, torch.float32)
    check("embedding_bag_int", *flat, offsets=offsets, per_sample_weights=weights, mode="sum")
    check("embedding_bag_int", *flat, offsets=offsets, mode="max", include_last_offset=True)
    outside = torch.tensor([0, 11, -1])
    found = on_device("embedding_int", outside, packed, scale, None, dim, group, torch.float32)[0]
    assert found[1:].isnan().all() and not found[0].isnan().any()
