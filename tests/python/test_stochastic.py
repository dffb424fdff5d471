"""fake_quantize_stochastic: unbiased, reproducible, the same numbers on every path."""

import numpy as np
import pytest
import torch
from affine_cases import CASES, DTYPES, ISAS, isa, same, sample, threads

ops = torch.ops.torchqat
M32 = 0xFFFFFFFF


def uniform24(seed, offset, count):
    """The generator, word by word in Python integers."""
    state = 0
    for word in (seed & (2**64 - 1), offset & (2**64 - 1), 0):
        state = ((state ^ word) + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    first, second = state & M32, state >> 32

    def mix(h):
        h ^= h >> 16
        h = h * 0x21F0AAAD & M32
        h ^= h >> 15
        h = h * 0xD35A2D97 & M32
        return h ^ (h >> 15)

    return np.array([mix(mix((i + first) & M32) ^ second) >> 8 for i in range(count)], dtype=np.float64)


def reference(x, scale, zero_point, low, high, seed, offset):
    work = np.float64 if x.dtype == torch.float64 else np.float32
    flat = x.flatten().to(torch.float64 if work is np.float64 else torch.float32).numpy()
    with np.errstate(all="ignore"):
        ratio = flat / work(scale)
        floor = np.floor(ratio)
        up = (ratio - floor) * work(2**24) > uniform24(seed, offset, flat.size).astype(work)
        level = floor + up + work(zero_point)
        y = (np.clip(level, low, high) - work(zero_point)) * work(scale)
    inside = (level >= low) & (level <= high)
    return torch.from_numpy(y.astype(work)).to(x.dtype).reshape(x.shape), torch.from_numpy(inside).reshape(x.shape)


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_reference(name, dtype):
    for shape in ((), (7,), (33, 65), (1025,)):
        x, dy = sample(shape, dtype), sample(shape, dtype, seed=1, special=False)
        want, inside = reference(x, 0.25, 3, -8, 7, 1234, 5)
        with isa(name):
            leaf = x.clone().requires_grad_()
            y = ops.fake_quantize_stochastic(leaf, torch.tensor(0.25), torch.tensor(3), [], -8, 7, 1234, 5)
            y.backward(dy)
            assert same(ops.fake_quantize_stochastic(x, torch.tensor(0.25), torch.tensor(3), [], -8, 7, 1234, 5), want)
        assert same(y.detach(), want) and same(leaf.grad, torch.where(inside, dy, 0))


def test_every_path_and_thread_count_gives_the_same_bits():
    for shape, block_size in CASES + [((150, 517), [1, -1])]:
        x = sample(shape)
        scale, zero_point = ops.choose_qparams(x, block_size, 0, 15, False)
        results = []
        for name in ISAS:
            for n in (1, 2):
                with isa(name), threads(n):
                    results.append(ops.fake_quantize_stochastic(x, scale, zero_point, block_size, 0, 15, -7, 2**40))
        assert all(same(results[0], other) for other in results[1:]), (shape, block_size)


def test_is_unbiased_and_uses_only_the_neighbours():
    x = torch.full((200000,), 0.3)
    y = ops.fake_quantize_stochastic(x, torch.tensor(1.0), None, [], -8, 7, 3, 0)
    assert set(y.tolist()) == {0.0, 1.0}
    assert abs(y.mean().item() - 0.3) < 5 * (0.21 / 200000) ** 0.5
    negative = ops.fake_quantize_stochastic(-x, torch.tensor(1.0), None, [], -8, 7, 3, 0)
    assert set(negative.tolist()) == {0.0, -1.0}
    assert abs(negative.mean().item() + 0.3) < 5 * (0.21 / 200000) ** 0.5


def test_neighbours_seeds_and_offsets_are_uncorrelated():
    x, s = torch.full((100000,), 0.5), torch.tensor(1.0)
    draws = [ops.fake_quantize_stochastic(x, s, None, [], -8, 7, seed, offset) - 0.5 for seed, offset in ((0, 0), (0, 1), (1, 0))]
    limit = 5 * 0.25 / 100000**0.5
    assert abs((draws[0][1:] * draws[0][:-1]).mean()) < limit
    for i in range(3):
        assert abs(draws[i].mean()) < 2 * limit
        for j in range(i):
            assert abs((draws[i] * draws[j]).mean()) < limit


def test_grid_points_and_special_values_stay():
    s = torch.tensor(0.5)
    x = torch.arange(-8.0, 8.0) * 0.5
    assert all(same(ops.fake_quantize_stochastic(x, s, None, [], -8, 7, seed, 0), x) for seed in range(20))
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30])
    assert same(ops.fake_quantize_stochastic(x, s, None, [], -8, 7, 0, 0), torch.tensor([float("nan"), 3.5, -4.0, 3.5]))


def test_bad_arguments():
    with pytest.raises(ValueError, match="fake_quantize_stochastic: scale must be finite and > 0, got 0"):
        ops.fake_quantize_stochastic(torch.zeros(3), torch.tensor(0.0), None, [], -8, 7, 0, 0)
    with pytest.raises(ValueError, match=r"fake_quantize_stochastic: scale must have one element for block_size \[\], got \[2\]"):
        ops.fake_quantize_stochastic(torch.zeros(3), torch.ones(2), None, [], -8, 7, 0, 0)


def step(x, scale):
    return ops.fake_quantize_stochastic(x, scale, None, [1, -1], -8, 7, 11, 12)


def test_opcheck_compile_and_script():
    x = sample((6, 40), special=False)
    scale = torch.full((6, 1), 0.3)
    torch.library.opcheck(ops.fake_quantize_stochastic.default, (x.clone().requires_grad_(), scale, None, [1, -1], -8, 7, 1, 2))
    torch.library.opcheck(ops._fake_quantize_stochastic_forward.default, (x, scale, None, [1, -1], -8, 7, 1, 2))
    functions = [step, torch.compile(step, fullgraph=True, dynamic=True), torch.jit.script(step)]
    for rows, columns in ((6, 40), (9, 33)):
        results = []
        for fn in functions:
            leaf = sample((rows, columns), special=False).requires_grad_()
            y = fn(leaf, torch.full((rows, 1), 0.3))
            (y * torch.arange(float(columns))).sum().backward()
            results.append((y.detach(), leaf.grad))
        for other in results[1:]:
            assert all(same(a, b) for a, b in zip(results[0], other, strict=True))
