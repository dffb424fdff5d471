"""learned_scale and power_of_two_scale: values, gradients against float64, SGD's steps, and what every op must do."""

import math

import pytest
import torch

ops = torch.ops.torchqat


def test_learned_scale_and_its_gradient():
    log_scale = torch.tensor([0.0, -0.5, 3.0], dtype=torch.float64, requires_grad=True)
    base = torch.tensor([0.1, 2.0, 1e-3], dtype=torch.float64)
    scale = ops.learned_scale(log_scale, base)
    torch.testing.assert_close(scale.detach(), base * torch.tensor([1.0, math.exp(-0.5), 4.0], dtype=torch.float64), rtol=0, atol=0)
    dy = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    scale.backward(dy)
    slope = torch.tensor([1.0, math.exp(-0.5), 1.0], dtype=torch.float64)
    torch.testing.assert_close(log_scale.grad, dy * slope / base)


def test_the_scale_stays_positive_and_finite_after_any_step():
    steps = torch.tensor([-1e4, -80.0, 80.0, 1e4, 1e20])
    scale = ops.learned_scale(steps, torch.full((5,), 0.1))
    assert scale[2:].isfinite().all() and (scale[2:] > 0).all() and (scale[1] > 0)
    assert scale[0] == 0  # below the smallest normal number: the module clamps there


def test_a_step_of_sgd_moves_the_scale_as_if_it_were_the_parameter():
    base = torch.tensor([0.01, 0.5, 4.0])
    log_scale = torch.zeros(3, requires_grad=True)
    slope, rate = torch.tensor([0.3, -0.2, 1.0]), 1e-3
    ops.learned_scale(log_scale, base).backward(slope)
    moved = ops.learned_scale(-rate * log_scale.grad, base)
    torch.testing.assert_close(moved, base - rate * slope, rtol=1e-3, atol=0)
    assert (moved != base).all()


def test_a_start_next_to_zero_has_a_finite_gradient():
    log_scale = torch.zeros(1, requires_grad=True)
    ops.learned_scale(log_scale, torch.tensor([2.0**-126])).backward(torch.tensor([100.0]))
    assert log_scale.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_powers_of_two_are_exact(dtype):
    exponents = torch.arange(-126, 128)
    base = torch.exp2(exponents.double()).to(dtype)
    zero = torch.zeros_like(base)
    assert torch.equal(ops.power_of_two_scale(zero, base), base)
    # Anything above a power of two goes to the next one.
    above = torch.nextafter(base, torch.full_like(base, math.inf))[:-1]
    if dtype == torch.float32:
        assert torch.equal(ops.power_of_two_scale(zero[:-1], above), base[1:])
    half = torch.full_like(base, -0.5)
    assert torch.equal(ops.power_of_two_scale(half, base), base)
    huge = ops.power_of_two_scale(torch.tensor([1e6, -1e6], dtype=dtype), torch.ones(2, dtype=dtype))
    assert huge.tolist() == [2.0**127, 2.0**-126]


def test_gradient_of_the_threshold_is_tqts():
    log2 = torch.tensor([0.3, -1.7], dtype=torch.float64, requires_grad=True)
    base = torch.tensor([0.1, 3.0], dtype=torch.float64)
    scale = ops.power_of_two_scale(log2, base)
    assert scale.tolist() == [2.0 ** math.ceil(math.log2(b) + t) for b, t in zip([0.1, 3.0], [0.3, -1.7], strict=True)]
    scale.backward(torch.tensor([2.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(log2.grad, torch.tensor([2.0, -1.0]).double() * scale.detach() * math.log(2))


@pytest.mark.parametrize("op, name", [("learned_scale", "log_scale"), ("power_of_two_scale", "log2_scale")])
@pytest.mark.parametrize(
    "error, message, parameter",
    [
        (ValueError, r"must have the shape of base_scale \[2\], got \[3\]", torch.zeros(3)),
        (TypeError, "must have the dtype of base_scale float32, got float64", torch.zeros(2).double()),
        (TypeError, "must be float32, float64, bfloat16 or float16, got int64", torch.zeros(2).long()),
    ],
)
def test_bad_arguments(op, name, error, message, parameter):
    with pytest.raises(error, match=f"{op}: {name} {message}"):
        getattr(ops, op)(parameter, torch.ones(2))


def learned(p, b):
    return ops.learned_scale(p, b)


def power(p, b):
    return ops.power_of_two_scale(p, b)


@pytest.mark.parametrize("function, op", [(learned, "learned_scale"), (power, "power_of_two_scale")])
def test_opcheck_compile_and_script(function, op):
    torch.library.opcheck(getattr(ops, op).default, (torch.zeros(3, 1, requires_grad=True), torch.rand(3, 1) + 0.1))
    with torch.no_grad():
        if op == "learned_scale":
            torch.library.opcheck(ops._learned_scale_backward.default, (torch.rand(3), torch.zeros(3), torch.rand(3) + 0.1))
        else:
            torch.library.opcheck(ops._power_of_two_scale_backward.default, (torch.rand(3), torch.rand(3)))
    for fn in (torch.compile(function, fullgraph=True, dynamic=True), torch.jit.script(function)):
        for n in (3, 7):
            base = torch.rand(n) + 0.1
            leaves = [torch.linspace(-1, 1, n).requires_grad_() for _ in range(2)]
            outs = [function(leaves[0], base), fn(leaves[1], base)]
            for y in outs:
                y.backward(torch.arange(float(n)))
            torch.testing.assert_close(outs[0], outs[1])
            torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
