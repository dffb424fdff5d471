"""Every op that has a CPU kernel has a CUDA kernel too, or a form made of ATen's ops for any device; and every op is tried."""

import re
from pathlib import Path

import torch
from cuda_cases import requires_device

pytestmark = requires_device

# Ops about the CPU itself.
CPU_ONLY = {"torchqat::_set_cpu_isa": "chooses among the CPU's instruction sets"}


def test_every_op_has_a_cuda_kernel():
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("torchqat::")]
    on_cpu = [n for n in names if has(n, "CPU")]
    assert len(on_cpu) >= 40
    missing = [n for n in on_cpu if not (has(n, "CUDA") or has(n, "CompositeExplicitAutograd")) and n.partition(".")[0] not in CPU_ONLY]
    assert not missing, f"no CUDA kernel: {missing}"
    assert not [n for n in CPU_ONLY if n not in names], "an op of the list is gone"


def test_every_op_is_tried_on_the_device():
    tests = "".join(p.read_text() for p in Path(__file__).parent.glob("test_cuda_*.py"))
    names = [n.removeprefix("torchqat::") for n in torch._C._dispatch_get_all_op_names() if n.startswith("torchqat::")]
    untried = [n for n in names if not re.search(rf'["\.]{re.escape(n)}["\.(]', tests)]
    assert not [n for n in untried if not n.endswith("cpu_isa")]
