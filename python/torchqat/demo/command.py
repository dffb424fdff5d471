"""The demo command: options, progress bars, and the order of things; the work is in the other files of this folder."""

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import torchqat
from torchqat.demo import report
from torchqat.demo.data import Digits, load_digits
from torchqat.demo.experiment import Kept, Plan, Run, differing_outputs, latencies, run_seed, twins
from torchqat.demo.model import DigitNet
from torchqat.demo.schemes import SCHEMES, Scheme
from torchqat.demo.training import Recipe, predict

# By how many points QAT may miss the float control, mean over the seeds, for each number of bits; and with learned scales.
_ALLOWED = {8: 0.5, 4: 0.7, 2: 3.5}
_ALLOWED_LEARNED = {3: 0.8, 2: 1.5}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the demo command."""
    parser.add_argument("--out", type=Path, default=Path("torchqat-demo"), help="output folder (default: torchqat-demo)")
    parser.add_argument("--seeds", type=_at_least_one, default=5, help="how many seeds (default: 5)")
    parser.add_argument("--data", choices=("auto", "mnist", "digits"), default="auto", help="which digits (default: auto)")
    parser.add_argument("--quick", action="store_true", help="a short run to see it work: less data, few epochs, one seed")
    parser.add_argument("--threads", type=_at_least_one, default=1, help="torch threads (default: 1, best for so small a net)")


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _plan(options: argparse.Namespace) -> Plan:
    if options.quick:
        return Plan(
            seeds=(0,),
            float_recipe=Recipe(epochs=4, learning_rate=6e-3),
            qat_recipe=Recipe(epochs=2, learning_rate=2e-3),
            latency_rounds=5,
            judged=False,
        )
    return Plan(seeds=tuple(range(options.seeds)))


def run_options(options: argparse.Namespace) -> int:
    """Run the demo; returns the exit status: 1 when a converted model does not equal its trained one."""
    from rich.console import Console

    console = Console()
    start = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        limits = {"train_limit": 1000, "test_limit": 250} if options.quick else {}
        data = load_digits(options.data, **limits)
        return _demo(console, options.out, _plan(options), data, start)
    except ImportError as error:
        console.print(f"torchqat demo: {error}", markup=False, style="red")
        return 2
    finally:
        torch.set_num_threads(threads)


def _demo(console, out: Path, plan: Plan, data: Digits, start: float) -> int:
    models_dir = out / "models"
    models_dir.mkdir(parents=True, exist_ok=True)
    console.print(
        f"[bold]torchqat demo[/]: {data.source}, {len(data.train_labels)} to train, {len(data.test_labels)} held out; "
        f"{len(plan.seeds)} seed(s)"
    )
    runs, kept = _experiment(console, plan, data, models_dir)
    script_differing = _save_scripts(kept, data, models_dir)
    rows = _rows(runs, SCHEMES)
    speed = _latency_rows(kept, data, plan, models_dir)
    report.print_tables(console, rows, speed, len(plan.seeds))
    findings = _findings(runs, SCHEMES, script_differing, plan.judged)
    for holds, text in findings:
        mark = {True: "[green]holds[/] ", False: "[bold red]does not hold[/] ", None: ""}[holds]
        console.print(f"- {mark}{text}")

    from torchqat.demo import figures

    drawn = figures.draw(out, runs, kept, SCHEMES, plan)
    minutes = (time.perf_counter() - start) / 60
    page = report.write_html(
        out / "report.html",
        subtitle=(
            f"{data.source}: {len(data.train_labels)} training and {len(data.test_labels)} held-out digits, "
            f"{len(plan.seeds)} seed(s), {minutes:.1f} minutes on {_machine()}"
        ),
        findings=findings,
        rows=rows,
        latencies=speed,
        figures=drawn,
        setup=_setup_notes(plan),
        files=_listing(out),
    )
    console.print(f"[bold]Done[/] in {minutes:.1f} minutes. Everything is in {out.resolve()}:", soft_wrap=True)
    console.print(f"  {page.name} (open it in a browser), {', '.join(png.name for _, png, _ in drawn)}, models/", soft_wrap=True)
    return 0 if all(run.differing in (None, 0) for run in runs) and script_differing == 0 else 1


def _experiment(console, plan: Plan, data: Digits, models_dir: Path) -> tuple[list[Run], Kept]:
    """All seeds, under two progress bars; the first seed's models are kept."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<31}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    runs: list[Run] = []
    kept: Kept | None = None
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=plan.steps(SCHEMES, len(data.train_labels)))

        def on_run(run: Run) -> None:
            runs.append(run)
            progress.console.print(f"  {_describe(run)}", highlight=False)

        for seed in plan.seeds:
            models = run_seed(
                seed, data, plan, SCHEMES, models_dir,
                on_step=lambda: progress.advance(task),
                on_stage=lambda text: progress.update(task, description=text),
                on_run=on_run,
            )  # fmt: skip
            kept = kept or models
        progress.update(task, description="trained")
    return runs, kept


