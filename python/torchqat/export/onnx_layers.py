"""Deployed layers written as Q/DQ: the modules that stand in for them while torch.onnx traces the model.

Each is built from a layer's description (nn/quantized/_layer.py) and computes with float tensors that lie on the trained grids.
Grids that QuantizeLinear cannot express (dynamic, or wider than 8 bits) are written with elementary ops.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchqat.nn.qat.activation import apply_function


class _QuantizeDequantize(torch.autograd.Function):
    """QuantizeLinear, Clip for a range narrower than the type's, DequantizeLinear."""

    @staticmethod
    def forward(ctx, x, scale, zero_point, quant_min, quant_max):
        return torch.ops.torchqat.fake_quantize(x, scale, zero_point.to(torch.int32), [], quant_min, quant_max)

    @staticmethod
    def symbolic(g, x, scale, zero_point, quant_min, quant_max):
        unsigned = quant_min >= 0
        codes = g.op("QuantizeLinear", x, scale, zero_point)
        if (quant_min, quant_max) != ((0, 255) if unsigned else (-128, 127)):
            kind = torch.uint8 if unsigned else torch.int8
            low, high = (g.op("Constant", value_t=torch.tensor(v, dtype=kind)) for v in (quant_min, quant_max))
            codes = g.op("Clip", codes, low, high)
        return g.op("DequantizeLinear", codes, scale, zero_point).setType(x.type())


class _Dequantize(torch.autograd.Function):
    """DequantizeLinear of weight codes: per tensor (0-d scale), per channel of axis 0, or in groups along axis 1."""

    @staticmethod
    def forward(ctx, codes, scale, zero_point, group):
        blocks = [] if scale.dim() == 0 else [1, group] + [1] * (codes.dim() - 2) if group else [1] + [-1] * (codes.dim() - 1)
        if scale.dim() == 1:
            scale = scale.reshape([-1] + [1] * (codes.dim() - 1))
        if zero_point is not None:
            zero_point = zero_point.to(torch.int32).reshape(scale.shape)
        return torch.ops.torchqat.dequantize(codes, scale, zero_point, blocks, torch.float32)

    @staticmethod
    def symbolic(g, codes, scale, zero_point, group):
        attributes = {}
        if scale.type().dim() != 0:
            attributes["axis_i"] = 1 if group else 0
        if group:
            attributes["block_size_i"] = group
        inputs = (codes, scale) if zero_point is None else (codes, scale, zero_point)
        out = g.op("DequantizeLinear", *inputs, **attributes)
        return out.setType(scale.type().with_sizes(codes.type().sizes()))


class OnnxWeight(nn.Module):
    """A weight as an initializer of codes and its DequantizeLinear. Buffers: codes, scale, code_zero (None: symmetric)."""

    def __init__(self, config: dict, tensors: dict[str, Tensor]):
        super().__init__()
        codes = tensors["codes"].cpu()
        scale = tensors["weight_scale"].float().cpu()
        zero = tensors.get("weight_zero_point")
        zero = None if zero is None else zero.cpu().to(codes.dtype).reshape(scale.shape)
        block = list(config["block_size"])
        self.columns = codes.shape[1]
        self.group = 0
        self.bits = config["bits"]
        if not block or all(b == -1 for b in block):
            scale = scale.reshape(())
        elif block[0] == 1 and all(b == -1 for b in block[1:]):
            scale = scale.reshape(-1)
        else:
            self.group = codes.shape[1] if block[1] == -1 else min(block[1], codes.shape[1])
            zero = None if zero is None else self._spread(zero, block, codes.shape)
            scale = self._spread(scale, block, codes.shape)
            # The operator wants whole groups; the columns added here are cut off again.
            short = -codes.shape[1] % self.group
            codes = F.pad(codes, [0, 0] * (codes.dim() - 2) + [0, short])
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("code_zero", None if zero is None else zero.reshape(scale.shape))

    @staticmethod
    def _spread(values: Tensor, block: list[int], shape) -> Tensor:
        """One entry per element, except along axis 1, where there is one per group."""
        for axis, (size, length) in enumerate(zip(block, shape, strict=True)):
            if axis != 1:
                values = values.repeat_interleave(length if size == -1 else size, axis).narrow(axis, 0, length)
        return values.contiguous()

    def forward(self) -> Tensor:
        weight = _Dequantize.apply(self.codes, self.scale, self.code_zero, self.group)
        return weight if weight.shape[1] == self.columns else weight[:, : self.columns]


