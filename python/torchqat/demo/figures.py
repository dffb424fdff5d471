"""From runs and kept models to the demo's figures: folds weights, averages curves, and hands plain numbers to plots.py."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

import torchqat
from torchqat.demo import plots
from torchqat.demo.experiment import Kept, Plan, Run, twins
from torchqat.demo.schemes import Scheme

_BLOCK, _CONV, _BN = "block2", "conv1", "bn1"


def colour(scheme: Scheme) -> str:
    return plots.COLOURS["lsq" if scheme.learned else "qat"]


def _of(runs: Sequence[Run], method: str, scheme: str = "") -> list[Run]:
    return [run for run in runs if (run.method, run.scheme) == (method, scheme)]


def _accuracy(path: Path, runs: Sequence[Run], schemes: Sequence[Scheme]) -> Path:
    lines = (
        ("PTQ", plots.COLOURS["ptq"], "ptq", [s for s in schemes if s.ptq]),
        ("QAT", plots.COLOURS["qat"], "qat", [s for s in schemes if not s.learned]),
        ("QAT, learned scales", plots.COLOURS["lsq"], "qat", [s for s in schemes if s.learned]),
    )
    series = [
        plots.Series(label, shade, {s.weight_bits: [run.accuracy for run in _of(runs, method, s.key)] for s in chosen})
        for label, shade, method, chosen in lines
        if chosen
    ]
    return plots.accuracy_by_bits(path, series, [run.accuracy for run in _of(runs, "control")])


def _steps(weight: Tensor, scale: Tensor) -> np.ndarray:
    """The weights in units of their channel's scale, flat. weight [O, I, k, k]; scale with one entry per channel."""
    return (weight.detach() / scale.detach().reshape(-1, 1, 1, 1)).flatten().numpy()


def _weights(path: Path, kept: Kept, schemes: Sequence[Scheme]) -> Path:
    block = kept.models["control"].get_submodule(_BLOCK)
    conv, bn = block.get_submodule(_CONV), block.get_submodule(_BN)
    with torch.no_grad():
        folded, _ = fuse_conv_bn_weights(
            conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
        )
    panels = []
    for scheme in schemes:
        if not scheme.ptq:
            continue
        ptq = kept.models[f"{scheme.key}/ptq"].get_submodule(f"{_BLOCK}.{_CONV}")
        layer = kept.prepared[scheme.key].get_submodule(f"{_BLOCK}.{_CONV}")
        trained, _ = layer.effective_weight()
        low, high = scheme.qconfig().weight.quant_range("weight")
        before = _steps(folded, torchqat.integer_weights(ptq).scale)
        after = _steps(trained, torchqat.integer_weights(layer).scale)
        panels.append(plots.WeightPanel(f"{scheme.weight_bits} bits", before, after, low, high))
    return plots.weight_histograms(path, panels, f"{_BLOCK}.{_CONV}")


def _means(runs: Sequence[Run], values: str) -> list[float]:
    return [statistics.mean(column) for column in zip(*(getattr(run.curve, values) for run in runs), strict=True)]


def _curves(path: Path, runs: Sequence[Run], schemes: Sequence[Scheme], plan: Plan) -> Path:
    start = plan.float_recipe.epochs
    entries = [("float", plots.COLOURS["float"], "-", 0, _of(runs, "float"))]
    entries.append(("float control", plots.COLOURS["control"], "--", start, _of(runs, "control")))
    styles = {8: "-", 4: "--", 3: "--", 2: ":"}
    entries += [
        (f"QAT, {s.title}", colour(s), styles[s.weight_bits] if not s.learned else "-" if s.weight_bits == 2 else "--", start, _of(runs, "qat", s.key))
        for s in schemes
    ]
    curves = [
        plots.CurveSeries(label, shade, style, first, _means(chosen, "loss"), _means(chosen, "accuracy"))
        for label, shade, style, first, chosen in entries
    ]
    return plots.training_curves(path, curves)


def _twins(path: Path, runs: Sequence[Run], schemes: Sequence[Scheme]) -> Path:
    panels = [
        plots.TwinPanel(scheme.title, [(a.seed, a.curve, b.curve) for a, b in twins(runs, scheme)])
        for scheme in schemes
        if scheme.twin
    ]
    return plots.twin_curves(path, panels)


def draw(folder: Path, runs: Sequence[Run], kept: Kept, schemes: Sequence[Scheme], plan: Plan) -> list[tuple[str, Path, str]]:
    """Write the PNGs; returns (heading, path, caption) of each."""
    seeds = f"{len(plan.seeds)} seed{'s' * (len(plan.seeds) != 1)}"
    return [
        (
            "Accuracy by bits",
            _accuracy(folder / "accuracy_by_bits.png", runs, schemes),
            f"Test accuracy of the converted models: mean, lowest and highest of {seeds}; "
            "the grey band is the float control's.",
        ),
        (
            "Weights and the grid",
            _weights(folder / "weight_histograms.png", kept, schemes),
            "Each weight divided by the scale of its output channel, so that the dotted lines are what the integers can "
            "express. Left: the float control's weights, which PTQ rounds. Right: the weights behind the trained "
            "integers after QAT.",
        ),
        (
            "Training curves",
            _curves(folder / "training_curves.png", runs, schemes, plan),
            f"Means of {seeds}. In the last epoch observers and BatchNorm are frozen, in the control too.",
        ),
        (
            "Training on integers against simulating them",
            _twins(folder / "integer_vs_simulated.png", runs, schemes),
            "The same scheme, float model and batches, trained by torchqat's integer forward and backward (solid) and simulated in "
            f"float32 (dashed, pale), for the first {min(plan.twins, len(plan.seeds))} seed(s). Rounding decides near-ties differently, "
            "so single runs part; the seeds' spread is the measure.",
        ),
    ]
