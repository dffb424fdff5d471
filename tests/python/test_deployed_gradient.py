"""Backward through converted models: every deployed operator refuses it by name, and inference under autograd is unchanged."""

import pytest
import torch
import torchqat
from torch import nn


def converted(module: nn.Module, x: torch.Tensor, config: torchqat.QConfig) -> nn.Module:
    prepared = torchqat.prepare_qat(module, config)
    prepared(x)
    return torchqat.convert(prepared.eval())


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.left(x) + self.right(x)


LINEAR = [
    (torchqat.QConfig.int8(), "linear_int8"),
    (torchqat.QConfig.int4_int8(), "linear_grouped_int8_dynamic"),
    (torchqat.QConfig.int8_weight_only(), "linear_weight_only"),
]


@pytest.mark.parametrize("config, op", LINEAR, ids=[op for _, op in LINEAR])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear(config, op, dtype):
    x = torch.randn(4, 8)
    model = converted(nn.Sequential(nn.Linear(8, 4)), x, config)
    y = model(x.to(dtype).requires_grad_())
    assert y.requires_grad and torch.equal(y.detach(), model(x.to(dtype)))
    with pytest.raises(NotImplementedError, match=f"^{op}: the derivative is not implemented.*torchqat.prepare_qat"):
        y.sum().backward()


NETWORKS = {
    "conv": nn.Conv2d(3, 4, 3),
    "conv net": nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 4)),
    "linear after pooling": nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(48, 4), nn.GELU()),
    "sum": nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Sum()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    x = torch.randn(2, 3, 8, 8)
    model = converted(nn.Sequential(NETWORKS[name]), x, torchqat.QConfig.int8())
    y = model(x.clone().requires_grad_())
    assert y.requires_grad, "the gradient must not be cut without a word"
    assert torch.equal(y.detach(), model(x))
    with pytest.raises(NotImplementedError, match=r"^\w+: the derivative is not implemented"):
        y.sum().backward()
    with torch.no_grad():
        assert not model(x.clone().requires_grad_()).requires_grad


@pytest.mark.parametrize("op", ["lookup_int8", "add_int8", "avg_pool_int8"])
def test_forms(op):
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    grid = (torch.tensor(0.05), torch.tensor(7, dtype=torch.int32), 0, 255)
    ops = torch.ops.torchqat
    if op == "lookup_int8":
        y = ops.lookup_int8(x, *grid, torch.arange(256.0))
    elif op == "add_int8":
        y = ops.add_int8(x.detach(), x, *grid, *grid, False, None, None, 0, 255)
    else:
        y = ops.avg_pool_int8(x, *grid, [2, 2], [2, 2], [0, 0])
    with pytest.raises(NotImplementedError, match=f"^{op}: the derivative is not implemented"):
        y.sum().backward()


def test_torchscript_and_compile():
    x = torch.randn(4, 8)
    model = converted(nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 4)), x, torchqat.QConfig.int8())
    with pytest.raises(NotImplementedError, match="linear_int8: the derivative is not implemented"):
        torch.jit.script(model)(x.clone().requires_grad_()).sum().backward()
    assert torch.equal(torch.compile(model, backend="aot_eager")(x), model(x))
