"""Suite inference: files of converted models against the float file, and the time until the first output."""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import torchqat
from torchqat.bench.harness import Report, num_threads

CONFIGS = {
    "int8 dynamic": (torchqat.QConfig.int8_dynamic(), 0.27),
    "int8 weight-only": (torchqat.QConfig.int8_weight_only(), 0.27),
    "int4 g32 x int8": (torchqat.QConfig.int4_int8(32), 0.16),
    "int4 g32 weight-only": (torchqat.QConfig.int4_weight_only(32), 0.16),
    "int2 g64 weight-only": (torchqat.QConfig.int2_weight_only(64), None),
}


def run(report: Report) -> None:
    quick = report.options is not None and report.options.quick
    layers, width = (2, 256) if quick else (24, 2048)
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])
    floats = sum(p.numel() * 4 for p in model.parameters())
    x = torch.randn(1, width)
    sizes, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(), num_threads(1):
        for name, (config, _) in CONFIGS.items():
            path = Path(folder) / "model.safetensors"
            torchqat.save(torchqat.convert(torchqat.prepare_qat(model, config)), path)
            sizes[name] = path.stat().st_size / floats
            times = []
            for _ in range(3):
                begin = time.perf_counter()
                torchqat.load(path, model)(x)
                times.append(time.perf_counter() - begin)
            seconds[name] = statistics.median(times)
    limits = {name: limit for name, (_, limit) in CONFIGS.items() if limit is not None}
    if quick:  # names and shapes weigh more in a small file
        limits = {}
    megabytes = floats / 1e6
    report.values(f"file of a {megabytes:.0f} MB float model, over its size in float32", sizes, "x", limits)
    report.values(f"load, pack and first output, {megabytes:.0f} MB in float32, one thread", seconds, "s",
                  {} if quick else dict.fromkeys(seconds, 2.0))  # fmt: skip
