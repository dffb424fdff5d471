"""Deployed layers: integer weights and integer kernels, nothing of training left. Made by torchqat.convert or load."""

from torchqat.nn.quantized.activation import Activation
from torchqat.nn.quantized.add import Add
from torchqat.nn.quantized.bare_weight import BareWeight, BareWeightFloatGrid
from torchqat.nn.quantized.conv import Conv
from torchqat.nn.quantized.conv_transpose import ConvTranspose, ConvTransposeFloatGrid, ConvTransposeWeightOnly
from torchqat.nn.quantized.conv_weight_only import ConvWeightOnly
from torchqat.nn.quantized.embedding import Embedding, EmbeddingBag
from torchqat.nn.quantized.float_grid import ConvFloatGrid, LinearFloatGrid
from torchqat.nn.quantized.linear import Linear
from torchqat.nn.quantized.linear_grouped import LinearGrouped
from torchqat.nn.quantized.linear_weight_only import LinearWeightOnly
from torchqat.nn.quantized.output import Output
from torchqat.nn.quantized.pool import AvgPool, MaxPool
from torchqat.nn.quantized.sequential import Sequential

__all__ = [
    "Activation",
    "Add",
    "AvgPool",
    "BareWeight",
    "BareWeightFloatGrid",
    "Conv",
    "ConvFloatGrid",
    "ConvTranspose",
    "ConvTransposeFloatGrid",
    "ConvTransposeWeightOnly",
    "ConvWeightOnly",
    "Embedding",
    "EmbeddingBag",
    "Linear",
    "LinearFloatGrid",
    "LinearGrouped",
    "LinearWeightOnly",
    "MaxPool",
    "Output",
    "Sequential",
]
