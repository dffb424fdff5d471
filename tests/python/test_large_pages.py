"""Memory of packed weights: regions that several tensors share, given back with them."""

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch

import torchqat  # noqa: F401 - registers the ops

ops = torch.ops.torchqat


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def _packed(n: int, k: int, seed: int):
    codes = torch.randint(-8, 8, (n, k), dtype=torch.int8, generator=torch.Generator().manual_seed(seed))
    return codes, ops.linear_grouped_pack(codes, 4, 32)


def test_tensors_on_one_region_do_not_overlap():
    # 1 x 1 lies below the sizes that share a region, 4096 x 40000 beyond what a region holds.
    sizes = [(1, 1), (64, 4096), (65, 4097), (300, 2048), (4096, 40000), (128, 1024)]
    made = [_packed(n, k, i) for i, (n, k) in enumerate(sizes)]
    for codes, packed in made:
        assert packed.data_ptr() % 64 == 0
        assert torch.equal(ops.linear_grouped_unpack(packed), codes)
    del made[1], made[2]
    made.append(_packed(512, 1024, 9))
    for codes, packed in made:
        assert torch.equal(ops.linear_grouped_unpack(packed), codes)


def test_copies_are_tensors_like_any():
    codes, packed = _packed(256, 2048, 0)
    for twin in (packed.clone(), copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert torch.equal(ops.linear_grouped_unpack(twin), codes)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_given_back_tensor_by_tensor():
    codes = torch.zeros(4096, 4096, dtype=torch.int8)
    kept = ops.linear_int8_pack(codes)
    before = _resident()
    packed = [ops.linear_int8_pack(codes) for _ in range(8)]
    full = _resident()
    assert full - before > 100 << 20
    del packed[1:]
    assert full - _resident() > 90 << 20
    assert torch.equal(ops.linear_int8_unpack(kept), codes)
    assert torch.equal(ops.linear_int8_unpack(packed[0]), codes)