class OnnxActivation(nn.Module):
    """The input's grid: Q/DQ where it is static and fits 8 bits, elementary ops otherwise."""

    def __init__(self, activation: dict, scale: Tensor | None, zero_point: Tensor | None):
        super().__init__()
        self.low, self.high = activation["quant_min"], activation["quant_max"]
        self.symmetric, self.granularity = activation["symmetric"], activation["granularity"]
        self.format, self.group = activation.get("format", ""), activation.get("group", 0)
        self.static = scale is not None
        self.by_linear = self.static and (0 <= self.low and self.high <= 255 or -128 <= self.low and self.high <= 127)
        if self.format or self.granularity == "group":
            raise ValueError(f"no Q/DQ form for activations of {self.format or 'groups'}")
        if self.static:
            kind = torch.float32 if not self.by_linear else torch.uint8 if self.low >= 0 else torch.int8
            zero = torch.zeros(()) if zero_point is None else zero_point.detach().cpu().reshape(())
            self.register_buffer("scale", scale.detach().float().cpu().reshape(()))
            self.register_buffer("zero_point", zero.to(kind))

    def forward(self, x: Tensor) -> Tensor:
        if self.by_linear:
            return _QuantizeDequantize.apply(x, self.scale, self.zero_point, self.low, self.high)
        if self.static:
            scale, zero = self.scale, self.zero_point
        else:
            scale, zero = self._from_data(x)
        codes = torch.clamp(torch.round(x / scale) + zero, self.low, self.high)
        return (codes - zero) * scale

    def _from_data(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dims = {"last": [-1], "sample": list(range(1, x.dim()))}.get(self.granularity, list(range(x.dim())))
        if self.symmetric:
            scale = x.abs().amax(dims, keepdim=True) / self.high
            return torch.where(scale > 0, scale, torch.ones_like(scale)), torch.zeros_like(scale)
        low = x.amin(dims, keepdim=True).clamp(max=0.0)
        scale = (x.amax(dims, keepdim=True).clamp(min=0.0) - low) / (self.high - self.low)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return scale, torch.clamp(torch.round(self.low - low / scale), self.low, self.high)


def _clipping(config: dict, tensors: dict[str, Tensor]) -> tuple[bool, float | None, float | None]:
    """ReLU, and the lowest and highest value that a layer with an integer edge lets through; None where its grid ends there
    anyway. (The grid itself is applied by the layer that reads it.)"""
    output = config.get("output")
    if output is None:
        return False, None, None
    scale, zero_point = float(tensors["output_scale"]), int(tensors["output_zero_point"])
    low, high = output["quant_min"], output["quant_max"]
    least, most = (0, 255) if low >= 0 else (-128, 127)
    return (
        output["relu"],
        None if low == least else (low - zero_point) * scale,
        None if high == most else (high - zero_point) * scale,
    )


def _clipped(y: Tensor, output: tuple[bool, float | None, float | None]) -> Tensor:
    relu, low, high = output
    if relu:
        y = torch.relu(y)
    return y if low is None and high is None else torch.clamp(y, low, high)


class _Layer(nn.Module):
    def __init__(self, config: dict, tensors: dict[str, Tensor]):
        super().__init__()
        self.config = config
        self.weight = OnnxWeight(config, tensors)
        activation = config.get("activation")
        self.activation = None
        if activation is not None:
            self.activation = OnnxActivation(activation, tensors.get("input_scale"), tensors.get("input_zero_point"))
        self.output = _clipping(config, tensors)
        bias = tensors.get("bias")
        # onnxruntime rounds a bias that belongs to such an operator to steps of input scale times weight scale. With 8 bits on both
        # sides that is far below a code; with fewer it is not, and there the bias is an addition of its own.
        apart = self.activation is not None and self.activation.by_linear and (
            self.weight.bits < 8 or self.activation.high - self.activation.low < 254
        )
        bias = None if bias is None else bias.detach().float().cpu()
        self.register_buffer("bias", None if apart else bias)
        self.register_buffer("added_bias", bias if apart else None)

    def rounded(self, x: Tensor) -> Tensor:
        return x if self.activation is None else self.activation(x)

    def with_bias(self, y: Tensor, dims_after: int = 0) -> Tensor:
        """y with a bias that is added apart; dims_after: how many dimensions follow the channels."""
        return y if self.added_bias is None else y + self.added_bias.reshape([-1] + [1] * dims_after)


class OnnxLinear(_Layer):
    """[..., K] -> [..., N]."""

    def forward(self, input: Tensor) -> Tensor:
        y = self.with_bias(F.linear(self.rounded(input), self.weight(), self.bias))
        return _clipped(y, self.output)


class OnnxConv(_Layer):
    """[N, C, *spatial] or [C, *spatial]."""

    def forward(self, input: Tensor) -> Tensor:
        config = self.config
        weight = self.weight()
        spatial = weight.dim() - 2
        batched = input.dim() == spatial + 2
        x = self.rounded(input if batched else input.unsqueeze(0))
        if config["explicit_padding"]:
            x = F.pad(x, config["explicit_padding"], mode=config["explicit_mode"])
        conv = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
        y = conv(
            x, weight, self.bias, config["stride_list"], config["padding_list"], config["dilation_list"], config["groups"]
        )
        y = self.with_bias(y, spatial)
        return _clipped(y if batched else y.squeeze(0), self.output)


class OnnxConvTranspose(_Layer):
    """[N, C, *spatial] or [C, *spatial]. The weight's codes lie with output channels first, as scales want them."""

    def __init__(self, config: dict, tensors: dict[str, Tensor]):
        block = list(config["block_size"])
        turned = dict(tensors)
        for name in ("codes", "weight_scale", "weight_zero_point"):
            if turned.get(name) is not None and turned[name].dim() == tensors["codes"].dim():
                turned[name] = turned[name].transpose(0, 1)
        super().__init__({**config, "block_size": [block[1], block[0], *block[2:]] if block else block}, turned)

    def forward(self, input: Tensor) -> Tensor:
        config = self.config
        weight = self.weight().transpose(0, 1)
        spatial = weight.dim() - 2
        batched = input.dim() == spatial + 2
        x = self.rounded(input if batched else input.unsqueeze(0))
        conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
        y = conv(
            x, weight, self.bias, config["stride_list"], config["padding_list"], config["output_padding_list"], config["groups"],
            config["dilation_list"],
        )  # fmt: skip
        y = self.with_bias(y, spatial)
        return y if batched else y.squeeze(0)


class OnnxEmbedding(_Layer):
    """Integer indices [*] -> [*, D]."""

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight())


