"""Statistics of several processes that train one model: each rank's observers see its own batches only."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from torchqat.fake_quantize import FakeQuantize
from torchqat.observers import HistogramObserver


@torch.no_grad()
def sync_observers(model: nn.Module, group=None) -> nn.Module:
    """Give every rank the statistics of all ranks; the same bits everywhere. A collective: every rank of the group calls it.

    Extremes ("minmax") become the extremes over all ranks, moving averages ("ema") their mean, histograms are averaged; counts of
    non-finite values are the largest. A learned activation starts where the first rank that has data did. Ranks that have seen no data
    take what the others have.

    Call it before evaluating, converting or saving, and in training as often as ranks should agree (after every step: one small
    message). It is for FSDP2, which leaves buffers alone, and for DistributedDataParallel(..., broadcast_buffers=False). DDP's own
    broadcast before each forward leaves only rank 0's statistics to be shared.

    Args:
        model: from prepare_qat, wrapped or not.
        group: a process group; the default one if None.

    Returns:
        the model.

    Raises:
        RuntimeError: torch.distributed is not initialised.
        ValueError: the model is not prepared.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("sync_observers: torch.distributed is not initialised; call init_process_group first")
    quantizers = [m for m in model.modules() if isinstance(m, FakeQuantize)]
    if not quantizers:
        raise ValueError("sync_observers: model has no FakeQuantize; prepare it with prepare_qat first")
    watching = [m.observer for m in quantizers if m.observer is not None]
    learned = [m for m in quantizers if m.learned and not m.is_weight]
    if not watching and not learned:
        return model
    own = torch.stack([value.to(torch.float64) for value in _numbers(watching, learned)])
    ranks = dist.get_world_size(group)
    gathered = own.new_empty(ranks * own.numel())
    dist.all_gather_into_tensor(gathered, own, group=group)
    columns = iter(gathered.view(ranks, -1).unbind(1))
    bounds, seen = [], []
    for observer in watching:
        lo, hi, nonfinite, bound = (next(columns) for _ in range(4))
        has_data = lo <= hi
        _merge_range(observer, lo[has_data], hi[has_data])
        observer.nonfinite_count.copy_(nonfinite.max())
        if isinstance(observer, HistogramObserver):
            bounds.append(bound.max())
            seen.append(has_data.sum().clamp(min=1))
    for quantizer in learned:
        started, scale, zero_point = (next(columns) for _ in range(3))
        if bool(started.any()):
            first = int(started.argmax())
            quantizer.base_scale.copy_(scale[first])
            if quantizer.base_zero_point is not None:
                quantizer.base_zero_point.copy_(zero_point[first])
            quantizer.initialized = True
    _average_histograms([o for o in watching if isinstance(o, HistogramObserver)], bounds, seen, group)
    return model


def _numbers(watching: list, learned: list) -> list[Tensor]:
    numbers = []
    for observer in watching:
        none = torch.zeros_like(observer.min_val)
        bound = observer.bound if isinstance(observer, HistogramObserver) else none
        numbers += [observer.min_val, observer.max_val, observer.nonfinite_count, bound]
    for quantizer in learned:
        scale, zero_point = quantizer.base_scale, quantizer.base_zero_point
        started = torch.full_like(scale, float(quantizer.initialized))
        numbers += [started, scale, torch.zeros_like(scale) if zero_point is None else zero_point]
    return numbers


def _merge_range(observer, lo: Tensor, hi: Tensor) -> None:
    if lo.numel() == 0:
        return
    extremes = observer.averaging_constant == 1.0
    observer.min_val.copy_(lo.min() if extremes else lo.mean())
    observer.max_val.copy_(hi.max() if extremes else hi.mean())


def _average_histograms(observers: list, bounds: list, seen: list, group) -> None:
    if not observers:
        return
    for observer, bound in zip(observers, bounds):
        counts, half = observer.histogram, observer.histogram.numel() // 2
        while 0 < float(observer.bound) < float(bound):
            # The range doubles and bins merge in pairs, as when a larger value comes.
            pairs = counts.view(-1, 2).sum(1)
            counts.zero_()
            counts[half // 2 : half // 2 + half] = pairs
            observer.bound.mul_(2)
        observer.bound.copy_(bound)
    total = torch.cat([observer.histogram for observer in observers])
    dist.all_reduce(total, group=group)
    for observer, counts, ranks in zip(observers, total.split([o.histogram.numel() for o in observers]), seen):
        # Rounded up: what one rank saw once is not forgotten.
        observer.histogram.copy_((counts + ranks - 1) // ranks)
