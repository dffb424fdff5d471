"""The demo's experiment: for each seed a float model, its float control, and PTQ and QAT in every scheme, measured as shipped.

The control goes on from the float model for as many epochs as QAT, with the same recipe and the same batches; PTQ starts from
the control, so that it is given the better trained model. On the first seeds some schemes are trained once more with their integers
simulated in float, again on the same batches.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import torchqat
from torchqat.demo.data import Digits
from torchqat.demo.model import DigitNet
from torchqat.demo.schemes import Scheme
from torchqat.demo.training import Curve, Recipe, accuracy, predict, train


@dataclass(frozen=True)
class Plan:
    """How long the experiment is. `frozen_epochs`: the last epochs of QAT, and of its control, use frozen statistics.
    `judged`: long enough for its accuracies to be held against what is claimed. `twins`: how many of the seeds also train the
    schemes that have a simulated twin.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    float_recipe: Recipe = Recipe(epochs=6, learning_rate=6e-3)
    qat_recipe: Recipe = Recipe(epochs=5, learning_rate=2e-3)
    frozen_epochs: int = 1
    calibration_batches: int = 8
    latency_rounds: int = 40
    judged: bool = True
    twins: int = 3

    def has_twin(self, scheme: Scheme, seed: int) -> bool:
        return scheme.twin and seed in self.seeds[: self.twins]

    def steps(self, schemes: Sequence[Scheme], train_size: int) -> int:
        """Training steps of the whole experiment, for the progress bar."""
        per_epoch = train_size // self.float_recipe.batch_size
        epochs = len(self.seeds) * (self.float_recipe.epochs + (1 + len(schemes)) * self.qat_recipe.epochs)
        epochs += sum(self.has_twin(s, seed) for s in schemes for seed in self.seeds) * self.qat_recipe.epochs
        return epochs * per_epoch


@dataclass
class Run:
    """One model of one seed. `differing` counts outputs of QAT eval that are not bit-equal to the converted model's."""

    seed: int
    method: str  # "float", "control", "ptq", "qat" or "simulated"
    scheme: str  # a Scheme.key, "" for the float models
    accuracy: float
    file_bytes: int
    curve: Curve | None = None
    differing: int | None = None
    compared: int = 0
    train_seconds: float = 0.0


@dataclass
class Kept:
    """The first seed's models, for plots, latency and the files: keys "control", "<scheme>/ptq", "<scheme>/qat"."""

    float_model: nn.Module
    models: dict[str, nn.Module] = field(default_factory=dict)
    prepared: dict[str, nn.Module] = field(default_factory=dict)


def differing_outputs(first: Tensor, second: Tensor) -> int:
    """How many elements are not the same bits (so NaN equals the same NaN, and 0.0 differs from -0.0)."""
    return int((first.contiguous().view(torch.int32) != second.contiguous().view(torch.int32)).sum())


def simulated(model: nn.Module) -> nn.Module:
    """The prepared model itself, every layer on its float-simulated path: the same scheme, parameters and observers."""
    for module in model.modules():
        if getattr(module, "integer", False):
            module.integer = False
    return model


