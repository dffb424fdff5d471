"""Does training on integers learn what float-simulated QAT learns?

Two tasks: a byte-level language model on the docstrings of Python's standard library, and the demo's digits. From one float
checkpoint per seed each trains on in float (the control), with torchqat's integer forward and backward, and with the same
scheme simulated in float, on the same batches. Prints the held-out result, and writes curves, a table and all numbers:

    python benchmarks/train_quality.py [--seeds 3] [--steps 400] [--pretrain 1500] [--tasks bytes digits] [--out benchmarks/results]

The byte model's results stand beside what tables of byte counts predict on the same text (orders 0 to 2), so that one sees
that the model has learned something to lose.
"""

import argparse
import ast
import copy
import datetime
import json
import pathlib
import platform
import statistics
import sysconfig
import time

import torch
from torch import nn
from torch.nn import functional

import torchqat
from torchqat.demo.experiment import simulated

CONTEXT = 128


def corpus() -> torch.Tensor:
    """Docstrings of the standard library (its tests left out), as bytes."""
    texts, root = [], pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests", "idlelib"} & set(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                if text:
                    texts.append(text)
    return torch.frombuffer(bytearray("\n\n".join(texts).encode()), dtype=torch.uint8).long()


def counted_bits_per_byte(train: torch.Tensor, held_out: torch.Tensor, order: int) -> float:
    """What a table of counts that knows `order` bytes before the next one reaches on held_out, a little added to each count."""

    def index(data):
        rows = sum((data[i : len(data) - order + i] << 8 * (order - 1 - i) for i in range(order)), torch.zeros((), dtype=torch.long))
        return rows.expand(len(data) - order), data[order:]

    added, (rows, next_byte) = 0.05, index(train)
    counts = torch.zeros(256**order, 256).index_put_((rows, next_byte), torch.ones(()), accumulate=True)
    rows, next_byte = index(held_out)
    chance = (counts[rows, next_byte] + added) / (counts.sum(1)[rows] + 256 * added)
    return -chance.log2().mean().item()


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, 3 * width, bias=False)
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(self, x):
        n = self.norm1(x)
        q, k, v = (f(n).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        a = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).flatten(2))
        n = self.norm2(x)
        return x + self.down(functional.silu(self.gate(n)) * self.up(n))


class ByteModel(nn.Module):
    def __init__(self, width: int = 128, layers: int = 2, heads: int = 4):
        super().__init__()
        self.embed, self.position = nn.Embedding(256, width), nn.Parameter(torch.zeros(CONTEXT, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.position[: tokens.shape[1]])))


