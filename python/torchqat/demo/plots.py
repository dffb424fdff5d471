"""The demo's figures, drawn from plain numbers. Every function writes one PNG and returns its path."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402
from matplotlib import pyplot  # noqa: E402

COLOURS = {"control": "#444444", "float": "#999999", "ptq": "#d1603d", "qat": "#1f6fb4", "lsq": "#2a9d63"}
_STYLE = {
    "figure.dpi": 110,
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Series:
    """One line of the accuracy plot: `points` maps weight bits to the accuracies of the seeds."""

    label: str
    colour: str
    points: dict[int, list[float]]


@dataclass(frozen=True)
class WeightPanel:
    """One layer's weights in units of their channel's scale, before and after QAT, and the codes it may use."""

    title: str
    before: np.ndarray
    after: np.ndarray
    quant_min: int
    quant_max: int


@dataclass(frozen=True)
class CurveSeries:
    """Per-epoch means over the seeds, starting after `first_epoch` epochs."""

    label: str
    colour: str
    style: str
    first_epoch: int
    loss: list[float]
    accuracy: list[float]


@dataclass(frozen=True)
class TwinPanel:
    """One scheme trained both ways. seeds: (seed, curve on integers, curve simulated); a curve has `loss` and `accuracy` by epoch."""

    title: str
    seeds: list[tuple]


def _save(figure, path: Path) -> Path:
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
    return path


def _draw_accuracy(axes, series: Sequence[Series], control: list[float], bits: list[int]) -> None:
    mean = float(np.mean(control))
    axes.axhspan(min(control), max(control), color=COLOURS["control"], alpha=0.13, lw=0)
    axes.axhline(mean, color=COLOURS["control"], ls="--", lw=1.4, label=f"float control ({mean:.1f}%)")
    for index, line in enumerate(series):
        shown = [b for b in bits if b in line.points]
        x = np.array([bits.index(b) for b in shown]) + 0.07 * (index - (len(series) - 1) / 2)
        middle = np.array([np.mean(line.points[b]) for b in shown])
        low = middle - [min(line.points[b]) for b in shown]
        high = [max(line.points[b]) for b in shown] - middle
        axes.errorbar(
            x, middle, yerr=[low, high], color=line.colour, label=line.label, marker="o", ms=6, lw=1.8, capsize=4
        )
    axes.set_xticks(range(len(bits)), [f"{b} bits" for b in bits])
    axes.set_xlim(-0.35, len(bits) - 0.65)
    axes.set_xlabel("weights (activations: 8 bits)")


def accuracy_by_bits(path: Path, series: Sequence[Series], control: list[float]) -> Path:
    """Test accuracy against the weights' bits: the whole range, and a closer look around the float control."""
    bits = sorted({b for line in series for b in line.points}, reverse=True)
    with pyplot.rc_context(_STYLE):
        figure, (whole, close) = pyplot.subplots(1, 2, figsize=(11, 4.2))
        for axes in (whole, close):
            _draw_accuracy(axes, series, control, bits)
        whole.set_ylabel("test accuracy of the converted model (%)")
        whole.set_title("Whole range")
        whole.legend(loc="lower left")
        mean = float(np.mean(control))
        near = [v for line in series for vs in line.points.values() for v in vs if v > mean - 6]
        close.set_ylim(min([*near, *control]) - 0.4, max([*near, *control]) + 0.4)
        close.set_title("Near the float control")
        figure.tight_layout()
        return _save(figure, path)


def _draw_weights(axes, values: np.ndarray, panel: WeightPanel, colour: str) -> None:
    steps = panel.quant_max - panel.quant_min
    margin = 0.75 + 0.04 * steps
    low, high = panel.quant_min - margin, panel.quant_max + margin
    bins = np.linspace(low, high, 121 if steps < 64 else 129)
    axes.hist(np.clip(values, low, high), bins=bins, color=colour, alpha=0.85)
    levels = np.arange(panel.quant_min, panel.quant_max + 1)
    if steps <= 16:
        for level in levels:
            axes.axvline(level, color="black", lw=0.8, ls=":")
        axes.set_xticks(levels)
    else:
        # 255 lines would be one grey block: the ends as lines, the codes as ticks under the axis.
        for level in (panel.quant_min, panel.quant_max):
            axes.axvline(level, color="black", lw=0.8, ls=":")
        axes.set_xticks(levels, minor=True)
        axes.tick_params(axis="x", which="minor", length=2, width=0.4)
    axes.set_xlim(low, high)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)