class OnnxEmbeddingBag(_Layer):
    """Integer indices [bags, length] -> [bags, D]."""

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        if offsets is not None or input.dim() != 2:
            raise ValueError("export_onnx: EmbeddingBag: indices must have shape [bags, length], without offsets")
        rows, mode, padding = F.embedding(input, self.weight()), self.config["mode"], self.config["padding_idx"]
        counted = (input != padding).unsqueeze(-1)
        count = counted.sum(1)
        if mode == "max":
            largest = rows.masked_fill(~counted, float("-inf")).amax(1)
            return torch.where(count > 0, largest, torch.zeros_like(largest))
        rows = rows * counted
        if per_sample_weights is not None:
            rows = rows * per_sample_weights.unsqueeze(-1)
        return rows.sum(1) / count.clamp(min=1) if mode == "mean" else rows.sum(1)


class OnnxForm(nn.Module):
    """An operation on rounded inputs: the base of every integer form without weights."""

    def __init__(self, config: dict, tensors: dict[str, Tensor]):
        super().__init__()
        self.config = config
        self.inputs = nn.ModuleList(
            OnnxActivation(grid, tensors[f"input_scale_{i}"], tensors[f"input_zero_point_{i}"])
            for i, grid in enumerate(config["inputs"])
        )
        self.output = _clipping(config, tensors)


class OnnxAdd(OnnxForm):
    """Shape: two tensors of one shape."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return _clipped(self.inputs[0](first) + self.inputs[1](second), self.output)


class OnnxAvgPool(OnnxForm):
    """[N, C, *spatial] -> [N, C, *spatial']."""

    def forward(self, input: Tensor) -> Tensor:
        x = self.inputs[0](input)
        kernel, stride, padding = (self.config[name] for name in ("kernel_size", "stride", "padding"))
        if not kernel:
            y = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[x.dim() - 3](x, 1)
        else:
            y = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1](x, kernel, stride, padding)
        return _clipped(y, self.output)


class OnnxMaxPool(OnnxForm):
    """[N, C, *spatial] -> [N, C, *spatial']."""

    def forward(self, input: Tensor) -> Tensor:
        arguments = [self.config[name] for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")]
        return (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(arguments[0]) - 1](input, *arguments)


class OnnxActivation256(OnnxForm):
    """The function of a table, at the points of the grid. Shape: any."""

    def forward(self, input: Tensor) -> Tensor:
        return _clipped(apply_function(self.config["function"], self.inputs[0](input), self.config["argument"]), self.output)


class OnnxOutput(OnnxForm):
    """Shape: any."""

    def forward(self, input: Tensor) -> Tensor:
        return self.inputs[0](input)


# By the name that a description carries.
ONNX_LAYERS: dict[str, type[nn.Module]] = {
    "Activation": OnnxActivation256,
    "Add": OnnxAdd,
    "AvgPool": OnnxAvgPool,
    "Conv": OnnxConv,
    "ConvTranspose": OnnxConvTranspose,
    "ConvTransposeWeightOnly": OnnxConvTranspose,
    "ConvWeightOnly": OnnxConv,
    "Embedding": OnnxEmbedding,
    "EmbeddingBag": OnnxEmbeddingBag,
    "Linear": OnnxLinear,
    "LinearGrouped": OnnxLinear,
    "LinearWeightOnly": OnnxLinear,
    "MaxPool": OnnxMaxPool,
    "Output": OnnxOutput,
}
