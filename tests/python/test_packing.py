"""pack_bits and unpack_bits against numpy's bit arithmetic; the header that packed weights begin with."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchqat  # noqa: F401

ops = torch.ops.torchqat


def bit_stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """The documented order, bit by bit."""
    each = (codes.astype(np.int64)[:, None] >> np.arange(bits)) & 1
    return np.packbits(each.reshape(-1).astype(np.uint8), bitorder="little")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 8]), st.integers(0, 70), st.booleans(), st.integers(0, 2**31))
def test_the_stream_is_little_endian_and_comes_back(bits, count, signed, seed):
    low = -(2 ** (bits - 1)) if signed else 0
    codes = np.random.default_rng(seed).integers(low, low + 2**bits, count)
    packed = ops.pack_bits(torch.from_numpy(codes), bits)
    assert packed.dtype == torch.uint8
    np.testing.assert_array_equal(packed.numpy(), bit_stream(codes, bits))
    back = ops.unpack_bits(packed, bits, count, signed)
    assert back.dtype == (torch.int8 if signed else torch.uint8)
    np.testing.assert_array_equal(back.numpy(), codes)


def test_a_documented_example():
    # 3-bit codes 1, 2, 3: 001 | 010 << 3 | 011 << 6 = 0b0_1101_0001 -> bytes 0xd1, 0x00
    assert ops.pack_bits(torch.tensor([1, 2, 3]), 3).tolist() == [0xD1, 0x00]
    assert ops.pack_bits(torch.tensor([[-1, 1], [-8, 7]], dtype=torch.int8), 4).tolist() == [0x1F, 0x78]


@pytest.mark.parametrize("threads", [1, 2])
def test_large_and_strided(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        codes = torch.randint(-4, 4, (2 * 65536 + 13, 2), dtype=torch.int8).t()
        packed = ops.pack_bits(codes, 3)
        np.testing.assert_array_equal(packed.numpy(), bit_stream(codes.contiguous().flatten().numpy(), 3))
        assert torch.equal(ops.unpack_bits(packed, 3, codes.numel(), True).view(2, -1), codes)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: ops.pack_bits(torch.zeros(3, dtype=torch.int8), 5), ValueError, r"pack_bits: bits must be 1, 2, 3, 4 or 8, got 5"),
        (lambda: ops.pack_bits(torch.zeros(3), 4), TypeError, r"pack_bits: codes must have an integer dtype, got Float"),
        (lambda: ops.pack_bits(torch.tensor([0, 16]), 4), ValueError, r"pack_bits: codes of 4 bits must be in \[-8, 7\] or in \[0, 15\], got 0 to 16"),
        (lambda: ops.pack_bits(torch.tensor([-9, 1]), 4), ValueError, r"got -9 to 1"),
        (lambda: ops.pack_bits(torch.tensor([-1, 1]), 1), ValueError, r"must be in \[-1, 0\] or in \[0, 1\], got -1 to 1"),
        (lambda: ops.unpack_bits(torch.zeros(2, dtype=torch.uint8), 4, 5, True), ValueError, r"packed must have 3 bytes for 5 codes of 4 bits, got 2"),
        (lambda: ops.unpack_bits(torch.zeros(2, dtype=torch.int8), 4, 4, True), TypeError, r"packed must be uint8"),
        (lambda: ops.unpack_bits(torch.zeros(2, 1, dtype=torch.uint8), 4, 4, True), ValueError, r"packed must be 1-D"),
        (lambda: ops.unpack_bits(torch.zeros(0, dtype=torch.uint8), 4, -1, True), ValueError, r"numel must be at least 0"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_opcheck():
    torch.library.opcheck(ops.pack_bits.default, (torch.randint(-2, 2, (3, 5)), 2))
    torch.library.opcheck(ops.unpack_bits.default, (torch.zeros(3, dtype=torch.uint8), 4, 5, True))


def set_header(packed: torch.Tensor, offset: int, value: int) -> torch.Tensor:
    changed = packed.clone()
    changed[offset] = value
    return changed


def test_foreign_and_newer_buffers_are_refused():
    good = ops.embedding_pack(torch.zeros(2, 4, dtype=torch.int8), 4)
    unpack = ops.embedding_unpack
    assert torch.equal(unpack(good), torch.zeros(2, 4, dtype=torch.int8))
    with pytest.raises(ValueError, match="embedding_unpack: packed_weight must be a weight packed by torchqat"):
        unpack(set_header(good, 0, 0))
    with pytest.raises(ValueError, match=r"must have the format embedding, got linear_int8 \(1\)"):
        unpack(set_header(good, 8, 1))
    with pytest.raises(ValueError, match=r"must have the format embedding, got unknown \(77\)"):
        unpack(set_header(good, 8, 77))
    with pytest.raises(ValueError, match="must have version 1 to 1, got 2"):
        unpack(set_header(good, 12, 2))
    with pytest.raises(ValueError, match="must have version 1 to 1, got 0"):
        unpack(set_header(good, 12, 0))
    with pytest.raises(ValueError, match="must hold 2 rows of 4 codes of 4 bits, got 67 bytes"):
        unpack(good[:-1].clone())
    with pytest.raises(ValueError, match="header of 64 bytes, got 63 bytes"):
        unpack(good[:63].clone())
    with pytest.raises(TypeError, match="must be uint8, got Char"):
        unpack(good.view(torch.int8))
    with pytest.raises(ValueError, match="must be contiguous"):
        unpack(good.repeat_interleave(2)[::2])