def _describe(run: Run) -> str:
    titles = {scheme.key: scheme.title for scheme in SCHEMES}
    method = {"ptq": "PTQ", "qat": "QAT", "simulated": "simulated"}.get(run.method)
    name = {"float": "float", "control": "float control"}.get(run.method) or f"{titles[run.scheme]}: {method}"
    tail = "" if run.differing is None else f", {run.differing} of {run.compared} differ"
    took = f" in {run.train_seconds:.1f} s" if run.train_seconds else ""
    return f"seed {run.seed}  {name:<23} {run.accuracy:6.2f}%{took}{tail}"


def _save_scripts(kept: Kept, data: Digits, models_dir: Path) -> int:
    """Write the QAT models and the float control as frozen TorchScript; returns how many outputs of the reloaded ones differ."""
    differing = 0
    for name, model in _deployable(kept).items():
        path = _script_path(models_dir, name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)")
            torch.jit.freeze(torch.jit.script(model.eval())).save(str(path))
            loaded = torch.jit.load(str(path))
        if name != "control":
            differing += differing_outputs(predict(model, data.test_images), _script_predict(loaded, data))
    return differing


def _script_predict(loaded, data: Digits) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([loaded(part) for part in data.test_images.split(250)])


def _script_path(models_dir: Path, name: str) -> Path:
    return models_dir / f"{name.replace('/', '-')}.torchscript.pt"


def _deployable(kept: Kept) -> dict[str, nn.Module]:
    return {name: model for name, model in kept.models.items() if not name.endswith("/ptq")}


def _rows(runs: Sequence[Run], schemes: Sequence[Scheme]) -> list[report.Row]:
    control = statistics.mean(run.accuracy for run in runs if run.method == "control")

    def row(title: str, method: str, key: str, kind: str) -> report.Row:
        chosen = [run for run in runs if (run.method, run.scheme) == (method, key)]
        accuracies = tuple(run.accuracy for run in chosen)
        differing = None
        if method == "qat":
            differing = (sum(run.differing for run in chosen), sum(run.compared for run in chosen))
        gap = None if method == "control" else statistics.mean(accuracies) - control
        return report.Row(title, kind, accuracies, gap, chosen[0].file_bytes, differing)

    rows = [row("float, before", "float", "", "float"), row("float control", "control", "", "control")]
    for scheme in schemes:
        if scheme.ptq:
            rows.append(row(f"{scheme.title}: PTQ", "ptq", scheme.key, "ptq"))
        rows.append(row(f"{scheme.title}: QAT", "qat", scheme.key, "lsq" if scheme.learned else "qat"))
    return rows


def _latency_rows(kept: Kept, data: Digits, plan: Plan, models_dir: Path) -> list[report.LatencyRow]:
    models = _deployable(kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)")
        scripts = {name: torch.jit.load(str(_script_path(models_dir, name))) for name in models}
    measured = {}
    for kind, chosen in (("eager", models), ("scripted", scripts)):
        for batch in (1, 64):
            measured[kind, batch] = latencies(chosen, data.test_images[:batch].clone(), plan.latency_rounds)
    titles = {f"{scheme.key}/qat": scheme.title for scheme in SCHEMES} | {"control": "float"}
    kinds = {f"{scheme.key}/qat": "lsq" if scheme.learned else "qat" for scheme in SCHEMES} | {"control": "control"}
    return [
        report.LatencyRow(
            titles[name],
            kinds[name],
            (measured["eager", 1][name], measured["eager", 64][name]),
            (measured["scripted", 1][name], measured["scripted", 64][name]),
        )
        for name in models
    ]


