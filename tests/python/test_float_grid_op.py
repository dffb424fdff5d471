"""fake_quantize_float as an op: opcheck, torch.compile, TorchScript, export, autocast, what it saves, and its error messages."""

import pytest
import torch

import torchqat  # noqa: F401

op = torch.ops.torchqat.fake_quantize_float


def samples():
    x = torch.randn(4, 40)
    return [
        (x, torch.tensor(0.5), [], "e4m3fn"),
        (x.bfloat16(), torch.rand(4, 2) + 0.1, [1, 32], "e2m1"),
        (x.double(), None, [], "e5m2"),
        (x, None, [1, 32], "mxfp8_e4m3"),
        (x, None, [], "mxfp4", "even"),
        (x, torch.tensor(0.01), [], "nvfp4"),
        (x.t(), None, [], "nvfp4"),
    ]


@pytest.mark.parametrize("index", range(7))
def test_opcheck(index):
    arguments = list(samples()[index])
    torch.library.opcheck(op.default, tuple(arguments))
    arguments[0] = arguments[0].detach().requires_grad_()
    torch.library.opcheck(op.default, tuple(arguments))
    forward = arguments if len(arguments) == 5 else [*arguments, "floor"]
    torch.library.opcheck(
        torch.ops.torchqat._fake_quantize_float_forward.default, (arguments[0].detach(), *forward[1:]),
        test_utils=["test_schema", "test_faketensor"],
    )  # fmt: skip


@pytest.mark.parametrize("format", ["e4m3fn", "mxfp8_e5m2", "nvfp4"])
def test_compile_forward_and_backward_with_dynamic_shapes(format):
    def step(x):
        return (op(x * 2, None, [], format) * x).sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in [(4, 40), (6, 72)]:
        x = torch.randn(shape)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        eager, traced = step(a), compiled(b)
        assert torch.equal(eager, traced)
        eager.backward()
        traced.backward()
        assert torch.equal(a.grad, b.grad)


def test_script_export_autocast_and_double_backward():
    @torch.jit.script
    def scripted(x: torch.Tensor):
        return torch.ops.torchqat.fake_quantize_float(x, None, [1, 32], "mxfp6_e2m3", scale_rounding="rceil")

    x = torch.randn(3, 64)
    assert torch.equal(scripted(x), op(x, None, [1, 32], "mxfp6_e2m3", "rceil"))

    class Module(torch.nn.Module):
        def forward(self, x):
            return op(x, None, [], "nvfp4")

    program = torch.export.export(Module(), (x,))
    assert torch.equal(program.module()(x), op(x, None, [], "nvfp4"))
    with torch.autocast("cpu", torch.bfloat16):
        assert op(x, None, [], "e2m1").dtype == torch.float32
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(op(leaf, None, [], "mxfp4").sum(), leaf, create_graph=True)
    if grad.requires_grad:
        with pytest.raises(RuntimeError, match="derivative|not implemented"):
            grad.sum().backward()


def test_saves_one_bit_per_element():
    from torchqat.bench.harness import saved_bytes

    x = torch.randn(64, 64, requires_grad=True)
    for format in ("e4m3fn", "mxfp4", "nvfp4"):
        assert saved_bytes(lambda: op(x, None, [], format)) == x.numel() // 8


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((torch.ones(4), None, [], "e3m4"), ValueError, "format must be one of e4m3fn .* nvfp4, got 'e3m4'"),
        ((torch.ones(4), None, [], "mxfp4", "up"), ValueError, "scale_rounding must be floor, rceil, ceil or even, got 'up'"),
        ((torch.ones(4), torch.ones(1), [], "mxfp4"), ValueError, r"scale must be absent for mxfp4.*shape \[1\]"),
        ((torch.ones(4, dtype=torch.int32), None, [], "e2m1"), TypeError, "input must be float32.*got int32"),
        ((torch.ones(4, 32), None, [2, 32], "mxfp4"), ValueError, r"must be 1 in every dimension but the last.*\[2, 32\]"),
        ((torch.ones(4, 32), None, [32], "mxfp4"), ValueError, "one entry per input dimension"),
        ((torch.ones(4, 32), None, [1, 0], "mxfp4"), ValueError, "entries must be positive"),
        ((torch.ones(4, 32), None, [1, 32], "nvfp4"), ValueError, r"nvfp4 must end in 16, got \[1, 32\]"),
        ((torch.ones(4, 32), torch.ones(4), [], "nvfp4"), ValueError, r"nvfp4 must have one element.*\[4\]"),
        ((torch.ones(4, 32), torch.ones(3), [1, -1], "e2m1"), ValueError, r"scale must have shape \[4, 1\].*got \[3\]"),
        ((torch.ones(4), torch.tensor(0.0), [], "e2m1"), ValueError, "scale must be finite and > 0, got 0"),
        ((torch.ones(4), torch.tensor(float("nan")), [], "nvfp4"), ValueError, "scale must be finite and > 0, got nan"),
        ((torch.ones(4), torch.ones(1, dtype=torch.int8), [], "e2m1"), TypeError, "scale must be float32"),
        ((torch.ones(4), torch.ones(1, device="meta"), [], "e2m1"), ValueError, "scale must be on the input's device"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error, match="fake_quantize_float: .*" + message):
        op(*arguments)
