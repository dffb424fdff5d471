"""Element-wise functions of a quantised value: a table with one entry per code."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchqat.config import QuantSpec
from torchqat.fake_quantize import FakeQuantize
from torchqat.nn.qat._form import QatForm, activation_quantizer


def apply_function(name: str, x: Tensor, argument: float) -> Tensor:
    """The float function of a table; argument is what some of them take."""
    if name == "gelu":
        return F.gelu(x)
    if name == "gelu_tanh":
        return F.gelu(x, approximate="tanh")
    if name == "silu":
        return F.silu(x)
    if name == "sigmoid":
        return torch.sigmoid(x)
    if name == "tanh":
        return torch.tanh(x)
    if name == "hardswish":
        return F.hardswish(x)
    if name == "hardsigmoid":
        return F.hardsigmoid(x)
    if name == "mish":
        return F.mish(x)
    if name == "elu":
        return F.elu(x, argument)
    if name == "leaky_relu":
        return F.leaky_relu(x, argument)
    raise ValueError("Activation: unknown function " + name)


def function_slope(name: str, x: Tensor, argument: float) -> Tensor:
    """The derivative of a table's float function, by ATen's own backward of it."""
    one = torch.ones_like(x)
    if name == "gelu":
        return torch.ops.aten.gelu_backward(one, x)
    if name == "gelu_tanh":
        return torch.ops.aten.gelu_backward(one, x, approximate="tanh")
    if name == "silu":
        return torch.ops.aten.silu_backward(one, x)
    if name == "sigmoid":
        return torch.ops.aten.sigmoid_backward(one, torch.sigmoid(x))
    if name == "tanh":
        return torch.ops.aten.tanh_backward(one, torch.tanh(x))
    if name == "hardswish":
        return torch.ops.aten.hardswish_backward(one, x)
    if name == "hardsigmoid":
        return torch.ops.aten.hardsigmoid_backward(one, x)
    if name == "mish":
        return torch.ops.aten.mish_backward(one, x)
    if name == "elu":
        return torch.ops.aten.elu_backward(one, argument, 1.0, 1.0, False, x)
    if name == "leaky_relu":
        return torch.ops.aten.leaky_relu_backward(one, x, argument, False)
    raise ValueError("Activation: unknown function " + name)


def grid_points(scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """[quant_max - quant_min + 1]: every value of the grid."""
    codes = torch.arange(quant_min, quant_max + 1, dtype=torch.float32, device=scale.device)
    return (codes - zero_point) * scale


class Activation(QatForm):
    """`y = table[q]`, the function at each point of the input's grid; the gradient is the function's there.

    Args:
        function: "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "mish", "elu" or "leaky_relu".
        argument: alpha of elu, slope of leaky_relu.

    Shape: any floating tensor; the output has its shape and dtype.
    """

    def __init__(
        self, spec: QuantSpec, function: str, argument: float = 0.0, device: torch.device | None = None, training: bool = True
    ):
        super().__init__()
        self.function, self.argument = function, argument
        self.activation_fake_quant = activation_quantizer(spec, device, training)
        self.train(training)

    @torch.jit.unused
    def quantizers(self) -> list[FakeQuantize]:
        return [self.activation_fake_quant]

    @torch.jit.unused
    def arguments(self) -> dict:
        return {"function": self.function, "argument": self.argument}

    @torch.jit.unused
    def tensors(self) -> dict[str, Tensor]:
        (grid,) = self.grids()
        return {"table": apply_function(self.function, grid_points(*grid), self.argument).detach()}

    def forward(self, input: Tensor) -> Tensor:
        quantizer = self.activation_fake_quant
        x = input.float()
        if not quantizer.enabled:
            return apply_function(self.function, quantizer(x), self.argument).to(input.dtype)
        x, scale, zero_point = quantizer.on_grid(x)
        low, high = quantizer.quant_min, quantizer.quant_max
        points = grid_points(scale, zero_point, low, high)
        table = apply_function(self.function, points, self.argument)
        if torch.is_grad_enabled() and x.requires_grad:
            slope = function_slope(self.function, points, self.argument)
            y = torch.ops.torchqat.qat_lookup_int8(x, scale, zero_point, low, high, table, slope)
        else:
            y = torch.ops.torchqat.lookup_int8(x, scale, zero_point, low, high, table)
        return y.to(input.dtype)
