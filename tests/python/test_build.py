"""The package knows what it was built for, and says so when that no longer holds."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchqat
from torchqat import _C

ROOT = Path(__file__).parents[2]


def in_new_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_build_info_names_the_torch_in_use():
    info = torchqat.build_info()
    assert info["torch_version"] == torch.__version__
    assert info["version"] == torchqat.__version__


def test_another_torch_than_the_built_one_is_one_clear_error():
    done = in_new_process("import torch; torch.__version__ = '2.99.0'; import torchqat")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "built against torch" in last and "2.99.0 is imported" in last and "rebuild" in last


def test_a_missing_torch_is_one_clear_error(tmp_path):
    interpreter = tmp_path / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    done = subprocess.run(
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path / "build"), f"-DPython_EXECUTABLE={interpreter}"],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert "torch >= 2.11 must be installed in" in said and "pip install torch" in said


def test_the_path_can_be_forced_from_the_environment():
    for isa in _C.supported_isas():
        done = in_new_process(
            f"import os; os.environ['TORCHQAT_CPU_ISA'] = '{isa}'; import torchqat, torch; "
            "print(torch.ops.torchqat._cpu_isa())"
        )
        assert done.stdout.strip() == isa


def test_an_unknown_path_is_refused():
    with pytest.raises(ValueError, match="TORCHQAT_CPU_ISA must be one that this CPU supports .*got 'sse9'"):
        torch.ops.torchqat._set_cpu_isa("sse9")
