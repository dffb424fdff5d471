"""Quantization-aware training for PyTorch: what you train is what ships."""

from torchqat._load import build_info, cmake_prefix_path, load_library

load_library()

from torchqat import distributed, nn, observers  # the modules need the ops
from torchqat.checkpoint import load, save
from torchqat.config import QConfig, QuantSpec
from torchqat.convert import convert, integer_weights
from torchqat.coverage import coverage
from torchqat.export import export_onnx
from torchqat.fake_quantize import FakeQuantize
from torchqat.prepare import (
    freeze_batch_norm,
    freeze_observers,
    prepare_qat,
    reuse_weights,
    set_fake_quant,
    unfreeze_observers,
)
from torchqat.ptq import calibrate, quantize_ptq
from torchqat.verify import verify

__version__ = build_info()["version"]
__all__ = [
    "FakeQuantize",
    "QConfig",
    "QuantSpec",
    "__version__",
    "build_info",
    "calibrate",
    "cmake_prefix_path",
    "convert",
    "coverage",
    "distributed",
    "export_onnx",
    "freeze_batch_norm",
    "freeze_observers",
    "integer_weights",
    "load",
    "nn",
    "observers",
    "prepare_qat",
    "quantize_ptq",
    "reuse_weights",
    "save",
    "set_fake_quant",
    "unfreeze_observers",
    "verify",
]
