"""Fake quantisation on a GPU against copying, which is its roof, and against torch's own CUDA fake-quant."""

import torch

from torchqat.bench.harness import Report, at_least, at_most


def both_ways(call, x: torch.Tensor, grad: torch.Tensor):
    """Forward and backward of call(x)."""

    def step():
        x.grad = None
        call(x).backward(grad)

    return step


def run(report: Report) -> None:
    ops = torch.ops.torchqat
    numel = (1 << 20) if report.options.quick else (64 << 20)
    scale, zero_point = torch.tensor(0.02, device="cuda"), torch.tensor(128, dtype=torch.int32, device="cuda")
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(numel // 4096, 4096, device="cuda", dtype=dtype)
        y, grad = torch.empty_like(x), torch.randn_like(x)
        mask = ops._fake_quantize_forward(x, scale, zero_point, [], 0, 255)[1]
        report.group(
            f"fake_quantize, {numel >> 20}M elements, {dtype}",
            {
                "copy": lambda x=x, y=y: y.copy_(x),
                "fake_quantize.out": lambda x=x, y=y: ops.fake_quantize.out(x, scale, zero_point, [], 0, 255, out=y),
                "forward with mask": lambda x=x: ops._fake_quantize_forward(x, scale, zero_point, [], 0, 255),
                "forward with mask and range": lambda x=x: ops._fake_quantize_observed_forward(
                    x, scale, zero_point, [], 0, 255
                ),
                "per token, scales from the data": lambda x=x: ops._fake_quantize_dynamic_forward(
                    x, [1, -1], 0, 255, False, True
                ),
                "backward": lambda grad=grad, mask=mask: ops._fake_quantize_backward(grad, mask, []),
                "torch forward": lambda x=x: torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255),
            },
            baseline="copy",
            targets={
                "fake_quantize.out": at_most(1 / 0.85, "copy"),
                "forward with mask": at_most(1 / 0.85, "copy"),
                "backward": at_most(1 / 0.85, "copy"),
                "forward with mask and range": at_most(1 / 0.80, "copy"),
                "per token, scales from the data": at_most(1 / 0.80, "copy"),
            },
        )
        leaf = x.clone().requires_grad_()
        report.group(
            f"fake_quantize, forward and backward, {numel >> 20}M elements, {dtype}",
            {
                "torch": both_ways(
                    lambda t: torch.fake_quantize_per_tensor_affine(t, scale, zero_point, 0, 255), leaf, grad
                ),
                "torchqat": both_ways(lambda t: ops.fake_quantize(t, scale, zero_point, [], 0, 255), leaf, grad),
            },
            baseline="torch",
            targets={"torchqat": at_least(3, "torch")},
        )
