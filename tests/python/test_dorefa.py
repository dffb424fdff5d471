"""dorefa_weight: against the paper's formula in float64 by torch's own tanh and autograd, on every path, layout and dtype."""

import pytest
import torch
from cpu_paths import ISAS, isa  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st

ops = torch.ops.torchqat
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
ULP = {torch.float32: 2.0**-23, torch.float64: 2.0**-52, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def formula(x, dims):
    """The paper's, in float64."""
    squashed = torch.tanh(x.double())
    return squashed / squashed.abs().amax(dims, keepdim=True)


def weight(*shape, dtype=torch.float32, seed=0, spread=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread).to(dtype)


def test_tanh_is_torchs_to_two_units_in_the_last_place(isa):
    for dtype, count in ((torch.float32, 200_000), (torch.float64, 50_000)):
        x = torch.cat([torch.linspace(-12, 12, count, dtype=dtype), torch.logspace(-38, 1, count, dtype=dtype)])
        # With an infinity in sight nothing is left out of the pass: the limit is that of 25, which is 1.
        got = ops.dorefa_weight(torch.cat([x, torch.tensor([25.0], dtype=dtype)]), [])[:-1]
        wanted = torch.tanh(x.double())
        spacing = (torch.nextafter(got.abs(), torch.tensor(2.0, dtype=dtype)) - got.abs()).double()
        assert ((got.double() - wanted).abs() / spacing).max() <= 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape, block_size, dims", [((5, 7), [], (0, 1)), ((64, 33), [1, -1], 1), ((9, 64), [-1, 1], 0),
                                                     ((6, 5, 3, 3), [1, -1, -1, -1], (1, 2, 3)), ((130, 520), [], (0, 1))])  # fmt: skip
@pytest.mark.parametrize("spread", [0.02, 3.0])
def test_value_and_gradient_are_the_papers(isa, dtype, shape, block_size, dims, spread):
    x = weight(*shape, dtype=dtype, spread=spread).requires_grad_()
    y = ops.dorefa_weight(x, block_size)
    wanted = formula(x, dims)
    assert y.dtype == dtype and y.abs().max() == 1
    assert ((y.double() - wanted).abs() <= 4 * ULP[dtype] * wanted.abs()).all()
    grad = weight(*shape, dtype=dtype, seed=1)
    y.backward(grad)
    (exact,) = torch.autograd.grad(wanted, x, grad.double())
    # 1 - tanh^2 loses what tanh rounds away; in the compute type, then rounded once.
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    limit = torch.tanh(x.double()).abs().amax(dims, keepdim=True)
    slack = 8 * ULP[compute] * grad.double().abs() / limit + 2 * ULP[dtype] * exact.abs() + torch.finfo(dtype).smallest_normal * ULP[dtype]
    share = 16 * ULP[compute] * (grad.double() * wanted).abs().sum(dims, keepdim=True) / limit
    # Elements at the limit are rounded to their dtype twice, before and after the limit's gradient is added.
    share = (share + ULP[dtype] * grad.double().abs() / limit) * (wanted.abs() == 1)
    assert ((x.grad.double() - exact.double()).abs() <= slack + share).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_path_and_thread_count_gives_the_same_bits(dtype):
    x, grad = weight(70, 1031, dtype=dtype), weight(70, 1031, dtype=dtype, seed=1)
    first = None
    for path in ISAS:
        ops._set_cpu_isa(path)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for block_size in ([], [1, -1]):
                got = ops.dorefa_weight(x, block_size), ops._dorefa_weight_backward(grad, x, block_size)
                first = first or {}
                known = first.setdefault(str(block_size), got)
                assert all(torch.equal(a, b) for a, b in zip(known, got))


def test_a_shared_maximum_shares_its_gradient():
    x = torch.tensor([[0.5, -0.5, 0.1], [2.0, -1.0, 0.25]], dtype=torch.float64, requires_grad=True)
    grad = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]], dtype=torch.float64)
    (got,) = torch.autograd.grad(ops.dorefa_weight(x, [1, -1]), x, grad)
    (wanted,) = torch.autograd.grad(formula(x, 1), x, grad)
    torch.testing.assert_close(got, wanted, rtol=1e-14, atol=1e-15)