def _findings(
    runs: Sequence[Run], schemes: Sequence[Scheme], script_differing: int, judged: bool
) -> list[tuple[bool | None, str]]:
    """What the demo claims, each with whether this run bears it out; accuracies are only remarks where not judged."""
    qat = [run for run in runs if run.method == "qat"]
    differing, compared = sum(run.differing for run in qat), sum(run.compared for run in qat)
    findings: list[tuple[bool | None, str]] = [
        (
            differing == 0,
            f"What you train is what ships: {differing} of {compared:,} outputs of QAT in eval mode differ by even a bit "
            "from the converted model's.",
        ),
        (script_differing == 0, f"The saved TorchScript files, loaded again, give the same bits ({script_differing} differ)."),
    ]

    def mean(method: str, key: str = "") -> float:
        return statistics.mean(run.accuracy for run in runs if (run.method, run.scheme) == (method, key))

    control = mean("control")
    for scheme in schemes:
        trained = mean("qat", scheme.key)
        allowed = (_ALLOWED_LEARNED if scheme.learned else _ALLOWED)[scheme.weight_bits]
        text = f"QAT, {scheme.title}: {trained - control:+.2f} points to the float control (at most {allowed} below)"
        if scheme.ptq:
            text += f"; PTQ: {mean('ptq', scheme.key) - control:+.2f}"
        findings.append((trained >= control - allowed if judged else None, text + "."))
    for scheme in schemes:
        pairs = [(a.accuracy, b.accuracy) for a, b in twins(runs, scheme)]
        if pairs:
            findings.append(_twin_finding(scheme, pairs, judged))
    return findings


def _twin_finding(scheme: Scheme, pairs: Sequence[tuple[float, float]], judged: bool) -> tuple[bool | None, str]:
    """Whether training on integers and the same simulated in float differ by no more than either does from seed to seed."""
    difference = statistics.mean(a - b for a, b in pairs)
    text = f"Trained on integers or with them simulated in float, {scheme.title}: {difference:+.2f} points, mean of {len(pairs)} seed"
    if len(pairs) < 2:
        return None, text + "."
    noise = max(max(way) - min(way) for way in zip(*pairs, strict=True))
    return abs(difference) <= noise if judged else None, f"{text}s (either way alone spreads over {noise:.2f} points from seed to seed)."


def _setup_notes(plan: Plan) -> list[str]:
    weights = sum(p.numel() for p in DigitNet().parameters())
    first, second = plan.float_recipe, plan.qat_recipe
    return [
        f"Network: residual conv net with BatchNorm, {weights:,} parameters; AdamW, one-cycle learning rate, batches of "
        f"{first.batch_size}, random shifts.",
        f"Float: {first.epochs} epochs. The float control and QAT both go on from that model for {second.epochs} more epochs, "
        "with the same recipe and the same batches; the control shows what the extra training alone brings.",
        f"PTQ starts from the control, with {plan.calibration_batches} batches of 64 training digits for calibration.",
        "Simulated: the same prepared model, weights and activations rounded onto the integer grid but multiplied and differentiated "
        f"in float32; from the same float model, on the same batches, for the first {min(plan.twins, len(plan.seeds))} seed(s).",
        "Every layer is quantised, the first and the last too. The test split takes no part in training or calibration.",
        f"torchqat {torchqat.__version__}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), {_machine()}.",
    ]


def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return name


def _listing(out: Path) -> list[tuple[str, str]]:
    kinds = {
        ".safetensors": "integer weights, for torchqat.load",
        ".pt": "TorchScript, for torch.jit.load in Python or C++",
        ".png": "figure",
    }
    files = sorted(path for path in out.rglob("*") if path.suffix in kinds)

    def about(path: Path) -> str:
        if path.suffix == ".safetensors" and path.name.startswith(("float", "control")):
            text = "float weights"
        else:
            text = kinds[path.suffix]
        return f"{text}, {path.stat().st_size / 1024:.1f} KiB"

    return [(str(path.relative_to(out)), about(path)) for path in files]
