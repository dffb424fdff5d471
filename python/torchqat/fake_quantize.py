"""FakeQuantize: one tensor rounded onto its grid in the forward pass, for every format, granularity and estimator.

Its base decides where the scale comes from (scale_source.py); the rounding is done by the ops.
"""

import torch
from torch import Tensor, nn

from torchqat.config import LEARNED, QuantSpec
from torchqat.observers import in_recomputation
from torchqat.scale_source import ScaleSource



class FakeQuantize(ScaleSource):
    """Rounds its input onto a quantisation grid, with a straight-through or learned gradient.

    Formula: `q = clamp(rint(x / s) + z, quant_min, quant_max)`, `y = (q - z) * s`.

    Args:
        bits: bits of an integer grid, unsigned when affine and signed when symmetric.
        symmetric: zero point 0.
        granularity: "tensor", "channel" (the first dimension), "token" (the last dimension shares a scale), "group:32"
            (along the last dimension) or "block:128x128".
        observer: "dynamic" takes the scale from each input; "minmax" and "ema" keep a running range, updated in training
            mode only.
        estimator: "ste"; "lsq", "lsq+", "pact" or "tqt" (learned per tensor; they start from the first batch seen in training);
            "dorefa" (clamps to [0, 1]); "stochastic".
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
        spec.check_estimator("FakeQuantize", "activation")
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

    @torch.jit.unused
    def is_float_grid(self) -> bool:
        return self.float_grid or self.block_format

    def shaped(self, x: Tensor) -> Tensor:
        """What is rounded in place of the weight x: DoReFa's tanh(x) / max|tanh(x)|, otherwise x itself."""
        if self.fixed and self.is_weight and self.enabled:
            return torch.ops.torchqat.dorefa_weight(x, self.limit_block_size)
        return x

    def to_levels(self, x: Tensor, scale: Tensor) -> Tensor:
        """Values whose gradient an integer kernel does not know, rounded here; it then finds them exactly on its grid. Ternary
        and binary weights, and PACT's activations while they train; others pass through.
        """
        if self.estimator == "pact" and scale.requires_grad:
            return torch.ops.torchqat.fake_quantize_pact(
                x, scale, self.blocks(x.dim()), self.quant_min, self.quant_max, self.grad_scale(x)
            )
        if not self.by_level:
            return x
        if self.format == "ternary":
            return torch.ops.torchqat.fake_quantize_ternary(x, scale, self.blocks(x.dim()))
        return torch.ops.torchqat.fake_quantize_binary(x, scale, self.blocks(x.dim()))

    def with_scale(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """forward with a scale given by the caller (a learned one that BatchNorm was folded into)."""
        if not self.enabled:
            return self.forward(x)
        if scale is None:
            return self.rounded(x)
        return torch.ops.torchqat.fake_quantize_learned(
            x, scale, None, self.blocks(x.dim()), self.quant_min, self.quant_max, self.grad_scale(x)
        )

    def forward(self, x: Tensor) -> Tensor:
        if not self.enabled:
            if self.training and (self.static or (self.learned and not self.initialized)):
                self.qparams(x)
            return x
        return self.rounded(self.shaped(x))

    def rounded(self, x: Tensor) -> Tensor:
        """forward of what `shaped` gave."""
        if self.block_format:
            return self._block_float(x)
        scale, zero_point = self.qparams(x)
        if self.by_level:
            return self.to_levels(x, scale)
        if self.float_grid:
            return torch.ops.torchqat.fake_quantize_float(x, scale, self.blocks(x.dim()), self.format)
        if self.learned:
            return self.learning(x, scale, zero_point)
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

    def learning(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """x on its grid, with the gradient of a learned scale (and zero point) that `qparams` gave."""
        if self.estimator == "pact":
            return torch.ops.torchqat.fake_quantize_pact(
                x, scale, self.blocks(x.dim()), self.quant_min, self.quant_max, self.grad_scale(x)
            )
        return torch.ops.torchqat.fake_quantize_learned(
            x, scale, zero_point, self.blocks(x.dim()), self.quant_min, self.quant_max, self.grad_scale(x)
        )

    def on_grid(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What an integer form reads: x, already rounded where the scale is learned, with the gradients of that; and the grid as constants, its
        zero point an integer. The codes of a rounded value are the value's own.
        """
        scale, zero_point = self.qparams(x)
        if self.learned:
            x = self.learning(x, scale, zero_point)
            zero_point = zero_point.detach().round().clamp(self.quant_min, self.quant_max).to(torch.int32)
        return x, scale.detach(), zero_point

    def _block_float(self, x: Tensor) -> Tensor:
        # Blocks lie along the last dimension of what the op sees.
        moved = x.movedim(self.blocks_along, -1)
        blocks = [1] * (x.dim() - 1) + [self.group]
        if self.format == "nvfp4":
            y = torch.ops.torchqat.fake_quantize_float(moved, None, blocks, self.format)
        else:
            y = torch.ops.torchqat.fake_quantize_float(moved, None, blocks, self.format, self.mx_rounding)
        return y.movedim(-1, self.blocks_along)
