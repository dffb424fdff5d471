"""Linear with quantised weight and input, for training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchqat.config import QConfig
from torchqat.formats import has_block_product
from torchqat.nn.qat._layer import QatLayer
from torchqat.observers import RangeObserver

_FLOAT8 = ("e4m3fn", "e5m2")
_OBSERVED = torch.ops.torchqat.qat_linear_int8_observed.default
_graph_task = torch._C._current_graph_task_id


def has_float8_form(qconfig: QConfig) -> bool:
    """Whether linear_float8 computes the scheme: both sides in 8-bit floats, not e5m2 twice, with scales of rows or of the whole."""
    weight, activation = qconfig.weight, qconfig.activation
    return (
        weight is not None
        and activation is not None
        and weight.dtype in _FLOAT8
        and activation.dtype in _FLOAT8
        and not weight.dtype == activation.dtype == "e5m2"
        and weight.parsed_granularity.kind in ("tensor", "channel")
        and activation.parsed_granularity.kind in ("tensor", "token")
    )


class LinearLayer(QatLayer):
    """What a linear layer computes, however its float layer keeps the weight: `matrix()` is [out_features, in_features]."""

    def configure(self, qconfig: QConfig) -> None:
        super().configure(qconfig)
        self.weight_group = 0
        if qconfig.weight is not None and qconfig.weight.parsed_granularity.kind == "group":
            self.weight_group = qconfig.weight.parsed_granularity.sizes[0]
        # Scales that the op itself finds: of the whole input from a running range, of each row of the weight from the row.
        activation, weight = self.activation_fake_quant, self.weight_fake_quant
        self.plain_scales = (
            self.integer
            and type(activation.observer) is RangeObserver  # a histogram takes more than the range
            and activation.range_factor == 1.0
            and activation.estimator == weight.estimator == "ste"
            and not (activation.round_scale or weight.round_scale or weight.by_level or weight.by_mse)
            and qconfig.weight.parsed_granularity.kind == "channel"
        )
        self.float8 = has_float8_form(qconfig)
        # Scales that the op finds as it reads: of each token, of each output channel.
        self.token_scales = self.float8 and activation.layout == "last" and not (activation.static or activation.round_scale)
        self.channel_scales = self.float8 and len(weight.block_size) == 2 and not weight.round_scale
        self.block_product = (
            weight is not None
            and activation is not None
            and has_block_product(activation.format, activation.group, weight.format, weight.group)
        )

    def matrix(self) -> Tensor:
        return self.weight

    def forward(self, input: Tensor) -> Tensor:
        if not torch.jit.is_scripting():
            if self.plain_scales and self.training and input.dtype != torch.float64 and not torch.compiler.is_compiling():
                output = self.observed_forward(input)
                if output is not None:
                    return output
        if self.weight_fake_quant is not None and self.activation_fake_quant is not None:
            by_chance = self.stochastic and self.training
            if self.integer and self.weight_fake_quant.enabled and self.activation_fake_quant.enabled and not by_chance:
                if input.dtype == torch.float64:
                    return self.integer_forward(input.to(torch.float32)).to(torch.float64)
                return self.integer_forward(input)
            if (
                self.float8
                and input.dtype != torch.float64
                and self.weight_fake_quant.enabled
                and self.activation_fake_quant.enabled
            ):
                return self.float8_forward(input)
            if (
                self.block_product
                and input.is_cuda
                and self.weight_fake_quant.enabled
                and self.activation_fake_quant.enabled
            ):
                return self.block_float_forward(input)
        if self.activation_fake_quant is not None:
            input = self.activation_fake_quant(input)
        weight = self.matrix()
        if self.weight_fake_quant is not None:
            weight = self.weight_fake_quant(weight)
        return F.linear(input, weight, self.bias)

    def integer_forward(self, input: Tensor) -> Tensor:
        input_scale, input_zero_point = self.activation_fake_quant.qparams(input)
        packed_weight: Tensor | None = None
        weight_mask: Tensor | None = None
        matrix = self.matrix()
        if matrix.dtype == torch.float64:
            matrix = matrix.to(torch.float32)
        weight_scale, _ = self.weight_fake_quant.qparams(matrix)
        weight = self.weight_fake_quant.to_levels(self.weight_fake_quant.shaped(matrix), weight_scale)
        input = self.activation_fake_quant.to_levels(input, input_scale)
        if not torch.jit.is_scripting():
            packed_weight, weight_mask = self.packed_once(weight, weight_scale)
        if self.weight_group > 0:
            return torch.ops.torchqat.qat_linear_grouped(
                input,
                weight,
                self.bias,
                input_scale,
                input_zero_point,
                weight_scale,
                group_size=self.weight_group,
                input_quant_min=self.activation_fake_quant.quant_min,
                input_quant_max=self.activation_fake_quant.quant_max,
                weight_quant_min=self.weight_fake_quant.quant_min,
                weight_quant_max=self.weight_fake_quant.quant_max,
                input_learned=self.activation_fake_quant.learned_by_kernel,
                weight_learned=self.weight_fake_quant.learned,
                input_grad_scale=self.activation_fake_quant.grad_scale(input),
                weight_grad_scale=self.weight_fake_quant.grad_scale(weight),
                backward=self.backward_kind,
            )
        return self.multiply(input, weight, input_scale, input_zero_point, weight_scale, packed_weight, weight_mask)

    def float8_forward(self, input: Tensor) -> Tensor:
        input_scale: Tensor | None = None
        weight_scale: Tensor | None = None
        if not self.token_scales:
            input_scale, _ = self.activation_fake_quant.qparams(input)
        if not self.channel_scales:
            weight_scale, _ = self.weight_fake_quant.qparams(self.matrix())
        return torch.ops.torchqat.qat_linear_float8(
            input,
            self.matrix(),
            self.bias,
            input_scale,
            weight_scale,
            self.activation_fake_quant.format,
            self.weight_fake_quant.format,
            self.backward_kind,
        )

    def block_float_forward(self, input: Tensor) -> Tensor:
        weight = self.matrix()
        if weight.dtype != torch.float64:
            weight = weight.to(torch.float32)  # its values exactly, as the deployed layer has them
        return torch.ops.torchqat.linear_block_float(
            self.activation_fake_quant(input),
            self.weight_fake_quant(weight),
            self.bias,
            self.activation_fake_quant.format,
            self.weight_fake_quant.format,
            input,
        )

    def multiply(
        self,
        input: Tensor,
        weight: Tensor,
        input_scale: Tensor,
        input_zero_point: Tensor,
        weight_scale: Tensor | None,
        packed_weight: Tensor | None,
        weight_mask: Tensor | None,
    ) -> Tensor:
        """The int8 layer; without a weight_scale the op takes it from the weight."""
        return torch.ops.torchqat.qat_linear_int8(
            input,
            weight,
            self.bias,
            input_scale,
            input_zero_point,
            weight_scale,
            self.activation_fake_quant.quant_min,
            self.activation_fake_quant.quant_max,
            self.weight_fake_quant.quant_min,
            self.weight_fake_quant.quant_max,
            self.activation_fake_quant.learned_by_kernel,
            self.weight_fake_quant.learned,
            self.activation_fake_quant.grad_scale(input),
            self.weight_fake_quant.grad_scale(weight),
            self.backward_kind,
            packed_weight,
            weight_mask,
        )

    @torch.jit.unused
    def packed_once(self, weight: Tensor, weight_scale: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Within torchqat.reuse_weights: the packed weight and its mask, made by the first forward."""
        quantizer = self.weight_fake_quant
        reused = quantizer.reused
        # Empty: the scale is a parameter or follows from one, and its gradient needs the weight itself.
        if reused is None or len(reused) == 0 or quantizer.learned or self.weight_group > 0:
            return None, None
        if len(reused) == 2:
            packed, mask, _ = torch.ops.torchqat.qat_linear_int8_pack(
                weight.detach(), weight_scale, quantizer.quant_min, quantizer.quant_max
            )
            reused.extend((packed, mask))
        return reused[2], reused[3]

    @torch.jit.unused
    def observed_forward(self, input: Tensor) -> Tensor | None:
        """The training forward in one call, or None where this step's scales do not come from its data alone.

        Attributes of modules are looked up in their dictionaries: the usual way would cost more than a small layer's product.
        """
        modules = self._modules
        activation, weight = modules["activation_fake_quant"], modules["weight_fake_quant"]
        if not (activation.enabled and weight.enabled and activation.observer_enabled) or weight.reused is not None:
            return None
        if _graph_task() != -1:  # in backward: this forward repeats one for activation checkpointing
            # The same ops as the first time, less the statistics: selective checkpointing compares them.
            scale, zero_point = activation.qparams_again()
            return self.multiply(input, self.matrix(), scale, zero_point, None, None, None)
        observer = activation._modules["observer"]
        state, parameters = observer._buffers, self._parameters
        # A parametrised weight is not among the parameters.
        return _OBSERVED(
            input,
            parameters["weight"] if "weight" in parameters and not self.weight_turned else self.matrix(),
            parameters["bias"] if "bias" in parameters else self.bias,
            state["min_val"],
            state["max_val"],
            state["nonfinite_count"],
            observer.averaging_constant,
            activation.quant_min,
            activation.quant_max,
            activation.symmetric,
            weight.quant_min,
            weight.quant_max,
            self.backward_kind,
        )


class Linear(LinearLayer, nn.Linear):
    """`y = x_q @ w_q.T + b` on quantised values.

    With integer weight and activation the forward is the deployed integer kernel itself, with both on 8-bit float grids that of
    linear_float8 (FP8 tensor cores where there are some), on a CUDA device with both in MX or both in NVFP4 that of
    linear_block_float; otherwise it is a float product of fake-quantised tensors. The integer layer's arithmetic is float32's
    around its integers: float64 inputs and weights are rounded to float32 first, and the result is returned as float64, before
    and after convert.

    Shape: input [..., in_features]; output [..., out_features].

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.

    Example:
        >>> import torch, torchqat
        >>> layer = torchqat.nn.qat.Linear.from_float(torch.nn.Linear(8, 4), torchqat.QConfig.int8())
        >>> layer(torch.randn(2, 8)).shape
        torch.Size([2, 4])
    """
