"""What every test leaves as it found it: the CPU path and the number of threads, whichever it tried, and no compiled code."""

import sys

import pytest
import torch


@pytest.fixture(autouse=True)
def as_it_was_afterwards():
    ops = torch.ops.torchqat
    isa, threads = ops._cpu_isa() if hasattr(ops, "_cpu_isa") else None, torch.get_num_threads()
    yield
    if isa is not None:
        ops._set_cpu_isa(isa)
    torch.set_num_threads(threads)
    if "torch._dynamo" in sys.modules:
        # What other tests compiled counts against torch's limit of recompilations.
        torch._dynamo.reset()
