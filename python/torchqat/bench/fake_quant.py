"""Suite fake_quant: the elementwise quantisers against ATen's, torchao's and a copy."""

import torch

from torchqat.bench.harness import Report, kept_memory, saved_bytes


class CopyIdentity(torch.autograd.Function):
    """The roof: an autograd identity that copies forward and copies backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.clone()


def _step(function, x, grad):
    """forward + backward of `function` through autograd, dropping the gradient."""

    def step():
        x.grad = None
        function(x).backward(grad)

    return step


def _per_tensor(report: Report, numel: int, label: str) -> None:
    x = torch.randn(numel).requires_grad_()
    grad = torch.randn(numel)
    calls = {
        "torch.fake_quantize_per_tensor_affine": _step(
            lambda t: torch.fake_quantize_per_tensor_affine(t, 0.02, 3, -128, 127), x, grad),
        "identity that copies": _step(CopyIdentity.apply, x, grad),
    }  # fmt: skip
    report.group(f"per-tensor int8 forward + backward, {label}", calls, baseline="torch.fake_quantize_per_tensor_affine")


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    for numel, label in [(1 << 16, "64K")] if quick else [(1 << 16, "64K"), (1 << 20, "1M")]:
        _per_tensor(report, numel, label)
    if not quick:
        _per_tensor(report, 1 << 24, "16M, fresh pages")
        with kept_memory() as kept:
            _per_tensor(report, 1 << 24, "16M, allocator keeps memory" if kept else "16M, allocator cannot be told")
    x = torch.randn(4096, requires_grad=True)
    forwards = {
        "torch.fake_quantize_per_tensor_affine": lambda: torch.fake_quantize_per_tensor_affine(x, 0.02, 3, -128, 127),
        "identity that copies": lambda: CopyIdentity.apply(x),
    }
    report.values("saved for backward", {k: saved_bytes(f) / x.numel() for k, f in forwards.items()}, "bytes per element")
