"""No kernel makes the host wait for the device: what a CUDA graph and an unbroken stream of launches need.

The other test_cuda files run every op under cuda_cases.NoWaits on the shim; here that the net catches something, and that the sources
bring nothing to the CPU or to a standstill but where it is said why.
"""

import re
from pathlib import Path

import pytest
import torch
from cuda_cases import WAITING, NoWaits

SOURCES = Path(__file__).parents[2] / "csrc" / "cuda"
WAITS = (
    r"\.cpu\(\)|\.item\b|\.item<|to\(at::kCPU|to\(c10::kCPU|through_cpu[<(]|\bnonzero\(|masked_select|\bis_nonzero|at::equal\(|\.equal\(|"
    r"(Stream|Device|Event)Synchronize|\.synchronize\(|cudaMemcpy|cudaMalloc\b|cudaFree\b|isTensorSubclassLike|allclose"
)
# Per file: how many places wait, each in an op of WAITING; but linear_block_float waits once per device, before the first product.
FIRST_USE = {"linear_block_float.cpp": 1}
KNOWN = {"through_cpu.h": 2, "linear_grouped.cpp": 3, "linear_int8.cpp": 1, "conv_int8.cpp": 2, "packing.cpp": 2}


def without_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def test_sources_wait_only_where_it_is_said():
    files = sorted(p for p in SOURCES.rglob("*") if p.suffix in (".cpp", ".cu", ".cuh", ".h"))
    assert len(files) > 50
    found = {p.name: len(re.findall(WAITS, without_comments(p.read_text()))) for p in files}
    assert {name: n for name, n in found.items() if n} == {**KNOWN, **FIRST_USE}
    packs = "".join(without_comments((SOURCES / name).read_text()) for name in KNOWN)
    assert all(f'm.impl("{name}"' in packs for name in WAITING)


def test_kernels_allocate_nothing():
    for path in (SOURCES / "kernels").iterdir():
        assert not re.search(r"\bmalloc\(|\bnew\b|std::vector", without_comments(path.read_text())), path.name


@pytest.mark.parametrize("wait", [lambda t: t.item(), lambda t: bool(t), lambda t: t.nonzero(), lambda t: torch.equal(t, t)])
def test_the_net_catches_a_wait(wait):
    with pytest.raises(AssertionError, match="waits for the device"), NoWaits():
        wait(torch.ones(()))