def _freeze_float_batch_norm(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _freeze_statistics(model: nn.Module) -> None:
    torchqat.freeze_observers(model)
    torchqat.freeze_batch_norm(model)


def _train_from(model: nn.Module, data: Digits, plan: Plan, seed: int, freeze: Callable, on_step: Callable) -> Curve:
    """The second training, shared by control and QAT: same recipe, same batches, the last epochs on frozen statistics."""
    first_frozen = plan.qat_recipe.epochs - plan.frozen_epochs

    def on_epoch(epoch: int) -> None:
        if epoch >= first_frozen:
            freeze(model)

    return train(model, data, plan.qat_recipe, seed + 1000, on_epoch=on_epoch, on_step=on_step)


def float_file_bytes(model: nn.Module, path: Path) -> int:
    """Size of the float model's safetensors file."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, str(path))
    return path.stat().st_size


def run_seed(
    seed: int,
    data: Digits,
    plan: Plan,
    schemes: Sequence[Scheme],
    models_dir: Path,
    *,
    on_step: Callable[[], None],
    on_stage: Callable[[str], None],
    on_run: Callable[[Run], None],
) -> Kept:
    """Train and measure everything of one seed; reports each finished Run, and returns the models.

    Args:
        models_dir: where the model files are written (later seeds overwrite nothing: names carry the seed).
        on_step, on_stage, on_run: called after each training step, before each stage, and with each result.
    """
    torch.manual_seed(seed)
    model = DigitNet(stem_stride=2 if data.image_size >= 16 else 1)

    on_stage(f"seed {seed}: float")
    start = time.perf_counter()
    curve = train(model, data, plan.float_recipe, seed, on_step=on_step)
    size = float_file_bytes(model, models_dir / f"float-seed{seed}.safetensors")
    on_run(Run(seed, "float", "", curve.accuracy[-1], size, curve, train_seconds=time.perf_counter() - start))

    on_stage(f"seed {seed}: float control")
    start = time.perf_counter()
    control = copy.deepcopy(model)
    curve = _train_from(control, data, plan, seed, _freeze_float_batch_norm, on_step)
    size = float_file_bytes(control, models_dir / f"control-seed{seed}.safetensors")
    on_run(Run(seed, "control", "", curve.accuracy[-1], size, curve, train_seconds=time.perf_counter() - start))

    kept = Kept(model, {"control": control})
    for scheme in schemes:
        if scheme.ptq:
            on_stage(f"seed {seed}: {scheme.title}, PTQ")
            batches = data.train_images.split(64)[: plan.calibration_batches]
            converted = torchqat.quantize_ptq(control, scheme.qconfig(), batches)
            path = models_dir / f"{scheme.key}-ptq-seed{seed}.safetensors"
            torchqat.save(converted, path)
            on_run(Run(seed, "ptq", scheme.key, accuracy(converted, data), path.stat().st_size))
            kept.models[f"{scheme.key}/ptq"] = converted

        on_stage(f"seed {seed}: {scheme.title}, QAT")
        start = time.perf_counter()
        prepared = torchqat.prepare_qat(model, scheme.qconfig())
        curve = _train_from(prepared, data, plan, seed, _freeze_statistics, on_step)
        seconds = time.perf_counter() - start
        prepared.eval()
        converted = torchqat.convert(prepared)
        path = models_dir / f"{scheme.key}-qat-seed{seed}.safetensors"
        torchqat.save(converted, path)
        trained, shipped = predict(prepared, data.test_images), predict(converted, data.test_images)
        on_run(
            Run(
                seed, "qat", scheme.key, accuracy(converted, data), path.stat().st_size, curve,
                differing_outputs(trained, shipped), shipped.numel(), seconds,
            )
        )  # fmt: skip
        kept.models[f"{scheme.key}/qat"] = converted
        kept.prepared[scheme.key] = prepared

        if plan.has_twin(scheme, seed):
            on_stage(f"seed {seed}: {scheme.title}, simulated")
            start = time.perf_counter()
            twin = simulated(torchqat.prepare_qat(model, scheme.qconfig()))
            curve = _train_from(twin, data, plan, seed, _freeze_statistics, on_step)
            on_run(Run(seed, "simulated", scheme.key, curve.accuracy[-1], 0, curve, train_seconds=time.perf_counter() - start))
    return kept


def twins(runs: Sequence[Run], scheme: Scheme) -> list[tuple[Run, Run]]:
    """For each seed that trained both ways: the run on integers and the simulated one."""
    found = {(run.method, run.seed): run for run in runs if run.scheme == scheme.key}
    return [(found["qat", seed], run) for (method, seed), run in found.items() if method == "simulated"]


@torch.inference_mode()
def latencies(models: dict[str, nn.Module], images: Tensor, rounds: int) -> dict[str, float]:
    """Median milliseconds of one call for each model, the models taking turns so that all see the same machine."""
    for model in models.values():
        for _ in range(5):
            model(images)
    samples: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            model(images)
            samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in samples.items()}
