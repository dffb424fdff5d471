"""What every QAT layer shares: taking over a float module, its two quantisers, and its weight in integers."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchqat.computed_weights import parametrize_as
from torchqat.config import QConfig
from torchqat.fake_quantize import FakeQuantize


class IntegerWeights(NamedTuple):
    """Codes of a weight and what turns them back: `(codes - zero_point) * scale`, blocks of `block_size` sharing a scale.

    codes: int8, or uint8 on an unsigned grid, of the weight's shape; scale: float; zero_point: int32 of scale's shape, or
    None for 0.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor | None
    block_size: list[int]

    def turned(self) -> "IntegerWeights":
        """The same of the transposed matrix."""
        codes, scale, zero_point, block_size = self
        if block_size:
            scale, zero_point = scale.t(), None if zero_point is None else zero_point.t()
        return IntegerWeights(codes.t(), scale, zero_point, block_size[::-1])


class QatLayer(nn.Module):
    """Mixed into a float layer's class. The float layer's own parameters, hooks and attributes are kept as they are.

    Attributes:
        weight_fake_quant, activation_fake_quant: FakeQuantize, or None where that side stays in float.
        integer: both sides are integer, so the forward is the integer kernel's.
    """

    channel_axis = 0
    input_axis = 1
    by_sample = False
    # Whether the float layer's weight is the transpose of the one that the kernels take.
    weight_turned = False
    # Whether every forward quantises `weight` itself, all of it.
    quantizes_whole_weight = True

    @classmethod
    def from_float(cls, module: nn.Module, qconfig: QConfig):
        """A QAT layer that shares the float module's Parameter objects, hooks, device, dtype and mode.

        Raises:
            ValueError: when the scheme does not fit the layer.
        """
        new = adopt(cls, module)
        new.configure(qconfig)
        return new

    def configure(self, qconfig: QConfig) -> None:
        self.backward_kind = qconfig.backward
        self.integer = qconfig.integer and self.has_integer_form(qconfig)
        # Random rounding has no integer kernel; eval mode rounds to nearest and so keeps its own.
        self.stochastic = any(
            s is not None and s.estimator == "stochastic" for s in (qconfig.weight, qconfig.activation)
        )
        self.scheme = qconfig.to_dict()
        self.weight_fake_quant = None
        self.activation_fake_quant = None
        weight = self.initial_weight()
        if qconfig.weight is not None:
            self.weight_fake_quant = FakeQuantize.for_weight(
                qconfig.weight, weight, channel_axis=self.channel_axis, input_axis=self.input_axis
            ).train(self.training)
        if qconfig.activation is not None:
            self.activation_fake_quant = FakeQuantize.from_spec(
                qconfig.activation, by_sample=self.by_sample, device=weight.device
            ).train(self.training)

    def has_integer_form(self, qconfig: QConfig) -> bool:
        return True

    def initial_weight(self) -> Tensor:
        """The weight that learned scales start from."""
        return self.weight.detach()

    @torch.jit.unused
    def qconfig(self) -> QConfig:
        return QConfig.from_dict(self.scheme)

    @torch.jit.ignore
    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        quantizer = self.weight_fake_quant
        if quantizer is not None and quantizer.learned and f"{prefix}weight" in state_dict:
            if f"{prefix}weight_fake_quant.log_scale" not in state_dict:  # a float model's: scales start from its weight
                quantizer.restart(self.initial_weight())

    def shaped_weight(self) -> Tensor:
        """The weight as it is rounded (see FakeQuantize.shaped)."""
        if self.weight_fake_quant is not None:
            return self.weight_fake_quant.shaped(self.weight)
        return self.weight

    def effective_weight(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias that eval mode rounds (BatchNorm folded in)."""
        return self.shaped_weight(), self.bias

    def weight_qparams(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self.weight_fake_quant.qparams(weight)

    @torch.jit.unused
    def integer_weights(self) -> IntegerWeights:
        """Codes, scale, zero point and block size of the current weight."""
        return self.kernel_weights()

    @torch.jit.unused
    @torch.no_grad()
    def kernel_weights(self) -> IntegerWeights:
        """integer_weights, of the weight as kernels take it."""
        quantizer = self.weight_fake_quant
        if quantizer is None:
            raise ValueError("integer_weights: this layer's weight stays in float")
        if quantizer.is_float_grid():
            raise ValueError(f"integer_weights: this layer's weight is on the float grid {quantizer.format}")
        weight, _ = self.effective_weight()
        if self.integer and weight.dtype == torch.float64:
            weight = weight.to(torch.float32)  # what the integer kernels round
        scale, zero_point = self.weight_qparams(weight)
        weight = quantizer.to_levels(weight, scale)
        dtype = torch.uint8 if quantizer.quant_min >= 0 else torch.int8
        codes = torch.ops.torchqat.quantize(
            weight, scale, zero_point, quantizer.block_size, quantizer.quant_min, quantizer.quant_max, dtype
        )
        return IntegerWeights(codes, scale, None if quantizer.symmetric else zero_point, list(quantizer.block_size))


def adopt(cls, module: nn.Module) -> nn.Module:
    """An object of cls that takes over everything the float module holds."""
    if isinstance(module, QatLayer):
        raise ValueError(f"{cls.__name__}.from_float: module is already prepared, got {type(module).__name__}")
    new = cls.__new__(cls)
    new.__dict__ = dict(module.__dict__)
    # Their own registries, so that what is added here does not show up in the float module.
    for registry in ("_parameters", "_buffers", "_modules"):
        new.__dict__[registry] = type(module.__dict__[registry])(module.__dict__[registry])
    parametrize_as(new, module)
    return new