def batch(data: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    starts = torch.randint(len(data) - CONTEXT - 1, (size,), generator=generator)
    return torch.stack([data[s : s + CONTEXT + 1] for s in starts])


def loss_of(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def bits_per_byte(model: nn.Module, rows: torch.Tensor) -> float:
    model.eval()
    value = loss_of(model, rows).item() / 0.6931471805599453
    model.train()
    return value


def train(model: nn.Module, data, held_out, steps: int, rate: float, seed: int) -> list[tuple[int, float]]:
    """AdamW with a cosine schedule; held-out bits per byte ten times on the way."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve = []
    model.train()
    for step in range(1, steps + 1):
        loss = loss_of(model, batch(data, 16, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(steps // 10, 1) == 0:
            curve.append((step, bits_per_byte(model, held_out)))
    return curve


BYTE_SCHEMES = {"int8 dynamic": torchqat.QConfig.int8_dynamic, "int4 g32 x int8": torchqat.QConfig.int4_int8}
DIGIT_SCHEMES = {"int8": 0, "int4 weights": 1, "2-bit weights": 2}

Curves = dict[str, list[list[tuple[int, float]]]]  # name -> per seed: (step, held-out result)


def say(seed: int, name: str, value: float, unit: str, begin: float) -> None:
    print(f"  seed {seed}  {name:28s} {value:.4f} {unit}   {time.perf_counter() - begin:.1f} s", flush=True)


def byte_curves(options: argparse.Namespace) -> Curves:
    data = corpus()
    cut = len(data) * 9 // 10
    held_out = batch(data[cut:], 128, torch.Generator().manual_seed(1))
    levels = {order: counted_bits_per_byte(data[:cut], data[cut:], order) for order in range(3)}
    options.notes["bytes"] = (
        f"{len(data):,} bytes of docstrings, the last tenth held out. Tables of byte counts reach, in bits per byte: "
        + ", ".join(f"{value:.2f} knowing {order} bytes before" for order, value in levels.items())
        + f". The float model was trained for {options.pretrain} steps of 16 x {CONTEXT} bytes before the runs below."
    )
    print(f"byte-level language model: {options.notes['bytes']}", flush=True)
    curves: Curves = {}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        start = ByteModel()
        train(start, data[:cut], held_out, options.pretrain, 2e-3, seed)
        runs = {"float control": copy.deepcopy(start)}
        for name, config in BYTE_SCHEMES.items():
            runs[f"{name}, integer"] = torchqat.prepare_qat(start, config())
            runs[f"{name}, simulated"] = simulated(torchqat.prepare_qat(start, config()))
        for name, model in runs.items():
            begin = time.perf_counter()
            curve = train(model, data[:cut], held_out, options.steps, 5e-4, 100 + seed)
            curves.setdefault(name, []).append(curve)
            say(seed, name, curve[-1][1], "bits per byte", begin)
    return curves


def digit_curves(options: argparse.Namespace) -> Curves:
    from torchqat.demo import experiment, training
    from torchqat.demo.data import load_digits
    from torchqat.demo.model import DigitNet
    from torchqat.demo.schemes import SCHEMES

    data, plan = load_digits(), experiment.Plan()
    recipe = plan.qat_recipe
    options.tested["digits"] = len(data.test_labels)
    print(f"the demo's digits, {len(data.train_labels):,} to train on, {len(data.test_labels):,} to test")
    curves: Curves = {}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        start = DigitNet()
        training.train(start, data, plan.float_recipe, seed)
        runs = {"float control": copy.deepcopy(start)}
        for name, index in DIGIT_SCHEMES.items():
            config = SCHEMES[index].qconfig
            runs[f"{name}, integer"] = torchqat.prepare_qat(start, config())
            runs[f"{name}, simulated"] = simulated(torchqat.prepare_qat(start, config()))
        for name, model in runs.items():
            begin = time.perf_counter()

            def freeze(epoch, model=model, name=name):
                if epoch >= recipe.epochs - plan.frozen_epochs and name != "float control":
                    torchqat.freeze_observers(model)
                    torchqat.freeze_batch_norm(model)

            curve = training.train(model, data, recipe, seed + 1000, on_epoch=freeze)
            curves.setdefault(name, []).append([(i + 1, v) for i, v in enumerate(curve.accuracy)])
            say(seed, name, curve.accuracy[-1], "% right", begin)
    return curves


# Task -> how to get its curves, what they count along, and the unit of the result.
TASKS = {
    "bytes": (byte_curves, "steps after the float checkpoint", "held-out bits per byte"),
    "digits": (digit_curves, "epochs after the float checkpoint", "test accuracy, %"),
}


def plot(curves: Curves, along: str, unit: str, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    schemes = list(dict.fromkeys(name.rsplit(",", 1)[0] for name in curves))
    for name, runs in curves.items():
        for seed, run in enumerate(runs):
            axes.plot(*zip(*run), color=f"C{schemes.index(name.rsplit(',', 1)[0])}", alpha=0.8,
                      linestyle="--" if "simulated" in name else "-", label=name if seed == 0 else None)  # fmt: skip
    axes.set_xlabel(along)
    axes.set_ylabel(unit)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def table(curves: Curves, unit: str, tested: int | None = None) -> list[str]:
    """Markdown: mean and spread of each line, then integer minus simulated beside the noise: the spread of one way over seeds
    (max - min) or, where results are percentages of so many tested samples, their standard error if that is larger.
    """
    seeds = len(next(iter(curves.values())))
    final = {name: [run[-1][1] for run in runs] for name, runs in curves.items()}
    lines = [f"| {unit} | mean of {seeds} seeds | each seed |", "|---|---|---|"]
    lines += [f"| {name} | {statistics.mean(v):.4f} | {', '.join(f'{x:.4f}' for x in v)} |" for name, v in final.items()]
    lines += ["", "| integer - simulated | mean | each seed | spread over seeds | standard error of the test set | within one |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in [n.removesuffix(", integer") for n in curves if n.endswith(", integer")]:
        integer, other = final[f"{name}, integer"], final[f"{name}, simulated"]
        differences = [a - b for a, b in zip(integer, other)]
        mean, spread = statistics.mean(differences), max(max(integer) - min(integer), max(other) - min(other))
        right = statistics.mean(other)
        error = (right * (100 - right) / tested) ** 0.5 if tested else 0.0
        each = ", ".join(f"{d:+.4f}" for d in differences)
        shown = f"{spread:.4f} | {f'{error:.4f}' if tested else '-'}"
        lines.append(f"| {name} | {mean:+.4f} | {each} | {shown} | {'yes' if abs(mean) <= max(spread, error) else 'NO'} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--steps", type=int, default=400, help="steps of the byte model after the float checkpoint")
    parser.add_argument("--pretrain", type=int, default=1500, help="float steps before it")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    options = parser.parse_args()
    options.notes, options.tested = {}, {}
    environment = {
        "torchqat": torchqat.build_info()["version"],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "isa": torch.ops.torchqat._cpu_isa(),
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/train_quality.py --seeds {options.seeds} --steps {options.steps} "
        f"--pretrain {options.pretrain} --tasks {' '.join(options.tasks)}",
    }
    print(", ".join(f"{k} {v}" for k, v in environment.items()))
    options.out.mkdir(parents=True, exist_ok=True)
    text = ["# Integer training against float-simulated QAT", "", "`" + environment["command"] + "`", ""]
    text += [", ".join(f"{k} {v}" for k, v in environment.items() if k != "command"), ""]
    results = {}
    for task in options.tasks:
        curves_of, along, unit = TASKS[task]
        curves = curves_of(options)
        note = options.notes.get(task, "")
        results[task] = {"unit": unit, "along": along, "note": note, "curves": curves}
        lines = table(curves, unit, options.tested.get(task))
        print("\n".join(["", *lines, ""]), flush=True)
        plot(curves, along, unit, options.out / f"train-quality-{task}.png")
        text += [f"## {task}", "", *([note, ""] if note else []), *lines, "", f"![{unit}](train-quality-{task}.png)", ""]
    (options.out / "train-quality.md").write_text("\n".join(text))
    (options.out / "train-quality.json").write_text(json.dumps({"environment": environment, "tasks": results}) + "\n")
    print(f"written: {options.out}/train-quality.md, .json and the curves")


if __name__ == "__main__":
    main()
