"""What every test leaves as it found it: the CPU path and the number of threads, whichever it tried."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_path_and_threads_afterwards():
    ops = torch.ops.torchqat
    isa, threads = ops._cpu_isa() if hasattr(ops, "_cpu_isa") else None, torch.get_num_threads()
    yield
    if isa is not None:
        ops._set_cpu_isa(isa)
    torch.set_num_threads(threads)
