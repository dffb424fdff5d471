"""Where a scale comes from: the tensor itself (weights, dynamic activations), the running range (static activations), a
learned parameter, or the estimator (DoReFa's is fixed).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from torchqat.config import BLOCK_FORMATS, FLOAT_GRID_MAX, HISTOGRAM_OBSERVERS, LEARNED, LEVEL_FORMATS, QuantSpec
from torchqat.estimators import grad_scale, power_of_two_start, scale_of, threshold_levels
from torchqat.granularity import input_layout, weight_layout
from torchqat.observers import HistogramObserver, RangeObserver, apply_keeping_dtype, in_recomputation

_SCALE_DTYPE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SMALLEST_SCALE = {"float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}


class ScaleSource(nn.Module):
    """Base of FakeQuantize: everything but the rounding."""

    # TorchScript needs the types of lists that may be empty.
    block_size: list[int]
    limit_block_size: list[int]

    def _setup(self, spec, role, *, by_sample=False, weight=None, channel_axis=0, input_axis=1, device=None):
        self.spec_fields = {k: str(v) for k, v in spec.to_dict().items()}
        self.enabled = True
        self.observer_enabled = True
        self.is_weight = role == "weight"
        self.symmetric = spec.symmetric
        self.format = spec.dtype if not spec.is_integer else ""
        self.by_level = self.format in LEVEL_FORMATS
        self.float_grid = self.format in FLOAT_GRID_MAX
        self.block_format = self.format in BLOCK_FORMATS
        self.mx_rounding = spec.scale_rounding
        self.range_factor = 1.0
        if spec.is_float:
            grid_max = FLOAT_GRID_MAX.get(spec.dtype, 1.0)
            self.range_factor = 1.0 if grid_max.is_integer() else 2.0
            self.quant_max = int(grid_max * self.range_factor)
            self.quant_min = -self.quant_max
        else:
            self.quant_min, self.quant_max = spec.quant_range(role)
        self.scale_dtype = _SCALE_DTYPE[spec.scale_dtype]
        self.round_scale = spec.scale_dtype != "float32"
        self.smallest_scale = _SMALLEST_SCALE[spec.scale_dtype]
        self.largest_scale = torch.finfo(self.scale_dtype).max
        self.by_mse = self.is_weight and (spec.observer == "mse" or spec.dtype == "int2")
        self.estimator = spec.estimator
        self.learned = spec.estimator in LEARNED
        # Whether kernels that quantise may find the scale's gradient themselves: they know LSQ's rule.
        self.learned_by_kernel = self.learned and spec.estimator != "pact"
        self.power_of_two = spec.estimator == "tqt"
        # DoReFa: what is rounded lies in [-1, 1], so the scale is 1 / quant_max. It is kept per channel, to be folded into
        # BatchNorm's, also where the maximum is taken over the whole weight.
        self.fixed = spec.estimator == "dorefa"
        self.limit_block_size = []
        if self.is_weight:
            whole = replace(spec, granularity="channel") if self.fixed else spec
            layout = weight_layout(whole, weight.dim(), channel_axis, input_axis)
            if self.fixed and spec.granularity == "channel":
                self.limit_block_size = [1 if d == channel_axis else -1 for d in range(weight.dim())]
        else:
            layout = input_layout(spec, by_sample)
        self.layout, self.block_size, self.group, self.blocks_along = layout
        # Random numbers are counted from a seed: call n of this module draws block n.
        self.stochastic = spec.estimator == "stochastic"
        self.seed = int(torch.randint(0, 1 << 62, ()).item()) if self.stochastic else 0
        self.draws = 0
        self.static = not self.is_weight and (spec.observer != "dynamic" or self.fixed) and not self.block_format
        self.grad_numel = 0
        # Within torchqat.reuse_weights: scale and zero point of the weight, once they are known, and what the layer adds.
        self.reused = None
        self.initialized = False
        self.register_parameter("log_scale", None)
        self.register_parameter("zero_point", None)
        self.register_buffer("base_scale", None)
        self.register_buffer("base_zero_point", None)
        self.observer = None
        if self.learned:
            self._set_learned(spec, weight, device)
        elif self.fixed:
            channels = [weight.size(channel_axis) if d == channel_axis else 1 for d in range(weight.dim())] if self.is_weight else []
            self.base_scale = torch.full(channels, 1.0 / self.quant_max, device=weight.device if self.is_weight else device)
        elif self.static and spec.observer in HISTOGRAM_OBSERVERS:
            self.observer = HistogramObserver(
                self.quant_min,
                self.quant_max,
                symmetric=spec.symmetric,
                method="percentile" if spec.observer == "percentile" else "mse",
                percentile=spec.percentile,
                device=device,
            )
        elif self.static:
            self.observer = RangeObserver(
                self.quant_min,
                self.quant_max,
                symmetric=spec.symmetric,
                averaging_constant=spec.averaging_constant if spec.observer == "ema" else 1.0,
                device=device,
            )

    def _set_learned(self, spec, weight, device):
        if weight is not None:
            scale, zero_point = self._start_from(weight.detach())
            self.grad_numel = max(weight.numel() // max(scale.numel(), 1), 1)
            self.initialized = True
        else:
            scale = torch.zeros((), device=device)
            zero_point = torch.zeros((), device=device)
        # The start is in buffers, and parameters learn the way from there: what a forward writes to a parameter is lost where
        # FSDP2 has gathered it. Parameters have a dimension, even of one element: FSDP2 shards no scalars.
        self.base_scale = scale.clone()
        self.log_scale = nn.Parameter(torch.zeros_like(torch.atleast_1d(scale)))
        if spec.estimator == "lsq+":
            self.base_zero_point = zero_point.to(scale.dtype)
            self.zero_point = nn.Parameter(torch.zeros_like(torch.atleast_1d(scale)))

    def blocks(self, dim: int) -> list[int]:
        """block_size of an input with that many dimensions."""
        if self.layout == "last":
            return [1] * (dim - 1) + [-1]
        if self.layout == "sample":
            return [1] + [-1] * (dim - 1)
        if self.layout == "first":
            return [1] + [-1] * (dim - 1)
        if self.layout == "group":
            return [1] * (dim - 1) + [self.group]
        return self.block_size

    def _from_data(self, x: Tensor) -> tuple[Tensor, Tensor]:
        blocks = self.blocks(x.dim())
        if self.by_level:
            if self.format == "ternary":
                scale = torch.ops.torchqat.choose_scale_ternary(x, blocks)
            else:
                scale = torch.ops.torchqat.choose_scale_binary(x, blocks)
            return self.stored(scale), torch.zeros_like(scale, dtype=torch.int32)
        if self.by_mse:
            scale, zero_point = torch.ops.torchqat.choose_qparams_mse(
                x, blocks, self.quant_min, self.quant_max, self.symmetric
            )
        else:
            scale, zero_point = torch.ops.torchqat.choose_qparams(
                x, blocks, self.quant_min, self.quant_max, self.symmetric
            )
        return self.stored(scale * self.range_factor if self.range_factor != 1.0 else scale), zero_point

    def _start_from(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where learned values start. TQT's threshold starts at max|x|, which a power of two of levels reaches exactly."""
        if not self.power_of_two:
            return self._from_data(x)
        blocks = self.blocks(x.dim())
        if self.by_mse:
            scale, zero_point = self._from_data(x)
            return power_of_two_start(scale), zero_point
        levels = threshold_levels(self.quant_max)
        return torch.ops.torchqat.choose_qparams(x, blocks, -levels, levels, True)

    def _weight_qparams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if torch.jit.is_scripting():
            return self._from_data(x.detach())
        else:
            if self.reused is None:
                return self._from_data(x.detach())
            if len(self.reused) == 0:
                self.reused.extend(self._from_data(x.detach()))
            return self.reused[0], self.reused[1]

    def stored(self, scale: Tensor) -> Tensor:
        """The scale rounded to the dtype that it is stored in, kept positive and finite."""
        if self.round_scale:
            stored = scale.clamp(self.smallest_scale, self.largest_scale).to(self.scale_dtype)
            return stored.to(scale.dtype)
        return scale

    def _learned_qparams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_scale, base_scale = self.log_scale, self.base_scale
        assert log_scale is not None and base_scale is not None
        if not self.initialized and self.training and self.observer_enabled:
            self._start(x)
        # FSDP2 may gather parameters in a lower precision.
        log_scale = log_scale.reshape(base_scale.shape).to(base_scale.dtype)
        scale = self.stored(scale_of(log_scale, base_scale, self.power_of_two, self.smallest_scale))
        zero_point, base_zero_point = self.zero_point, self.base_zero_point
        if zero_point is not None and base_zero_point is not None:
            return scale, base_zero_point + zero_point.reshape(base_scale.shape)
        return scale, torch.zeros_like(scale, dtype=torch.int32)

    @torch.jit.unused
    @torch.no_grad()
    def restart(self, x: Tensor) -> None:
        """Learned values start again, from this weight."""
        scale, zero_point = self._start_from(x.detach())
        self.base_scale.copy_(scale)
        self.log_scale.zero_()
        if self.base_zero_point is not None:
            self.base_zero_point.copy_(zero_point)
            self.zero_point.zero_()

    def _start(self, x: Tensor) -> None:
        base_scale, base_zero_point = self.base_scale, self.base_zero_point
        assert base_scale is not None
        if x.numel() > 0:
            with torch.no_grad():
                scale, zero_point = self._start_from(x.detach())
                base_scale.copy_(scale)
                if base_zero_point is not None:
                    base_zero_point.copy_(zero_point)
            self.initialized = True

    def _check_data(self) -> None:
        """Raise where a static range has seen nothing. Eager on the CPU only: elsewhere it would cost a host sync."""
        if torch.jit.is_scripting():
            return
        else:
            if torch.compiler.is_compiling():
                return
            if not self.has_data(cheaply=True):
                raise RuntimeError(
                    "FakeQuantize: no data has been observed for a static activation; run some batches in training mode "
                    "before eval (or use torchqat.quantize_ptq to calibrate)"
                )

    @torch.jit.unused
    def has_data(self, cheaply: bool = False) -> bool:
        """Whether scales are known: always, but for static and learned activations that have seen nothing."""
        if self.learned:
            if not self.initialized:  # buffers may have been copied from a model that has started, as averages of weights do
                self.initialized = bool((self.base_scale > 0).all())
            return self.initialized
        if self.observer is None or (cheaply and self.observer.min_val.device.type != "cpu"):
            return True
        return self.observer.has_data()

    def qparams(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for x; in training mode a static range takes x in first.

        Returns:
            scale (float) and zero_point (int32, or the float parameter of lsq+), of the shape that the ops want for
            `blocks(x.dim())`.
        """
        if self.learned:
            if not self.training:
                self._check_data()
            return self._learned_qparams(x)
        if self.fixed:
            fixed_scale = self.base_scale
            assert fixed_scale is not None
            return self.stored(fixed_scale), torch.zeros_like(fixed_scale, dtype=torch.int32)
        if self.is_weight:
            return self._weight_qparams(x)
        observer = self.observer
        if observer is not None:
            if self.training and self.observer_enabled:
                if in_recomputation():
                    scale, zero_point = self.qparams_again()
                else:
                    scale, zero_point = observer.observe(x)
            else:
                self._check_data()
                scale, zero_point = observer.qparams()
            if self.range_factor != 1.0:
                scale = scale * self.range_factor
            return self.stored(scale), zero_point
        return self._from_data(x.detach())

    @torch.jit.unused
    def qparams_again(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point for a forward that activation checkpointing repeats: the statistics as they are.

        They are the first forward's where its backward comes before the next forward, as in any training loop with one loss per
        step. Where the same layer ran several checkpointed forwards before their backwards (micro-batches kept and then summed
        into one loss), the earlier ones are repeated with the statistics of the last: their gradients are those of a slightly newer
        scale. freeze_observers, or a backward per micro-batch, makes them exact.

        Selective checkpointing looks for every op of the repeated forward among those of the first. That one observed; to read
        the statistics is another op, which it must not see.
        """
        with _disable_current_modes():
            return self.observer.qparams()

    def grad_scale(self, x: Tensor) -> float:
        """Factor of a learned scale's gradient; n elements share the scale (of one sample, for activations)."""
        if self.learned:
            numel = self.grad_numel
            if numel == 0:
                numel = max(x.numel() // max(x.size(0), 1), 1) if x.dim() > 0 else 1
            return grad_scale(self.estimator, numel, self.quant_max)
        return 1.0

    @torch.jit.unused
    def eval_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and integer zero point of a static or learned activation, as eval mode uses them."""
        if self.learned:
            scale, zero_point = self._learned_qparams(torch.empty(0))
            zero_point = zero_point.detach().round().clamp(self.quant_min, self.quant_max).to(torch.int32)
            return scale.detach(), zero_point
        if self.fixed:
            return self.qparams(torch.empty(0))
        scale, zero_point = self.observer.qparams()
        return self.stored(scale * self.range_factor), zero_point

    @torch.jit.unused
    def spec(self) -> QuantSpec:
        """The QuantSpec this module was made from."""
        fields: dict = dict(self.spec_fields)
        for name in ("quant_min", "quant_max"):
            if name in fields:
                fields[name] = int(fields[name])
        if "symmetric" in fields:
            fields["symmetric"] = fields["symmetric"] == "True"
        for name in ("averaging_constant", "percentile"):
            if name in fields:
                fields[name] = float(fields[name])
        return QuantSpec(**fields)

    @torch.jit.ignore
    def _apply(self, fn, recurse=True):
        return apply_keeping_dtype(self, super()._apply, fn, ("base_scale", "log_scale", "base_zero_point", "zero_point"), recurse)

    @torch.jit.ignore
    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in ("log_scale", "zero_point"):
            if f"{prefix}{name}" in state_dict:  # scalars, in earlier checkpoints
                state_dict[f"{prefix}{name}"] = torch.atleast_1d(state_dict[f"{prefix}{name}"])
        if self.base_zero_point is not None and f"{prefix}zero_point" in state_dict:
            # Earlier checkpoints have the whole zero point in the parameter.
            state_dict.setdefault(f"{prefix}base_zero_point", torch.zeros_like(self.base_zero_point))
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.learned and not self.is_weight:
            self.initialized = bool((self.base_scale > 0).all())

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.spec_fields.items())
