"""Layers: `nn.qat` trains with quantisation, `nn.quantized` is what ships."""

from torchqat.nn import qat, quantized

__all__ = ["qat", "quantized"]
