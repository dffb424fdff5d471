"""No hidden copies: what the ops allocate on inputs of every memory order, and that results keep the input's order."""

import pytest
import torch
from affine_cases import same
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

ops = torch.ops.torchqat
N = 96 * 64 * 16


def allocated(call):
    """Bytes that a call allocates, freed again or not."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        kept = call()
    assert kept is not None
    return sum(e["Bytes"] for e in memory_events(trace) if e["Bytes"] > 0)


def memory_events(trace):
    return [
        {"Bytes": event.nbytes()}
        for event in trace.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]


LAYOUTS = {
    "contiguous": lambda: torch.randn(96, 64, 4, 4),
    "channels_last": lambda: torch.randn(96, 64, 4, 4).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(64, 96, 4, 4).transpose(0, 1),
    "permuted": lambda: torch.randn(4, 96, 4, 64).permute(1, 3, 0, 2),
}
CALLS = {
    "per tensor": lambda x: ops.fake_quantize(x, torch.tensor(0.02), None, [], -128, 127),
    "per channel": lambda x: ops.fake_quantize(x, torch.full((1, 64, 1, 1), 0.02), None, [-1, 1, -1, -1], -128, 127),
    "dynamic per channel": lambda x: ops.fake_quantize_dynamic(x, [1, -1, -1, -1], 0, 255, False),
    "learned": lambda x: ops.fake_quantize_learned(x, torch.tensor(0.02), None, [], -128, 127, 1.0),
    "pact": lambda x: ops.fake_quantize_pact(x, torch.tensor(0.02), [], 0, 255, 1.0),
    "observed": lambda x: ops.fake_quantize_observed(x, torch.tensor(0.02), None, [], -128, 127)[0],
    "stochastic": lambda x: ops.fake_quantize_stochastic(x, torch.tensor(0.02), None, [], -128, 127, 1, 2),
    "float grid": lambda x: ops.fake_quantize_float(x, torch.tensor(0.02), [], "e4m3fn"),
}
SLACK = 16384  # scales and small state


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS)
def test_forward_and_backward_allocate_their_results_and_one_bit_per_element(layout, call):
    x = LAYOUTS[layout]()
    assert x.numel() == N
    y = CALLS[call](x)
    assert y.stride() == x.stride()
    if call != "stochastic":  # whose random numbers are counted in memory order
        assert same(y, CALLS[call](x.contiguous()).contiguous())
    assert allocated(lambda: CALLS[call](x)) <= 4 * N + SLACK
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    grad = torch.randn_like(x)
    assert grad.stride() == leaf.stride() == x.stride()

    def step():
        return torch.autograd.grad(CALLS[call](leaf), leaf, grad)

    assert step()[0].stride() == x.stride()
    # Output, mask and gradient.
    assert allocated(step) <= 8 * N + N // 8 + SLACK


ROWS = {
    "columns": lambda: torch.randn(1536, 160)[:, 32:96],
    "every other row": lambda: torch.randn(768, 256)[::2],
    "heads": lambda: torch.randn(16, 3, 48, 256)[:, 1, :, 64:192],
    "the same row": lambda: torch.randn(1, 512).expand(192, 512),
}
ROW_CALLS = {
    "per tensor": lambda x: ops.fake_quantize(x, torch.tensor(0.02), None, [], -128, 127),
    "per channel": lambda x: ops.fake_quantize(
        x, torch.linspace(0.01, 0.02, x.size(0)).reshape([-1] + [1] * (x.dim() - 1)), None, [1] + [-1] * (x.dim() - 1), -128, 127),
    "groups": lambda x: ops.fake_quantize(
        x, torch.linspace(0.01, 0.02, x.numel() // 32).reshape(*x.shape[:-1], -1), None, [1] * (x.dim() - 1) + [32], -8, 7),
    "observed": lambda x: ops.fake_quantize_observed(x, torch.tensor(0.02), None, [], -128, 127)[0],
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("call", ROW_CALLS)
def test_rows_are_read_where_they_lie(call, rows, dtype):
    x = ROWS[rows]().to(dtype) if rows != "the same row" else torch.randn(1, 512).to(dtype).expand(192, 512)
    whole = x.contiguous()
    y = ROW_CALLS[call](x)
    assert y.is_contiguous() and same(y, ROW_CALLS[call](whole))
    assert allocated(lambda: ROW_CALLS[call](x)) <= 1.25 * x.element_size() * x.numel() + SLACK  # scales too
    left, right = x.detach().requires_grad_(), whole.clone().requires_grad_()
    grad = torch.randn_like(whole)
    found = torch.autograd.grad(ROW_CALLS[call](left), left, grad)[0]
    assert same(found, torch.autograd.grad(ROW_CALLS[call](right), right, grad)[0])


VIEWS = ROWS | {
    "every other column": lambda: torch.randn(8, 256)[:, ::2],
    "part of a transposed tensor": lambda: torch.randn(8, 16, 128).transpose(0, 1)[:, :, :64],
    "part of channels_last": lambda: torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)[:, :, ::2],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("call", ["per tensor", "learned", "pact", "observed", "stochastic", "float grid"])
def test_traced_and_real_results_have_the_same_strides(call, view):
    x = VIEWS[view]()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        traced = CALLS[call](mode.from_tensor(x))
    y = CALLS[call](x)
    assert y.stride() == traced.stride()
    if call != "stochastic":
        assert same(y, CALLS[call](x.contiguous()))


@pytest.mark.parametrize("rows", ROWS)
def test_rows_into_a_given_output_and_their_gradient(rows):
    x = ROWS[rows]()
    scale = torch.tensor(0.02)
    want = ops.fake_quantize(x.contiguous(), scale, None, [], -128, 127)
    assert torch.equal(ops.fake_quantize.out(x, scale, None, [], -128, 127, out=torch.empty(x.shape)), want)
    apart = torch.empty(*x.shape, 2)[..., 0]
    assert torch.equal(ops.fake_quantize.out(x, scale, None, [], -128, 127, out=apart), want)
    if rows != "the same row":
        assert torch.equal(ops.fake_quantize.out(x, scale, None, [], -128, 127, out=x), want) and torch.equal(x, want)
    _, mask = ops._fake_quantize_forward(x, scale, None, [], -128, 127)
    assert torch.equal(mask, ops._fake_quantize_forward(x.contiguous(), scale, None, [], -128, 127)[1])


@pytest.mark.parametrize("call", CALLS)
def test_other_strides_cost_one_copy(call):
    x = torch.randn(96, 64, 4, 8)[..., ::2]
    assert same(CALLS[call](x), CALLS[call](x.contiguous()))
    assert allocated(lambda: CALLS[call](x)) <= 8 * N + SLACK