def weight_histograms(path: Path, panels: Sequence[WeightPanel], layer: str) -> Path:
    """The weights of one layer over the quantisation grid, before QAT (rows' left) and after it."""
    with pyplot.rc_context(_STYLE):
        figure, grid = pyplot.subplots(
            len(panels), 2, figsize=(11, 2.15 * len(panels) + 0.6), squeeze=False, sharex="row"
        )
        for row, panel in zip(grid, panels, strict=True):
            _draw_weights(row[0], panel.before, panel, COLOURS["ptq"])
            _draw_weights(row[1], panel.after, panel, COLOURS["qat"])
            row[0].set_ylabel(panel.title)
        grid[0][0].set_title("float weights on the PTQ grid")
        grid[0][1].set_title("float weights behind the QAT grid")
        for axes in grid[-1]:
            axes.set_xlabel("weight / scale of its channel")
        figure.suptitle(f"Weights of {layer}, BatchNorm folded in; dotted: what the integers can express", fontsize=11)
        figure.tight_layout()
        return _save(figure, path)


def training_curves(path: Path, curves: Sequence[CurveSeries]) -> Path:
    """Loss and test accuracy by epoch, means over the seeds."""
    with pyplot.rc_context(_STYLE):
        figure, (loss, accuracy) = pyplot.subplots(1, 2, figsize=(11, 4.2))
        for curve in curves:
            epochs = curve.first_epoch + 1 + np.arange(len(curve.loss))
            for axes, values in ((loss, curve.loss), (accuracy, curve.accuracy)):
                axes.plot(
                    epochs, values, color=curve.colour, ls=curve.style, marker="o", ms=3.5, lw=1.6, label=curve.label
                )
        start = max((curve.first_epoch for curve in curves), default=0)
        for axes in (loss, accuracy):
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            if start:
                axes.axvline(start + 0.5, color="black", lw=0.8, ls=":")
        loss.set_yscale("log")
        loss.set_title("Training loss")
        accuracy.set_title("Test accuracy (%)")
        best = max(v for curve in curves for v in curve.accuracy)
        worst = min(curve.accuracy[-1] for curve in curves)
        accuracy.set_ylim(max(0.0, min(best - 12, worst - 4)), best + 1)
        if start:
            accuracy.annotate(
                "QAT and control\nstart here", (start + 0.5, 0.04), xycoords=("data", "axes fraction"),
                xytext=(-6, 0), textcoords="offset points", ha="right", fontsize=9,
            )  # fmt: skip
        loss.legend(loc="best")
        figure.tight_layout()
        return _save(figure, path)


def twin_curves(path: Path, panels: Sequence[TwinPanel]) -> Path:
    """For each scheme a column: test accuracy above, training loss below; a colour for each seed, a line style for each way."""
    with pyplot.rc_context(_STYLE):
        figure, grid = pyplot.subplots(2, len(panels), figsize=(3.7 * len(panels), 6.4), squeeze=False, sharex=True)
        for column, panel in enumerate(panels):
            for row, values in ((0, "accuracy"), (1, "loss")):
                axes = grid[row][column]
                for colour, (seed, integer, simulated) in enumerate(panel.seeds):
                    for curve, style, width in ((simulated, "--", 2.6), (integer, "-", 1.3)):
                        y = getattr(curve, values)
                        axes.plot(1 + np.arange(len(y)), y, color=f"C{colour}", ls=style, lw=width, alpha=0.45 if style == "--" else 1.0)
                axes.xaxis.get_major_locator().set_params(integer=True)
            grid[0][column].set_title(panel.title)
            grid[1][column].set_xlabel("epoch of QAT")
        grid[0][0].set_ylabel("test accuracy (%)")
        grid[1][0].set_ylabel("training loss")
        lines = [pyplot.Line2D([], [], color="black", ls="-", lw=1.3, label="on integers")]
        lines.append(pyplot.Line2D([], [], color="black", ls="--", lw=2.6, alpha=0.45, label="simulated in float"))
        for colour, (seed, *_) in enumerate(panels[0].seeds):
            lines.append(pyplot.Line2D([], [], color=f"C{colour}", lw=2, label=f"seed {seed}"))
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        figure.legend(handles=lines, loc="lower center", ncols=len(lines))
        return _save(figure, path)
