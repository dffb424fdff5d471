"""Range statistics of a tensor over the batches seen: buffers in, this step's scale and zero point out."""

import torch
from torch import Tensor, nn


@torch.jit.unused
def _recomputing() -> bool:
    # Inside backward, the only forwards are those that activation checkpointing repeats.
    return torch._C._current_graph_task_id() != -1


def in_recomputation() -> bool:
    """Whether this forward repeats one for activation checkpointing; eager only (a compiled graph repeats pure ops)."""
    if torch.jit.is_scripting():
        return False
    else:
        if torch.compiler.is_compiling():
            return False
        return _recomputing()


class RangeObserver(nn.Module):
    """Running range of a whole tensor: minimum and maximum over all batches, or their moving average.

    The statistics live in buffers (`min_val`, `max_val`, `nonfinite_count`), so they follow state_dict, `.to()` and
    deepcopy. Non-finite inputs are left out and counted. Ranges keep float32 (float64) when the model changes dtype.

    Args:
        quant_min, quant_max: the integer range.
        symmetric: zero point 0.
        averaging_constant: 1.0 keeps the extremes, less is the weight of the newest batch; the first batch sets the range.

    Example:
        >>> import torch, torchqat
        >>> observer = torchqat.observers.RangeObserver(0, 255, symmetric=False, averaging_constant=1.0)
        >>> scale, zero_point = observer.observe(torch.tensor([-1.0, 4.1]))
        >>> observer.min_val.item(), int(zero_point)
        (-1.0, 50)
    """

    def __init__(
        self, quant_min: int, quant_max: int, *, symmetric: bool, averaging_constant: float = 1.0, device=None
    ):
        super().__init__()
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.symmetric = symmetric
        self.averaging_constant = averaging_constant
        self.register_buffer("min_val", torch.tensor(float("inf"), dtype=torch.float32, device=device))
        self.register_buffer("max_val", torch.tensor(float("-inf"), dtype=torch.float32, device=device))
        self.register_buffer("nonfinite_count", torch.zeros((), dtype=torch.int64, device=device))

    def observe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take a batch into the statistics; the scale and zero point after it, as fresh tensors."""
        return torch.ops.torchqat.observe_minmax_(
            x.detach(),
            self.min_val,
            self.max_val,
            self.nonfinite_count,
            [],
            self.averaging_constant,
            self.quant_min,
            self.quant_max,
            self.symmetric,
        )

    def qparams(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the range seen so far."""
        return torch.ops.torchqat.qparams_from_range(
            self.min_val, self.max_val, self.quant_min, self.quant_max, self.symmetric
        )

    def has_data(self) -> bool:
        return bool(self.min_val <= self.max_val)

    @torch.jit.unused
    def reset(self) -> None:
        """Forget everything seen."""
        self.min_val.fill_(float("inf"))
        self.max_val.fill_(float("-inf"))
        self.nonfinite_count.zero_()

    @torch.jit.ignore
    def _apply(self, fn, recurse=True):
        return apply_keeping_dtype(self, super()._apply, fn, ("min_val", "max_val"), recurse)

    def extra_repr(self) -> str:
        return f"averaging_constant={self.averaging_constant}"


class HistogramObserver(RangeObserver):
    """Histogram of |x| over all batches, clipped at a percentile or where the squared error of the grid is least.

    Args:
        method: "percentile" or "mse".
        percentile: kept by "percentile".
        bins: a power of two; the range doubles, and bins merge in pairs, when a larger value comes.

    Example:
        >>> import torch, torchqat
        >>> observer = torchqat.observers.HistogramObserver(-128, 127, symmetric=True, method="percentile", percentile=99.0)
        >>> _ = observer.observe(torch.cat([torch.ones(999), torch.tensor([1000.0])]))
        >>> bool(observer.qparams()[0] < 0.1)
        True
    """

    def __init__(self, quant_min, quant_max, *, symmetric, method="mse", percentile=99.99, bins=2048, device=None):
        super().__init__(quant_min, quant_max, symmetric=symmetric, device=device)
        self.method = method
        self.percentile = percentile
        self.register_buffer("histogram", torch.zeros(bins, dtype=torch.int64, device=device))
        self.register_buffer("bound", torch.zeros((), dtype=torch.float32, device=device))

    def observe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        torch.ops.torchqat.observe_histogram_(
            x.detach(), self.histogram, self.bound, self.min_val, self.max_val, self.nonfinite_count
        )
        return self.qparams()

    def qparams(self) -> tuple[Tensor, Tensor]:
        return torch.ops.torchqat.qparams_from_histogram(
            self.histogram,
            self.bound,
            self.min_val,
            self.max_val,
            self.quant_min,
            self.quant_max,
            self.symmetric,
            self.method,
            self.percentile,
        )

    @torch.jit.unused
    def reset(self) -> None:
        super().reset()
        self.histogram.zero_()
        self.bound.zero_()

    @torch.jit.ignore
    def _apply(self, fn, recurse=True):
        return apply_keeping_dtype(self, super()._apply, fn, ("bound",), recurse)

    def extra_repr(self) -> str:
        return f"method={self.method}, percentile={self.percentile}"


def apply_keeping_dtype(module: nn.Module, apply, fn, names: tuple[str, ...], recurse: bool) -> nn.Module:
    """`module._apply(fn)`, but the named tensors only change device: a scale in half precision is another scale."""
    before = {n: getattr(module, n).detach() for n in names if getattr(module, n, None) is not None}
    apply(fn, recurse)
    for name, old in before.items():
        new = getattr(module, name)
        if new.dtype != old.dtype and new.is_floating_point():
            if new.device == old.device:
                new.data = old.clone() if old.is_inference() else old
            else:
                new.data = old.to(new.device)
    return module
