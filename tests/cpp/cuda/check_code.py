"""What the compiler made of the kernels, where it decides their speed: read from the objects of `make cuda-check`, no GPU needed.

    python tests/cpp/cuda/check_code.py OBJECT...       (cuobjdump on the PATH, beside nvcc, or in a triton package)

Checked for every architecture in the objects: memory-bound kernels load and store sixteen bytes at once and leave room for every
thread an SM can hold; integer products are on tensor cores, fed by asynchronous copies; nothing that is run often spills.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Rule:
    """kernels: of mangled names; unless: exceptions among them. needs: instructions that must occur, per lowest architecture.

    registers: where an SM holds 2048 threads; where it holds fewer, each may have more.
    """

    what: str
    kernels: str
    unless: str = "$^"
    needs: dict = field(default_factory=dict)
    registers: int = 255
    local_bytes: int = 0
    at_least: int = 1


WIDE = {75: (r"LDG\.E(\.\w+)*\.128", r"STG\.E(\.\w+)*\.128")}
READS_WIDE = {75: (r"LDG\.E(\.\w+)*\.128",)}
TENSOR_CORES = {75: (r"IMMA",), 80: (r"IMMA\.16832", r"LDGSTS", r"LDSM")}

# Threads that an SM holds, of 65536 registers; 2048 unless named.
THREADS = {75: 1024, 86: 1536, 89: 1536, 120: 1536}

# Every packet of a thread in one run: whole tensors, channels, groups. Float64 and structures of many dimensions are not hot.
RULES = [
    Rule("fake-quantise and its relatives, one run per packet", r"15elements_kernelINS0_12FakeQuantizeI.*Lb1E", "FakeQuantizeId", WIDE, 32, at_least=3),
    Rule("float grids, one run per packet", r"elements_kernelI.*FakeQuantizeFloatI.*Lb1E", "FakeQuantizeFloatId", WIDE, 40, at_least=3),
    Rule("backward of fake-quantise", r"apply_mask_kernelI", "apply_mask_kernelId", WIDE, 32, at_least=3),
    Rule("statistics", r"min_max_kernelI.*BlockMapIjLi2EEELi\d+ELi8E", "min_max_kernelId", READS_WIDE, 40, at_least=3),
    Rule("fake-quantise with statistics", r"observed_kernelI.*BlockMapIjLi2EEE", "observed_kernelId", WIDE, 64, at_least=3),
    Rule("scales from blocks in registers", r"14dynamic_kernelI", needs=WIDE, registers=80, at_least=6),
    Rule("rows to int8 codes", r"quantize_rows(_dynamic)?_kernelI", needs=READS_WIDE, registers=80, at_least=6),
    Rule("rows to 8-bit float codes", r"float8_(dynamic|static)_kernelI", needs=READS_WIDE, registers=80, at_least=6),
    Rule("operands of block-scaled products", r"block_float_kernelI", needs=READS_WIDE, registers=40, at_least=6),
    Rule("int8 products in tiles", r"16int8_gemm_kernelI", needs=TENSOR_CORES, local_bytes=64, at_least=6),
    Rule("int8 convolution in tiles", r"conv_gemm_kernelI.*ELb1EE", needs=TENSOR_CORES, at_least=2),
    # Its local memory is the stack of the call that serves odd groups.
    Rule("int8 products of weights in groups", r"grouped_tiles_kernelI", needs={75: (r"IMMA",), 80: (r"IMMA\.16832", r"LDGSTS")}, local_bytes=512, at_least=2),
    Rule("few rows of int8", r"int8_gemm_narrow_kernelI", needs={75: (r"LDG\.E(\.\w+)*\.128", r"IDP\.4A\.U8\.S8")}, registers=128, at_least=3),
    # What a group needs before and after its loop is partly kept in memory on sm_75 and sm_80.
    Rule("few rows of weights in groups", r"21linear_grouped_kernelI", needs=READS_WIDE, registers=168, local_bytes=64, at_least=6),
]


def find_cuobjdump() -> str | None:
    found = shutil.which("cuobjdump")
    if found is None and (nvcc := shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"):
        beside = Path(nvcc).resolve().parent / "cuobjdump"
        found = str(beside) if beside.exists() else None
    if found is None:
        try:
            import triton

            beside = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
            found = str(beside) if beside.exists() else None
        except ImportError:
            pass
    return found


def kernels_of(cuobjdump: str, path: str):
    """(architecture, mangled name, code, registers, bytes of local memory) of every kernel of an object."""
    run = lambda option: subprocess.run([cuobjdump, option, path], capture_output=True, text=True, check=True).stdout
    usage, arch = {}, 0
    name = None
    for line in run("--dump-resource-usage").splitlines():
        if match := re.search(r"arch = sm_(\d+)", line):
            arch = int(match[1])
        elif match := re.search(r"Function (\S+):", line):
            name = match[1]
        elif name is not None and (match := re.search(r"REG:(\d+) STACK:(\d+)", line)):
            usage[arch, name] = int(match[1]), int(match[2])
            name = None
    for part in re.split(r"(?=arch = sm_)", run("--dump-sass"))[1:]:
        arch = int(re.match(r"arch = sm_(\d+)", part)[1])
        for function in part.split("Function : ")[1:]:
            name, _, code = function.partition("\n")
            yield arch, name.strip(), code, *usage.get((arch, name.strip()), (0, 0))


def faults(rule: Rule, arch: int, code: str, registers: int, stack: int):
    needed = rule.needs[max(a for a in rule.needs if a <= arch)] if rule.needs else ()
    for pattern in needed:
        if not re.search(r"\b" + pattern, code):
            yield f"no {pattern}"
    most = min(255, rule.registers * 2048 // THREADS.get(arch, 2048))
    if registers > most:
        yield f"{registers} registers, at most {most} wanted"
    if stack > rule.local_bytes and re.search(r"\b(LDL|STL)\b", code):
        yield f"{stack} bytes of local memory, at most {rule.local_bytes} wanted"


def main(paths: list[str]) -> int:
    cuobjdump = find_cuobjdump()
    if cuobjdump is None:
        print("cuobjdump: not found; the kernels' code was not looked at")
        return 0
    seen, wrong = {}, 0
    for path in paths:
        for arch, name, code, registers, stack in kernels_of(cuobjdump, path):
            for rule in RULES:
                if not re.search(rule.kernels, name) or re.search(rule.unless, name):
                    continue
                most = seen.setdefault((rule.what, arch), [0, 0])
                most[0] += 1
                most[1] = max(most[1], registers)
                for fault in faults(rule, arch, code, registers, stack):
                    wrong += 1
                    print(f"sm_{arch} {name}: {fault}")
    architectures = sorted({arch for _, arch in seen})
    for rule in RULES:
        for arch in architectures:
            count, registers = seen.get((rule.what, arch), (0, 0))
            print(f"sm_{arch}  {rule.what}: {count} kernels, at most {registers} registers")
            if count < rule.at_least:
                wrong += 1
                print(f"sm_{arch}  {rule.what}: at least {rule.at_least} kernels expected")
    print(f"{wrong} faults" if wrong or not architectures else "as wanted")
    return 1 if wrong or not architectures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
