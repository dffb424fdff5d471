"""Layers that train with quantisation; each has `from_float` and the float layer's parameters."""

from torchqat.nn.qat.activation import Activation
from torchqat.nn.qat.add import Add
from torchqat.nn.qat.bare_weight import BareWeight
from torchqat.nn.qat.conv import Conv1d, Conv2d, Conv3d
from torchqat.nn.qat.conv_bn import ConvBn1d, ConvBn2d, ConvBn3d
from torchqat.nn.qat.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from torchqat.nn.qat.embedding import Embedding, EmbeddingBag
from torchqat.nn.qat.linear import Linear
from torchqat.nn.qat.output import Output
from torchqat.nn.qat.pool import AvgPool
from torchqat.nn.qat.transposed_linear import TransposedLinear

__all__ = [
    "Activation",
    "Add",
    "AvgPool",
    "BareWeight",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvBn1d",
    "ConvBn2d",
    "ConvBn3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Embedding",
    "EmbeddingBag",
    "Linear",
    "Output",
    "TransposedLinear",
]
