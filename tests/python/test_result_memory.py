"""Results lie in memory of our own allocator: they must be tensors like any other."""

import copy
import io

import pytest
import torch

import torchqat

ops = torch.ops.torchqat
assert torchqat.__version__  # the import registers the ops


def result(n):
    x = torch.linspace(-3, 3, max(n, 1))[:n]
    return ops.fake_quantize(x, torch.tensor(0.25), None, [], -8, 7), (x / 0.25).round().clamp(-8, 7) * 0.25


@pytest.mark.parametrize("n", [0, 1, 63, 1000, 1 << 16, 3 << 20])
def test_a_result_is_a_tensor_like_any_other(n):
    y, want = result(n)
    want = want + 0.0
    assert torch.equal(y, want)
    assert n == 0 or y.data_ptr() % 64 == 0
    assert torch.equal(copy.deepcopy(y), want) and torch.equal(torch.from_numpy(y.numpy().copy()), want)
    buffer = io.BytesIO()
    torch.save(y, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer), want)
    assert torch.equal(y.share_memory_(), want)
    grown = result(n)[0].resize_(n + 5)
    assert torch.equal(grown[:n], want)


def test_results_outlive_what_made_them_and_may_be_freed_in_any_order():
    kept = [result(5000)[0] for _ in range(64)]
    views = [y[10:20] for y in kept[::2]]
    del kept[::3]
    assert all(torch.equal(v, result(5000)[1][10:20]) for v in views)


def test_inference_mode_and_other_threads():
    from concurrent.futures import ThreadPoolExecutor

    with torch.inference_mode():
        assert result(100)[0].is_inference()
    with ThreadPoolExecutor(4) as pool:
        for y, want in pool.map(result, [4096 + i for i in range(200)]):
            assert torch.equal(y, want)
