"""A separate CMake project finds torchqat, trains a step and runs a scripted converted model, without Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import torchqat

SOURCE = Path(__file__).parents[1] / "cpp" / "consumer"

pytestmark = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")


def run(*command, **kwargs):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def consumer(tmp_path_factory):
    build = tmp_path_factory.mktemp("consumer")
    prefixes = f"{torch.utils.cmake_prefix_path};{torchqat.cmake_prefix_path}"
    run("cmake", "-S", SOURCE, "-B", build, f"-DCMAKE_PREFIX_PATH={prefixes}", "-DCMAKE_BUILD_TYPE=Debug")
    run("cmake", "--build", build)
    return build / "consumer"


def save_tensor(value, path):
    holder = nn.Module()
    holder.register_buffer("value", value)
    torch.jit.script(holder).save(str(path))


def without_python_paths():
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_LIBRARY_PATH")}


def test_trains_a_step(consumer):
    assert "loss" in run(consumer, env=without_python_paths())


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )


@pytest.mark.parametrize("preset", ["int8", "int8_dynamic", "int4_weight_only"])
def test_runs_a_scripted_converted_model(consumer, tmp_path, preset):
    config = getattr(torchqat.QConfig, preset)()
    prepared = torchqat.prepare_qat(small_model(), config)
    prepared.train()
    for _ in range(2):
        prepared(torch.randn(4, 3, 8, 8))
    prepared.eval()
    converted = torchqat.convert(prepared)
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = converted(x)
    torch.jit.freeze(torch.jit.script(converted)).save(str(tmp_path / "model.pt"))
    save_tensor(x, tmp_path / "x.pt")
    save_tensor(expected, tmp_path / "y.pt")
    out = run(consumer, tmp_path / "model.pt", tmp_path / "x.pt", tmp_path / "y.pt", env=without_python_paths())
    assert "all equal" in out
