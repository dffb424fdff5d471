"""embedding_int and embedding_bag_int against torch's own look-ups of the dequantised table."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import torchqat  # noqa: F401

ops = torch.ops.torchqat


def table(rows=11, dim=10, bits=4, group=4, signed=True, zero_point=True, scale_dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    low = -(2 ** (bits - 1)) if signed else 0
    codes = torch.randint(low, low + 2**bits, (rows, dim), generator=g).to(torch.int8 if signed else torch.uint8)
    groups = -(-dim // group) if group > 0 else 1
    scale = (torch.rand(rows, groups, generator=g) + 0.1).to(scale_dtype)
    zero = torch.randint(low, low + 2**bits, (rows, groups), generator=g, dtype=torch.int32) if zero_point else None
    return codes, scale, zero


def dequantised(codes, scale, zero, group, dtype=torch.float32):
    dim = codes.shape[1]
    size = group if group > 0 else max(dim, 1)
    spread = lambda t: t.repeat_interleave(size, 1)[:, :dim]  # noqa: E731
    q = codes.to(dtype)
    return (q if zero is None else q - spread(zero).to(dtype)) * spread(scale).to(dtype)


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 8]), dim=st.integers(1, 40), group=st.sampled_from([-1, 1, 3, 8, 16, 64]),
    signed=st.booleans(), zero_point=st.booleans(),
    scale_dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), seed=st.integers(0, 1000),
)
def test_rows_are_the_dequantised_rows_bit_for_bit(bits, dim, group, signed, zero_point, scale_dtype, dtype, seed):
    codes, scale, zero = table(7, dim, bits, group, signed, zero_point, scale_dtype, seed)
    packed = ops.embedding_pack(codes, bits)
    assert packed.numel() == 64 + 7 * -(-dim * bits // 8)
    assert torch.equal(ops.embedding_unpack(packed), codes)
    indices = torch.tensor([[0, 6, 3], [3, 1, 5]])
    y = ops.embedding_int(indices, packed, scale, zero, dim, group, dtype)
    assert torch.equal(y, F.embedding(indices, dequantised(codes, scale, zero, group).to(dtype)))


def test_float64_and_shapes():
    codes, scale, zero = table(scale_dtype=torch.float64)
    packed = ops.embedding_pack(codes, 4)
    wanted = dequantised(codes, scale, zero, 4, torch.float64)
    for shape in [(), (0,), (1,), (2, 0), (3, 2, 2)]:
        indices = torch.randint(0, 11, shape, dtype=torch.int32)
        y = ops.embedding_int(indices, packed, scale, zero, 10, 4, torch.float64)
        assert y.dtype == torch.float64 and torch.equal(y, F.embedding(indices, wanted))
    strided = torch.randint(0, 11, (4, 6))[:, ::2]
    y = ops.embedding_int(strided, packed, scale.t().contiguous().t(), zero.to(torch.int64), 10, 4, torch.float64)
    assert torch.equal(y, F.embedding(strided, wanted))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [-1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bags(mode, padding_idx, dtype):
    codes, scale, zero = table(group=-1)
    packed = ops.embedding_pack(codes, 4)
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    weight = dequantised(codes, scale, zero, -1, compute)
    padding = None if padding_idx < 0 else padding_idx
    indices = torch.randint(0, 11, (23,))
    indices[:3] = 3
    for last in (False, True):
        for offsets in ([0, 3, 3, 10, 22], [0, 0, 5, 23], [0]):
            at = torch.tensor(offsets)
            if last and offsets[-1] != 23:
                at = torch.cat([at, torch.tensor([23])])
            y = ops.embedding_bag_int(indices, packed, scale, zero, 10, -1, dtype, at, None, mode, last, padding_idx)
            wanted = F.embedding_bag(indices, weight, at, mode=mode, include_last_offset=last, padding_idx=padding)
            torch.testing.assert_close(y, wanted.to(dtype), rtol=1e-6 if dtype != torch.bfloat16 else 1e-2, atol=1e-6)
    y = ops.embedding_bag_int(indices[:20].view(4, 5), packed, scale, zero, 10, -1, dtype, mode=mode, padding_idx=padding_idx)
    wanted = F.embedding_bag(indices[:20].view(4, 5), weight, mode=mode, padding_idx=padding)
    torch.testing.assert_close(y, wanted.to(dtype), rtol=1e-6 if dtype != torch.bfloat16 else 1e-2, atol=1e-6)


def test_bag_weights_are_summed_in_order_in_float32():
    codes, scale, zero = table()
    packed = ops.embedding_pack(codes, 4)
    indices, weights = torch.tensor([[1, 2, 9], [4, 4, 0]]), torch.randn(2, 3)
    y = ops.embedding_bag_int(indices, packed, scale, zero, 10, 4, torch.float32, None, weights, "sum")
    rows = dequantised(codes, scale, zero, 4)[indices] * weights[..., None]
    assert torch.equal(y, ((torch.zeros(2, 10) + rows[:, 0]) + rows[:, 1]) + rows[:, 2])


def test_threads_change_nothing():
    codes, scale, zero = table(rows=300, dim=65, group=32)
    packed = ops.embedding_pack(codes, 4)
    indices = torch.randint(0, 300, (2000,))
    offsets = torch.arange(0, 2000, 7)
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append((ops.embedding_int(indices, packed, scale, zero, 65, 32, torch.float32),
                        ops.embedding_bag_int(indices, packed, scale, zero, 65, 32, torch.float32, offsets)))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_opcheck_compile_and_script():
    codes, scale, zero = table()
    packed = ops.embedding_pack(codes, 4)
    indices = torch.tensor([[1, 2, 3], [4, 5, 6]])
    torch.library.opcheck(ops.embedding_pack.default, (codes, 4))
    torch.library.opcheck(ops.embedding_int.default, (indices, packed, scale, zero, 10, 4, torch.bfloat16))
    torch.library.opcheck(ops.embedding_bag_int.default, (indices, packed, scale, zero, 10, 4, torch.float32))

    def f(i: torch.Tensor, p: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.ops.torchqat.embedding_int(i, p, s, None, 10, 4, torch.float32) * 2

    wanted = f(indices, packed, scale)
    assert torch.equal(torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)(indices, packed, scale), wanted)
    assert torch.equal(torch.jit.script(f)(indices, packed, scale), wanted)


def lookup(**changes):
    codes, scale, zero = table()
    arguments = {
        "indices": torch.tensor([0, 1]), "packed_weight": ops.embedding_pack(codes, 4), "scale": scale,
        "zero_point": zero, "embedding_dim": 10, "group_size": 4, "dtype": torch.float32,
    }
    return ops.embedding_int(**(arguments | changes))


def bag(**changes):
    codes, scale, zero = table()
    arguments = {
        "indices": torch.tensor([0, 1]), "packed_weight": ops.embedding_pack(codes, 4), "scale": scale,
        "zero_point": zero, "embedding_dim": 10, "group_size": 4, "dtype": torch.float32, "offsets": torch.tensor([0, 1]),
    }
    return ops.embedding_bag_int(**(arguments | changes))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: lookup(indices=torch.tensor([0, 11])), IndexError, r"embedding_int: indices must be in \[0, 11\), got 11"),
        (lambda: lookup(indices=torch.tensor([-1])), IndexError, "got -1"),
        (lambda: bag(indices=torch.tensor([0, 11])), IndexError, r"embedding_bag_int: indices must be in \[0, 11\), got 11"),
        (lambda: lookup(indices=torch.tensor([0.0])), TypeError, "indices must be int32 or int64, got Float"),
        (lambda: lookup(embedding_dim=11, group_size=4), ValueError, "embedding_dim must be 10, that of packed_weight, got 11"),
        (lambda: lookup(group_size=5), ValueError, r"scale must have shape \[rows, 2\] for embedding_dim 10 and group_size 5, got \[11, 3\]"),
        (lambda: lookup(group_size=0), ValueError, "group_size must be at least 1, or -1"),
        (lambda: lookup(scale=torch.ones(10, 3), zero_point=None), ValueError, "scale must have 11 rows, got 10"),
        (lambda: lookup(scale=torch.zeros(11, 3)), ValueError, "scale must be finite and > 0, got 0 in row 0"),
        (lambda: lookup(scale=torch.full((11, 3), float("nan"))), ValueError, "scale must be finite and > 0"),
        (lambda: lookup(zero_point=torch.zeros(11, 1, dtype=torch.int32)), ValueError, r"zero_point must have the shape of scale"),
        (lambda: lookup(zero_point=torch.zeros(11, 3)), TypeError, "zero_point must have an integer dtype"),
        (lambda: lookup(dtype=torch.int8), TypeError, "dtype must be a floating one, got Char"),
        (lambda: lookup(packed_weight=torch.zeros(80, dtype=torch.uint8)), ValueError, "must be a weight packed by torchqat"),
        (lambda: bag(mode="median"), ValueError, "mode must be 'sum', 'mean' or 'max', got 'median'"),
        (lambda: bag(per_sample_weights=torch.ones(2)), ValueError, "per_sample_weights needs mode 'sum', got 'mean'"),
        (lambda: bag(per_sample_weights=torch.ones(3), mode="sum"), ValueError, "per_sample_weights must have the shape of indices"),
        (lambda: bag(offsets=None), ValueError, "indices must be 2-D when offsets are absent"),
        (lambda: bag(offsets=torch.tensor([1])), ValueError, "offsets must begin with 0, got 1"),
        (lambda: bag(offsets=torch.tensor([0, 3])), ValueError, "offsets must ascend and be at most 2"),
        (lambda: bag(indices=torch.tensor([[0, 1]])), ValueError, "indices must be 1-D when offsets are given"),
        (lambda: ops.embedding_pack(torch.zeros(2, 2, dtype=torch.int8), 1), ValueError, "bits must be 2, 3, 4 or 8, got 1"),
        (lambda: ops.embedding_pack(torch.zeros(2, dtype=torch.int8), 4), ValueError, r"codes must have shape \[rows, embedding_dim\]"),
        (lambda: ops.embedding_pack(torch.zeros(2, 2), 4), TypeError, "codes must be int8"),
        (lambda: ops.embedding_pack(torch.full((2, 2), 8, dtype=torch.int8), 4), ValueError, r"codes must be in \[-8, 7\], got 8"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
