"""Peak resident memory of a training step, each measured in a process of its own: `python -m torchqat.bench.peak_memory NET WAY`
prints how many megabytes the process grew to above what it held before the first step.
"""

import gc
import pathlib
import subprocess
import sys

import torch
from torch import nn

NETS = {
    "linear": (lambda: nn.Linear(1024, 4096), (512, 1024)),
    "mlp": (lambda: _models().mlp(), (512, 1024)),
    "cnn": (lambda: _models().cnn(), (16, 3, 32, 32)),
}
WAYS = ("fp32", "int8")


def _models():
    from torchqat.bench import models

    return models


def _kilobytes(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def _prepare(module: nn.Module, way: str) -> nn.Module:
    import torchqat

    return module.train() if way == "fp32" else torchqat.prepare_qat(module, torchqat.QConfig.int8(), inplace=True).train()


def _steps(module: nn.Module, x: torch.Tensor, count: int) -> None:
    for _ in range(count):
        module.zero_grad(set_to_none=True)
        module(x).square().mean().backward()


def main(net: str, way: str) -> None:
    torch.set_num_threads(1)
    make, shape = NETS[net]
    # What only the first step of a process allocates is not the step's: a small layer goes first.
    _steps(_prepare(nn.Linear(64, 64), way), torch.randn(16, 64), 2)
    module, x = _prepare(make(), way), torch.randn(shape)
    gc.collect()
    before = _kilobytes("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    _steps(module, x, 4)
    print((_kilobytes("VmHWM") - before) / 1024)


def peak(net: str, way: str) -> float:
    """Megabytes; NaN where the system does not say."""
    done = subprocess.run(
        [sys.executable, "-m", "torchqat.bench.peak_memory", net, way], capture_output=True, text=True, timeout=300
    )
    return float(done.stdout) if done.returncode == 0 else float("nan")


if __name__ == "__main__":
    main(*sys.argv[1:])
