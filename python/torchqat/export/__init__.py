"""Files for other runtimes, on the grid that was trained."""

from torchqat.export.onnx import export_onnx

__all__ = ["export_onnx"]
