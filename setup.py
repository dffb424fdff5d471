"""Drives the project's one build graph, CMakeLists.txt. torch is never imported here: CMake asks the target interpreter."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Configure, build and install the CMake project into the Python package."""

    def run(self):
        package = (ROOT / "python" if self.inplace or self.editable_mode else Path(self.build_lib).resolve()) / "torchqat"
        build = Path(os.environ.get("TORCHQAT_BUILD_DIR", ROOT / "build" / f"pip-{sys.implementation.cache_tag}"))
        build.mkdir(parents=True, exist_ok=True)
        options = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_INSTALL_PREFIX={package}",
            f"-DCMAKE_BUILD_TYPE={os.environ.get('TORCHQAT_BUILD_TYPE', 'Release')}",
            f"-DTORCHQAT_CUDA={os.environ.get('TORCHQAT_CUDA', 'auto')}",
            *os.environ.get("TORCHQAT_CMAKE_ARGS", "").split(),
        ]
        try:
            import pybind11

            options.append(f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
        except ImportError:
            pass  # CMake reports it, naming the interpreter
        if _has("ninja"):
            options += ["-G", "Ninja"]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        _run(["cmake", "-S", str(ROOT), "-B", str(build), *options])
        _run(["cmake", "--build", str(build), "--parallel", jobs])
        _run(["cmake", "--install", str(build)])


def _has(program):
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _run(command):
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"torchqat: building failed in `{' '.join(command[:5])} ...`; the reason is in the lines above")


setup(ext_modules=[Extension("torchqat._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
