"""FakeQuantize: one tensor rounded onto its grid in the forward pass, for every format, granularity and estimator.

It decides where a scale comes from: the tensor itself (weights, dynamic activations), the running range (static
activations) or a learned parameter. The rounding is done by the ops.
"""

import math

import torch
from torch import Tensor, nn

from torchqat.config import BLOCK_FORMATS, FLOAT_GRID_MAX, HISTOGRAM_OBSERVERS, LEARNED, LEVEL_FORMATS, QuantSpec
from torchqat.granularity import input_layout, weight_layout
from torchqat.observers import HistogramObserver, RangeObserver, apply_keeping_dtype, in_recomputation

_SCALE_DTYPE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_SMALLEST_SCALE = {"float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}


class FakeQuantize(nn.Module):
    """Rounds its input onto a quantisation grid, with a straight-through or learned gradient.

    Formula: `q = clamp(rint(x / s) + z, quant_min, quant_max)`, `y = (q - z) * s`.

    Args:
        bits: bits of an integer grid, unsigned when affine and signed when symmetric.
        symmetric: zero point 0.
        granularity: "tensor", "channel" (the first dimension), "token" (the last dimension shares a scale), "group:32"
            (along the last dimension) or "block:128x128".
        observer: "dynamic" takes the scale from each input; "minmax" and "ema" keep a running range, updated in training
            mode only.
        estimator: "ste", "lsq" or "lsq+" (learned per tensor; starts from the first batch seen in training).
        dtype: a format of QuantSpec instead of bits.

    Shape: any input; the output has its shape and dtype.

    Raises:
        ValueError, TypeError: for bad arguments.
        RuntimeError: in eval mode, when a static range has seen no data.

    Example:
        >>> import torch, torchqat
        >>> torchqat.FakeQuantize(bits=8)(torch.tensor([0.0, 0.1, 2.55]))
        tensor([0.0000, 0.1000, 2.5500])
    """

    # TorchScript needs the types of lists that may be empty.
    block_size: list[int]

    def __init__(
        self,
        bits: int = 8,
        *,
        symmetric: bool = False,
        granularity: str = "tensor",
        observer: str = "dynamic",
        estimator: str = "ste",
        dtype: str | None = None,
    ):
        if not isinstance(bits, int) or isinstance(bits, bool):
            raise TypeError(f"FakeQuantize: bits must be an int, got {type(bits).__name__}")
        if dtype is None:
            if not 2 <= bits <= 16:
                raise ValueError(f"FakeQuantize: bits must be from 2 to 16, got {bits}; for one bit use dtype='binary'")
            dtype = f"int{bits}" if symmetric else f"uint{bits}"
        elif not isinstance(dtype, str):
            raise TypeError(f"FakeQuantize: dtype must be a string such as 'int4', got {type(dtype).__name__}")
        elif QuantSpec(dtype).is_integer is False:
            symmetric = True
        if estimator in LEARNED and observer == "dynamic":
            observer = "minmax"
        spec = QuantSpec(dtype, granularity, symmetric, observer, estimator)
        kind = spec.parsed_granularity.kind
        if (observer != "dynamic" or estimator in LEARNED) and kind != "tensor":
            got = f"{observer!r} and {estimator!r}"
            raise ValueError(f"FakeQuantize: {granularity!r} needs observer='dynamic', estimator='ste', got {got}")
        super().__init__()
        self._setup(spec, "activation")

    @classmethod
    def from_spec(cls, spec: QuantSpec, *, by_sample: bool = False, device=None) -> "FakeQuantize":
        """For an activation. by_sample: granularity "token" means each sample (inputs of convolutions)."""
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._setup(spec, "activation", by_sample=by_sample, device=device)
        return module

    @classmethod
    def for_weight(
        cls, spec: QuantSpec, weight: Tensor, *, channel_axis: int = 0, input_axis: int = 1
    ) -> "FakeQuantize":
        """For a weight: scales always come from the weight given to forward, or are learned starting from this one."""
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        module._setup(spec, "weight", weight=weight, channel_axis=channel_axis, input_axis=input_axis)
        return module

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
        layout = (
            weight_layout(spec, weight.dim(), channel_axis, input_axis)
            if self.is_weight
            else input_layout(spec, by_sample)
        )
        self.layout, self.block_size, self.group, self.blocks_along = layout
        self.learned = spec.estimator in LEARNED
        # Random numbers are counted from a seed: call n of this module draws block n.
        self.stochastic = spec.estimator == "stochastic"
        self.seed = int(torch.randint(0, 1 << 62, ()).item()) if self.stochastic else 0
        self.draws = 0
        self.static = not self.is_weight and spec.observer != "dynamic" and not self.block_format
        self.grad_numel = 0
        # Within torchqat.reuse_weights: the scale and zero point of the weight, once they are known.
        self.reused = None
        self.initialized = False
        self.register_parameter("log_scale", None)
        self.register_parameter("zero_point", None)
        self.register_buffer("base_scale", None)
        self.observer = None
        if self.learned:
            self._set_learned(spec, weight, device)
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
        # The scale is base_scale * exp(log_scale): positive whatever the optimiser does, and weight decay pulls it to
        # where it started instead of to 1.
        if weight is not None:
            scale, zero_point = self._from_data(weight.detach())
            self.grad_numel = max(weight.numel() // max(scale.numel(), 1), 1)
            self.initialized = True
        else:
            scale = torch.zeros((), device=device)
            zero_point = torch.zeros((), device=device)
        self.base_scale = scale.clone()
        self.log_scale = nn.Parameter(torch.zeros_like(scale))
        if spec.estimator == "lsq+":
            self.zero_point = nn.Parameter(zero_point.to(scale.dtype))

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
        scale = self.stored((base_scale * torch.exp(log_scale)).clamp_min(self.smallest_scale))
        zero_point = self.zero_point
        if zero_point is not None:
            return scale, zero_point
        return scale, torch.zeros_like(scale, dtype=torch.int32)

    def _start(self, x: Tensor) -> None:
        base_scale, zero_point = self.base_scale, self.zero_point
        assert base_scale is not None
        if x.numel() > 0:
            with torch.no_grad():
                scale, start = self._from_data(x.detach())
                base_scale.copy_(scale)
                if zero_point is not None:
                    zero_point.copy_(start)
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
            return self.initialized
        if self.observer is None or (cheaply and self.observer.min_val.device.type != "cpu"):
            return True
        return self.observer.has_data()

    @torch.jit.unused
    def is_float_grid(self) -> bool:
        return self.float_grid or self.block_format

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
        if self.is_weight:
            return self._weight_qparams(x)
        observer = self.observer
        if observer is not None:
            if self.training and self.observer_enabled and not in_recomputation():
                scale, zero_point = observer.observe(x)
            else:
                self._check_data()
                scale, zero_point = observer.qparams()
            if self.range_factor != 1.0:
                scale = scale * self.range_factor
            return self.stored(scale), zero_point
        return self._from_data(x.detach())

    def grad_scale(self, x: Tensor) -> float:
        """LSQ's 1 / sqrt(n * quant_max), n elements sharing the scale (of one sample, for activations)."""
        if self.learned:
            numel = self.grad_numel
            if numel == 0:
                numel = max(x.numel() // max(x.size(0), 1), 1) if x.dim() > 0 else 1
            return 1.0 / math.sqrt(float(numel * self.quant_max))
        return 1.0

    def to_levels(self, x: Tensor, scale: Tensor) -> Tensor:
        """Ternary and binary values, which an integer kernel then finds exactly on its grid; other formats pass through."""
        if not self.by_level:
            return x
        if self.format == "ternary":
            return torch.ops.torchqat.fake_quantize_ternary(x, scale, self.blocks(x.dim()))
        return torch.ops.torchqat.fake_quantize_binary(x, scale, self.blocks(x.dim()))

    def with_scale(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """forward with a scale given by the caller (a learned one that BatchNorm was folded into)."""
        if scale is None or not self.enabled:
            return self.forward(x)
        return torch.ops.torchqat.fake_quantize_learned(
            x, scale, None, self.blocks(x.dim()), self.quant_min, self.quant_max, self.grad_scale(x)
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            if self.training and (self.static or (self.learned and not self.initialized)):
                self.qparams(x)
            return x
        if self.block_format:
            return self._block_float(x)
        scale, zero_point = self.qparams(x)
        if self.by_level:
            return self.to_levels(x, scale)
        if self.float_grid:
            return torch.ops.torchqat.fake_quantize_float(x, scale, self.blocks(x.dim()), self.format)
        if self.learned:
            return torch.ops.torchqat.fake_quantize_learned(
                x, scale, zero_point, self.blocks(x.dim()), self.quant_min, self.quant_max, self.grad_scale(x)
            )
        if self.stochastic and self.training:
            if not in_recomputation():
                self.draws += 1
            return torch.ops.torchqat.fake_quantize_stochastic(
                x,
                scale,
                zero_point,
                self.blocks(x.dim()),
                self.quant_min,
                self.quant_max,
                self.seed,
                self.draws,
            )
        return torch.ops.torchqat.fake_quantize(
            x, scale, zero_point, self.blocks(x.dim()), self.quant_min, self.quant_max
        )

    def _block_float(self, x: Tensor) -> Tensor:
        # Blocks lie along the last dimension of what the op sees.
        moved = x.movedim(self.blocks_along, -1)
        blocks = [1] * (x.dim() - 1) + [self.group]
        if self.format == "nvfp4":
            y = torch.ops.torchqat.fake_quantize_float(moved, None, blocks, self.format)
        else:
            y = torch.ops.torchqat.fake_quantize_float(moved, None, blocks, self.format, self.mx_rounding)
        return y.movedim(-1, self.blocks_along)

    @torch.jit.unused
    def eval_qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and integer zero point of a static or learned activation, as eval mode uses them."""
        if self.learned:
            scale, zero_point = self._learned_qparams(torch.empty(0))
            zero_point = zero_point.detach().round().clamp(self.quant_min, self.quant_max).to(torch.int32)
            return scale.detach(), zero_point
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
        return apply_keeping_dtype(self, super()._apply, fn, ("base_scale", "log_scale", "zero_point"), recurse)

    @torch.jit.ignore
    def _load_from_state_dict(self, *args, **kwargs):
        super()._load_from_state_dict(*args, **kwargs)
        if self.learned and not self.is_weight:
            self.initialized = bool((self.base_scale > 0).all())

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.spec_fields.items())
