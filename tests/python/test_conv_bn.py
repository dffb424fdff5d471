"""Convolution, BatchNorm and ReLU prepared together, over random geometries: what trains is what ships."""

import copy

import pytest
import torch
import torchqat
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models import INTEGER
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchqat import QConfig
from torchqat.nn.qat.relu import AbsorbedReLU

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


@st.composite
def blocks(draw):
    """Convolution, BatchNorm, perhaps ReLU, then a pointwise convolution; and an input that fits."""
    dims = draw(st.integers(1, 3))
    many = lambda low, high: [draw(st.integers(low, high)) for _ in range(dims)]
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 6)), groups * draw(st.integers(1, 12))
    if draw(st.booleans()):
        groups = outputs = inputs
    kernel, stride, dilation, size = many(1, 3), many(1, 3), many(1, 2), many(3, 9)
    mode = draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"]))
    padding = [min(p, n - 1) for p, n in zip(many(0, 2), size, strict=True)]
    assume(all(n + 2 * p > d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    conv = CONVS[dims](inputs, outputs, kernel, stride, padding, dilation, groups, draw(st.booleans()), mode)
    norm = NORMS[dims](outputs, affine=draw(st.booleans()))
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    if norm.affine:
        norm.weight.data.uniform_(-1.5, 1.5)
        norm.bias.data.normal_()
    relu = [nn.ReLU(inplace=draw(st.booleans()))] if draw(st.booleans()) else []
    model = nn.Sequential(conv, norm, *relu, CONVS[dims](outputs, 3, 1))
    x = torch.randn(draw(st.integers(2, 4)), inputs, *size)
    if dims > 1 and draw(st.booleans()):
        x = x.contiguous(memory_format=FORMATS[dims])
    return model, x


def same(a, b):
    return torch.equal(a.detach(), b.detach())


@settings(max_examples=50, deadline=None)
@given(blocks(), st.sampled_from(sorted(INTEGER)), st.integers(1, 3))
def test_frozen_training_is_eval_is_deployment(block, scheme, threads):
    model, x = block
    prepared = torchqat.prepare_qat(model, INTEGER[scheme])
    assert [type(m) for m in prepared if isinstance(m, nn.ReLU)] == [AbsorbedReLU] * (len(model) - 3)
    before = torch.get_num_threads()
    try:
        for _ in range(2):
            # Observers and BatchNorm live, then frozen.
            y = prepared(x)
            y.square().mean().backward()
        torchqat.freeze_observers(prepared)
        torchqat.freeze_batch_norm(prepared)
        trained = prepared(x)
        trained.square().mean().backward()
        torch.set_num_threads(threads)
        assert same(prepared(x), trained) and same(prepared.eval()(x), trained)
        converted = torchqat.convert(prepared)
        assert same(converted(x), trained) and torchqat.verify(prepared, converted, [x]).equal
        # A sample's bits do not depend on the others, with scales that do not.
        if prepared[0].activation_fake_quant.static:
            assert same(converted(x[:1]), trained[:1])
    finally:
        torch.set_num_threads(before)


@settings(max_examples=25, deadline=None)
@given(blocks(), st.sampled_from(["float32", "int16"]))
def test_live_batch_norm_is_that_of_torch(block, backward):
    """Against torch's BatchNorm and ReLU on the very same convolution."""
    model, x = block
    prepared = torchqat.prepare_qat(model, QConfig(INTEGER["int8"].weight, INTEGER["int8"].activation, backward=backward))
    other = copy.deepcopy(prepared)
    other[0].bn.register_forward_hook(lambda *_: None)
    # What follows rounds to a grid, where a last bit can grow to a step; the block itself is compared.
    first, second = nn.Sequential(*list(prepared)[:-1]), nn.Sequential(*list(other)[:-1])
    leaves = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [first(leaves[0]), second(leaves[1])]
    assume(outputs[0].numel() > 0)
    spread = prepared[0].bn.running_var
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(spread, other[0].bn.running_var, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prepared[0].bn.running_mean, other[0].bn.running_mean, rtol=1e-5, atol=1e-6)
    if ((outputs[0] > 0) == (outputs[1] > 0)).all():
        grad = torch.randn_like(outputs[0])
        for y in outputs:
            y.backward(grad)
        pairs = [(leaves[0].grad, leaves[1].grad), (prepared[0].weight.grad, other[0].weight.grad)]
        for a, b in pairs:
            # Gradients through BatchNorm cancel: their error is measured by what goes in.
            assert (a - b).norm() <= 2e-2 * (b.norm() + 1e-2 * grad.norm())


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_autocast_step(use_reentrant):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    prepared = torchqat.prepare_qat(model)
    plain = copy.deepcopy(prepared)
    x = torch.randn(3, 3, 9, 9)
    for owner, run in ((plain, plain), (prepared, lambda v: checkpoint(prepared, v, use_reentrant=use_reentrant))):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = run(leaf)
        assert y.dtype == torch.bfloat16
        y.float().square().sum().backward()
        assert int(owner[0].bn.num_batches_tracked) == 1
    for a, b in zip(prepared.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(prepared.buffers(), plain.buffers(), strict=True):
        assert torch.equal(a, b)


def test_reused_weights_and_accumulation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    prepared = torchqat.prepare_qat(model)
    batches = torch.randn(3, 2, 3, 9, 9)
    plain = copy.deepcopy(prepared)
    for x in batches:
        plain(x).square().sum().backward()
    with torchqat.reuse_weights(prepared):
        for x in batches:
            prepared(x).square().sum().backward()
    for a, b in zip(prepared.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
