"""`python -m torchqat bench`: kernels and steps against what a user would pick instead, with ratios and targets.

A suite is a list of part modules in this package; each part defines `run(report)` and adds groups to the Report
(see harness.py). `report.options.quick` asks for small sizes, `report.options.compiled` for torch.compile baselines.
"""

import argparse
import importlib
import os

import torch

# suite -> its parts, run in this order.
SUITES: dict[str, list[str]] = {
    "fake_quant": ["fake_quant"],
    "inference": ["inference", "conv_inference", "inference_grouped", "inference_nets", "inference_files"],
    "train_step": ["train_step", "conv_train_step", "train_nets"],
}
# The same with --device cuda.
CUDA_SUITES: dict[str, list[str]] = {
    "fake_quant": ["cuda_fake_quant"],
    "inference": ["cuda_inference"],
    "train_step": ["cuda_train_step"],
}

# --isa LEVEL: what holds torch, MKL, oneDNN and OpenVINO to about the same instructions. Each reads its variable at its first
# use, so that setting them after the import of torch is early enough. onnxruntime has no such setting.
PEER_ISA: dict[str, dict[str, str]] = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avxvnni": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "amx": {},
}


def _thread_counts(text: str) -> tuple[int, ...]:
    counts = {torch.get_num_threads() if part == "all" else int(part) for part in text.split(",")}
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"thread counts must be positive, got {text}")
    return tuple(sorted(counts))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the bench command."""
    parser.add_argument("--suite", action="append", choices=sorted(SUITES), help="which suite (default: all)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where (default: cpu)")
    parser.add_argument("--part", help="only this part of the suite")
    parser.add_argument("--threads", type=_thread_counts, help="thread counts, e.g. 1 or 1,all (default: 1,all)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measuring time per group (default: 2)")
    parser.add_argument("--quick", action="store_true", help="small sizes and short measurements")
    parser.add_argument("--compiled", action="store_true", help="also measure torch.compile of the peers")
    parser.add_argument(
        "--isa", choices=sorted(PEER_ISA), help="hold torchqat, torch, oneDNN and OpenVINO to a CPU level (onnxruntime cannot be)"
    )
    parser.add_argument("--json", metavar="PATH", help="write the rows as JSON")


def hold_to_isa(level: str) -> None:
    """Measure as on a CPU of this level: sets torchqat's level and the variables of PEER_ISA.

    Raises:
        SystemExit: where this CPU or build lacks the level.
    """
    from torchqat import _C

    if level not in _C.supported_isas():
        raise SystemExit(f"bench: --isa must be one of {', '.join(_C.supported_isas())} on this CPU, got {level}")
    torch.ops.torchqat._set_cpu_isa(level)
    os.environ.update({"TORCHQAT_CPU_ISA": level, **PEER_ISA[level]})
    held = ", ".join(f"{name}={value}" for name, value in PEER_ISA[level].items())
    if held:
        print(f"held to {level}: {held}; onnxruntime is not held")


def require_cuda() -> None:
    """Raises SystemExit with the reason where nothing can be measured on a GPU."""
    import torchqat  # noqa: F401  registers the ops

    if not torch.cuda.is_available():
        raise SystemExit("bench: --device cuda needs a CUDA device; torch.cuda.is_available() is False")
    if not torch._C._dispatch_has_kernel_for_dispatch_key("torchqat::fake_quantize", "CUDA"):
        raise SystemExit("bench: --device cuda needs torchqat built with its CUDA kernels (TORCHQAT_CUDA=on)")


def run_options(options: argparse.Namespace) -> int:
    """Run what parsed options ask for; returns the number of targets missed."""
    from torchqat.bench.harness import Report

    on_cuda = options.device == "cuda"
    if on_cuda:
        require_cuda()
    if options.isa:
        hold_to_isa(options.isa)
    table = CUDA_SUITES if on_cuda else SUITES
    suites = options.suite or list(table)
    report = Report(
        ", ".join(suites),
        threads=(1,) if on_cuda else options.threads,
        seconds=0.2 if options.quick else options.seconds,
        options=options,
        clock="cuda" if on_cuda else "auto",
    )
    report.header()
    for suite in suites:
        for part in table[suite]:
            if options.part in (None, part):
                importlib.import_module(f"torchqat.bench.{part}").run(report)
    return report.finish(options.json)


def run(argv: list[str] | None = None) -> int:
    """Run `python -m torchqat bench ARGV`; returns the number of targets missed."""
    parser = argparse.ArgumentParser(prog="python -m torchqat bench", description=__doc__.splitlines()[0])
    add_arguments(parser)
    return run_options(parser.parse_args(argv))
