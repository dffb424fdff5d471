"""Layers whose weight lies on a float grid (FP8, FP6, FP4, MX, NVFP4): kept as element codes and scales.

Linear with both sides in 8-bit floats is linear_float8, on FP8 tensor cores where there are some; on CUDA with both sides in MX or
both in NVFP4 it is linear_block_float. The others compute in float; the values are exactly those that were trained.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from torchqat.formats import has_block_product
from torchqat.nn.quantized._layer import Description, QuantizedLayer, described
from torchqat.nn.quantized.conv import GEOMETRY, ConvGeometry
from torchqat.nn.quantized.input_rounding import input_rounding

# Element format: exponent bits, mantissa bits, and the largest exponent of a finite value.
_ELEMENTS = {"e4m3fn": (4, 3, 8), "e5m2": (5, 2, 15), "e3m2": (3, 2, 4), "e2m3": (2, 3, 2), "e2m1": (2, 1, 2)}
_ELEMENT_OF = {
    "mxfp8_e4m3": "e4m3fn",
    "mxfp8_e5m2": "e5m2",
    "mxfp6_e3m2": "e3m2",
    "mxfp6_e2m3": "e2m3",
    "mxfp4": "e2m1",
    "nvfp4": "e2m1",
}
_TENSOR_LEVEL = 448.0 * 6.0


def element_values(element: str) -> Tensor:
    """The value of every code of an element format, sign bit first; codes of NaN and infinity hold the largest value."""
    exponent_bits, mantissa_bits, _ = _ELEMENTS[element]
    codes = torch.arange(1 << (exponent_bits + mantissa_bits), dtype=torch.float32)
    exponent = torch.floor(codes / (1 << mantissa_bits))
    mantissa = codes - exponent * (1 << mantissa_bits)
    bias = (1 << (exponent_bits - 1)) - 1
    normal = (1 + mantissa / (1 << mantissa_bits)) * torch.exp2(exponent - bias)
    positive = torch.where(exponent == 0, mantissa / (1 << mantissa_bits) * 2.0 ** (1 - bias), normal)
    largest = {"e4m3fn": 448.0, "e5m2": 57344.0}.get(element, float("inf"))
    positive = positive.clamp(max=largest)
    return torch.cat([positive, -positive])


def encode(values: Tensor, element: str) -> Tensor:
    """uint8 codes of values that lie on the grid, to within the rounding of a division."""
    table = element_values(element)
    positive = table[: table.numel() // 2]
    middles = (positive[1:] + positive[:-1]) / 2
    # Just above the largest value, by the division's rounding, is not the code of a NaN.
    nearest = torch.bucketize(values.abs().contiguous(), middles).clamp(max=int((positive < positive.max()).sum()))
    return (nearest + values.signbit() * positive.numel()).to(torch.uint8)


def block_scale(weight: Tensor, rounded: Tensor, quantizer) -> Tensor:
    """The scale of every block of a weight in a block format, blocks along the last dimension; rounded is its fake-quantised form."""
    pad = (-weight.shape[-1]) % quantizer.group
    blocks = lambda t: F.pad(t, (0, pad)).unflatten(-1, (-1, quantizer.group)).abs().amax(-1).float()
    if quantizer.format == "nvfp4":
        tensor_scale = weight.abs().max().float() / _TENSOR_LEVEL
        tensor_scale = torch.where(tensor_scale > 0, tensor_scale, torch.ones_like(tensor_scale))
        level = (blocks(weight) / 6.0 / tensor_scale).clamp(2.0**-6, 448.0)
        return level.to(torch.float8_e4m3fn).float() * tensor_scale
    # Any power of two that puts every value on the grid will do: the one that the largest value asks for, or twice it.
    element = _ELEMENT_OF[quantizer.format]
    largest = blocks(rounded)
    exponent = torch.frexp(largest)[1] - 1 - _ELEMENTS[element][2]
    scale = torch.ldexp(torch.ones_like(largest), exponent.clamp(min=-126))
    top = element_values(element).max()
    return torch.where(largest == 0, torch.ones_like(scale), torch.where(largest / scale > top, scale * 2, scale))


def expanded(scale: Tensor, shape: list[int], block_size: list[int]) -> Tensor:
    """A scale per block, repeated so that it broadcasts with the blocked tensor."""
    for dim in range(len(block_size)):
        if block_size[dim] > 1:
            scale = scale.repeat_interleave(block_size[dim], dim).narrow(dim, 0, shape[dim])
    return scale


@torch.no_grad()
def describe_float(layer, kind: str, **geometry) -> Description:
    """The description of a layer with a float-grid weight; raises RuntimeError if its codes would not give it back exactly."""
    quantizer = layer.weight_fake_quant
    weight, bias = layer.effective_weight()
    weight = weight.detach().float()
    rounded = quantizer(weight)
    element = _ELEMENT_OF.get(quantizer.format, quantizer.format)
    along = quantizer.blocks_along if quantizer.block_format else -1
    moved, rounded = weight.movedim(along, -1), rounded.movedim(along, -1)
    if quantizer.block_format:
        scale, block_size = block_scale(moved, rounded, quantizer), [1] * (weight.dim() - 1) + [quantizer.group]
    else:
        scale, block_size = quantizer.qparams(weight)[0], list(quantizer.block_size)
    spread = expanded(scale, list(moved.shape), block_size)
    codes = encode(rounded / spread, element)
    if not torch.equal(element_values(element)[codes.long()] * spread, rounded):
        raise RuntimeError(f"the weight has no exact form in {quantizer.format}; is it finite?")
    codes = codes.movedim(-1, along).clone(memory_format=torch.contiguous_format)
    config = {
        "layer": kind,
        "bits": 4 if element == "e2m1" else 8,
        "element": element,
        "format": quantizer.format,
        "along": along,
        "block_size": block_size,
        "dtype": str(layer.weight.dtype).removeprefix("torch."),
        **geometry,
    }
    return described(layer, config, {"codes": codes, "weight_scale": scale}, bias)


def decoded(
    codes: Tensor, values: Tensor, scale: Tensor, block_size: list[int], along: int, dtype: torch.dtype
) -> Tensor:
    moved = values[codes.movedim(along, -1).long()]
    return (moved * expanded(scale, moved.shape, block_size)).movedim(-1, along).to(dtype)


class OnFloatGrid:
    """Mixed into deployed layers that hold `codes` of an element format and its `values`, in blocks of `block_size` along `along`."""

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        return decoded(self.codes, self.values, self.weight_scale, self.block_size, self.along, dtype)

    @torch.no_grad()
    @torch.jit.unused
    def weight_values(self) -> Tensor:
        weight = self.weight_in(self.weight_like.dtype)
        return weight.t() if self.transposed else weight


class LinearFloatGrid(OnFloatGrid, QuantizedLayer):
    """Linear on a float-grid weight. Made by torchqat.convert.

    Shape: input [..., in_features]; output [..., out_features].
    """

    block_size: list[int]

    def __init__(self, description: Description):
        super().__init__(description)
        config = description.config
        self.block_size, self.along = list(config["block_size"]), config["along"]
        self.float8, self.element = config.get("float8", False), config["element"]
        self.register_buffer("codes", description.tensors["codes"])
        self.register_buffer("values", element_values(config["element"]).to(self.codes.device), persistent=False)
        self.input_rounding = input_rounding(config, description.tensors)
        self.format, rounding = config["format"], self.input_rounding
        self.block_product = rounding is not None and has_block_product(
            rounding.format, rounding.group, self.format, self.block_size[-1] if self.block_size else 0
        )

    @classmethod
    def describe(cls, layer) -> Description:
        return describe_float(layer, "LinearFloatGrid", float8=layer.float8)

    def forward(self, input: Tensor) -> Tensor:
        if self.input_rounding is not None:
            if self.float8 and input.dtype != torch.float64:
                return torch.ops.torchqat.linear_float8(
                    input,
                    self.codes,
                    self.weight_scale,
                    self.bias,
                    self.input_rounding.row_scale(input),
                    self.input_rounding.format,
                    self.element,
                )
            if self.block_product and input.is_cuda:
                dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
                return torch.ops.torchqat.linear_block_float(
                    self.input_rounding(input),
                    self.weight_in(dtype),
                    self.bias,
                    self.input_rounding.format,
                    self.format,
                    input,
                )
            input = self.input_rounding(input)
        weight = self.weight_in(input.dtype)
        return F.linear(input, weight, self.bias)


class ConvFloatGrid(OnFloatGrid, ConvGeometry):
    """Convolution on a float-grid weight, computed in float. Made by torchqat.convert.

    Shape: input [N, C, *spatial] or [C, *spatial]; output [N, out_channels, *spatial'].
    """

    block_size: list[int]
    explicit_padding: list[int]

    def __init__(self, description: Description):
        super().__init__(description)
        config = description.config
        self.block_size, self.along = list(config["block_size"]), config["along"]
        codes = description.tensors["codes"]
        self.spatial_dims = codes.dim() - 2
        self.register_buffer("codes", codes)
        self.register_buffer("values", element_values(config["element"]).to(codes.device), persistent=False)
        self.input_rounding = input_rounding(config, description.tensors)

    @classmethod
    def describe(cls, layer) -> Description:
        return describe_float(layer, "ConvFloatGrid", **{name: getattr(layer, name) for name in GEOMETRY})

    def forward(self, input: Tensor) -> Tensor:
        batched = input.dim() == self.spatial_dims + 2
        if not batched:
            input = input.unsqueeze(0)
        if self.input_rounding is not None:
            input = self.input_rounding(input)
        weight = self.weight_in(input.dtype)
        y = self.float_conv(self.padded(input), weight)
        return y if batched else y.squeeze(0)
