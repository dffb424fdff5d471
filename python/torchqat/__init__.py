"""Quantization-aware training for PyTorch: what you train is what ships."""

from torchqat._load import build_info, cmake_prefix_path, load_library

load_library()

__version__ = build_info()["version"]
__all__ = ["__version__", "build_info", "cmake_prefix_path"]