@settings(max_examples=80, deadline=None)
@given(largest=st.floats(1e-6, 11), dtype=st.sampled_from([torch.float32, torch.float64]), steps=st.integers(1, 60))
def test_magnitudes_that_round_to_the_same_limit_share_its_gradient(largest, dtype, steps):
    """Neighbours of the largest magnitude, some of whose tanh is the same number: where tanh is flat there are many."""
    x = torch.empty(steps, dtype=dtype)
    x[0] = largest
    for i in range(1, steps):
        x[i] = torch.nextafter(x[i - 1], torch.tensor(0.0, dtype=dtype))
    x = torch.cat([x, torch.linspace(largest * 0.8, largest, 40, dtype=dtype), -x])
    at_limit = ops.dorefa_weight(x, []).abs() == 1
    grad = torch.linspace(0.5, 1, x.numel(), dtype=dtype)
    got = ops._dorefa_weight_backward(grad, x, [])
    limit = torch.tanh(x[0].double())
    steepness = (1 - limit) * (1 + limit) / limit
    sign, dy = x.sign().double()[at_limit], grad.double()[at_limit]
    of_limit = sign * dy * steepness - sign * got[at_limit].double()  # what each has of the limit's gradient
    wanted = (grad.double() * torch.tanh(x.double())).sum() / limit * steepness
    slack = 64 * ULP[dtype] * grad.double().sum() / limit
    assert (of_limit.sum() - wanted).abs() <= slack
    assert (of_limit - wanted / at_limit.sum()).abs().max() <= slack


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 70), axis=st.sampled_from([None, 0, 1]), layout=st.integers(0, 2), seed=st.integers(0, 99))
def test_layouts_change_nothing(rows, columns, axis, layout, seed):
    block_size = [] if axis is None else [1, -1] if axis == 0 else [-1, 1]
    x, grad = weight(rows, columns, seed=seed), weight(rows, columns, seed=seed + 1)
    other = x.t().contiguous().t() if layout == 0 else torch.cat([x, x])[:rows] if layout == 1 else torch.stack([x, x], -1)[..., 0]
    assert torch.equal(ops.dorefa_weight(other, block_size), ops.dorefa_weight(x, block_size))
    a, b = ops._dorefa_weight_backward(grad, other, block_size), ops._dorefa_weight_backward(grad, x, block_size)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # sums follow the memory's order


def test_zeros_and_what_is_not_finite(isa):
    x = torch.tensor([[0.0, 0.0, -0.0], [float("nan"), 1.0, -0.5], [float("inf"), 0.25, -float("inf")]], requires_grad=True)
    y = ops.dorefa_weight(x, [1, -1])
    assert y[0].tolist() == [0, 0, 0]
    assert y[1].isnan().tolist() == [True, False, False] and y[1, 1] == 1
    assert y[2, 1] == 1 and y[2, 0] > 1 and y[2, 0].isfinite()  # beyond the grid: clipped when rounded
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert grad[0].tolist() == [1, 1, 1] and grad[1, 1:].isfinite().all() and grad[2].isfinite().all()


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_empty_and_0d(shape):
    x = torch.full(shape, 0.5, requires_grad=True)
    y = ops.dorefa_weight(x, [])
    assert y.shape == shape and (y == 1).all()
    y.sum().backward()
    assert x.grad.shape == shape and x.grad.abs().sum() < 1e-6  # one element is its own maximum


def test_nothing_but_the_weight_is_kept():
    x = weight(8, 8).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.dorefa_weight(x, [])
    assert [t.data_ptr() for t in kept] == [x.data_ptr()]


def test_scripted():
    @torch.jit.script
    def function(x):
        return torch.ops.torchqat.dorefa_weight(x, [1, -1])

    x = weight(4, 6)
    assert torch.equal(function(x), ops.dorefa_weight(x, [1, -1]))


@pytest.mark.parametrize("call, error, message", [
    (lambda: ops.dorefa_weight(torch.ones(3, dtype=torch.int32), []), TypeError, "dorefa_weight: input must"),
    (lambda: ops.dorefa_weight(torch.ones(3), [1, 1]), ValueError, "dorefa_weight: block_size"),
    (lambda: ops._dorefa_weight_backward(torch.ones(2), torch.ones(3), []), ValueError, "grad must have the input's shape"),
    (lambda: ops._dorefa_weight_backward(torch.ones(3).double(), torch.ones(3), []), TypeError, "grad must have the input's dtype float32, got float64"),
])  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
