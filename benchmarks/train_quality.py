"""Does training on integers learn what float-simulated QAT learns?

A byte-level language model on the docstrings of Python's standard library. From one float checkpoint per seed it trains on
in float (the control), with torchqat's integer forward and backward, and with the same scheme simulated in float. Prints
held-out bits per byte and writes the curves:

    python benchmarks/train_quality.py [--seeds 3] [--steps 300] [--out train-quality.png]
"""

import argparse
import ast
import copy
import pathlib
import statistics
import sysconfig
import time

import torch
from torch import nn
from torch.nn import functional

import torchqat

CONTEXT = 128


def corpus() -> torch.Tensor:
    """Docstrings of the standard library, as bytes."""
    texts = []
    for path in sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
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
    def __init__(self, width: int = 128, layers: int = 3, heads: int = 4):
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


def simulated(model: nn.Module) -> nn.Module:
    """The same prepared model with every layer on its float-simulated path."""
    for module in model.modules():
        if getattr(module, "integer", False):
            module.integer = False
    return model


SCHEMES = {
    "int8 dynamic": torchqat.QConfig.int8_dynamic,
    "int4 g32 x int8": torchqat.QConfig.int4_int8,
}


def plot(curves: dict[str, list[list[tuple[int, float]]]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for index, (name, runs) in enumerate(curves.items()):
        for seed, run in enumerate(runs):
            axes.plot(*zip(*run), color=f"C{index}", alpha=0.8, linestyle="--" if "simulated" in name else "-",
                      label=name if seed == 0 else None)  # fmt: skip
    axes.set_xlabel("step after the float checkpoint")
    axes.set_ylabel("held-out bits per byte")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="steps after the float checkpoint")
    parser.add_argument("--pretrain", type=int, default=500, help="float steps before it")
    parser.add_argument("--out", default="train-quality.png")
    options = parser.parse_args()
    data = corpus()
    cut = len(data) * 9 // 10
    held_out = batch(data[cut:], 64, torch.Generator().manual_seed(1))
    info = torchqat.build_info()
    print(f"{len(data):,} bytes; torch {torch.__version__}, torchqat {info['version']}, {torch.ops.torchqat._cpu_isa()}")
    curves: dict[str, list] = {}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        start = ByteModel()
        train(start, data[:cut], held_out, options.pretrain, 2e-3, seed)
        runs = {"float control": copy.deepcopy(start)}
        for name, config in SCHEMES.items():
            runs[f"{name}, integer"] = torchqat.prepare_qat(start, config())
            runs[f"{name}, simulated"] = simulated(torchqat.prepare_qat(start, config()))
        for name, model in runs.items():
            begin = time.perf_counter()
            curve = train(model, data[:cut], held_out, options.steps, 5e-4, 100 + seed)
            curves.setdefault(name, []).append(curve)
            seconds = time.perf_counter() - begin
            print(f"  seed {seed}  {name:26s} {curve[-1][1]:.4f} bits per byte   {seconds:.1f} s", flush=True)
    print(f"\n{'held-out bits per byte':28s} mean    spread over {options.seeds} seeds (max - min)")
    for name, runs in curves.items():
        final = [run[-1][1] for run in runs]
        print(f"{name:28s} {statistics.mean(final):.4f}  {max(final) - min(final):.4f}")
    for name in SCHEMES:
        pairs = zip(curves[f"{name}, integer"], curves[f"{name}, simulated"])
        differences = [a[-1][1] - b[-1][1] for a, b in pairs]
        print(f"{name}: integer - simulated = {statistics.mean(differences):+.4f} (each seed: "
              + ", ".join(f"{d:+.4f}" for d in differences) + ")")  # fmt: skip
    plot(curves, options.out)
    print(f"curves: {options.out}")


if __name__ == "__main__":
    main()
