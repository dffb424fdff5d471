"""What every deployed layer shares: its description, made from a QAT layer or read from a file.

A description is a config (plain JSON data) and canonical tensors: `codes` (int8, or uint8 on an unsigned grid, in the
weight's shape, or transposed where config says so), `weight_scale`, and where they exist `weight_zero_point`, `bias`, `input_scale`,
`input_zero_point`, `output_scale`, `output_zero_point` (of the codes that a layer with an integer edge gives).
Every layer is built from one, so a loaded model and a converted model are the same.
"""

import torch
from torch import Tensor, nn

from torchqat.nn.qat._layer import IntegerWeights, QatLayer
from torchqat.nn.quantized.weight_view import WeightView
from torchqat.observers import apply_keeping_dtype

NO_DATA = (
    "a static activation has seen no data; run some batches in training mode first, or calibrate with torchqat.quantize_ptq; "
    "what the model never calls can stay in float (overrides={name: None}, or example_inputs, of prepare_qat)"
)

# Bits that packed weights come in; others use the next larger.
CONTAINER_BITS = (2, 3, 4, 8)


_OTHER_TENSORS = ("bias", "input_scale", "input_zero_point", "output_scale", "output_zero_point")


class Description:
    """config: JSON data; tensors: canonical tensors by name."""

    def __init__(self, config: dict, tensors: dict[str, Tensor]):
        self.config = config
        self.tensors = tensors


@torch.no_grad()
def describe(layer: QatLayer, kind: str, **geometry) -> Description:
    """The description of what a QAT layer computes in eval mode."""
    quantizer = layer.weight_fake_quant
    codes, scale, zero_point, block_size = layer.kernel_weights()
    _, bias = layer.effective_weight()
    config = {
        "layer": kind,
        "bits": quantizer.spec().bits,
        "quant_min": quantizer.quant_min,
        "quant_max": quantizer.quant_max,
        "block_size": block_size,
        "dtype": str(layer.weight.dtype).removeprefix("torch."),
        **geometry,
    }
    tensors = {
        "codes": codes,
        "weight_scale": scale.to(quantizer.scale_dtype) if quantizer.round_scale else scale.clone(),
    }
    if zero_point is not None:
        tensors["weight_zero_point"] = zero_point
    return described(layer, config, tensors, bias)


def described(layer: QatLayer, config: dict, tensors: dict[str, Tensor], bias: Tensor | None) -> Description:
    """The description of a weight, with the bias and what is known of the input."""
    if layer.weight_turned:
        config["transposed"] = True
    if bias is not None:
        tensors["bias"] = bias.detach().clone()
    activation = layer.activation_fake_quant
    if activation is not None:
        if not activation.has_data():
            raise RuntimeError(NO_DATA)
        config["activation"] = describe_activation(activation)
        if activation.static or activation.learned:
            input_scale, input_zero_point = activation.eval_qparams()
            tensors["input_scale"], tensors["input_zero_point"] = input_scale.clone(), input_zero_point.clone()
    return Description(config, tensors)


def describe_activation(quantizer) -> dict:
    return {
        "granularity": quantizer.layout if quantizer.layout != "fixed" else "tensor",
        "static": quantizer.static or quantizer.learned,
        "quant_min": quantizer.quant_min,
        "quant_max": quantizer.quant_max,
        "symmetric": quantizer.symmetric,
        "group": quantizer.group,
        "format": quantizer.format,
        "along": quantizer.blocks_along,
        "scale_rounding": quantizer.mx_rounding,
        "range_factor": quantizer.range_factor,
    }


class QuantizedLayer(nn.Module):
    """Base of the deployed layers.

    Buffers: `packed_weight` (uint8, with a header) or `codes`, `weight_scale`, and `bias`, `input_scale`,
    `input_zero_point` where they exist. Scales keep their dtype when the model changes dtype. `weight_like` is empty: its dtype is
    the one that the float weight would have.
    """

    # `weight` is for Python that looks at it; a script would compile it.
    __jit_unused_properties__ = ["weight"]

    def __init__(self, description: Description):
        super().__init__()
        self.config = _as_text(description.config)
        self.quant_min = 0
        self.quant_max = 0
        self.per_token = False
        self.symmetric = True
        self.static = False
        tensors = description.tensors
        self.register_buffer("weight_scale", tensors["weight_scale"])
        self.register_buffer("weight_zero_point", tensors.get("weight_zero_point"))
        self.register_buffer("bias", tensors.get("bias"))
        self.register_buffer("input_scale", tensors.get("input_scale"))
        self.register_buffer("input_zero_point", tensors.get("input_zero_point"))
        # Blocks that share a scale, along the dimensions of the codes; whether the float layer's weight is the codes' transpose.
        self.scale_blocks: list[int] = list(description.config["block_size"])
        self.transposed = bool(description.config.get("transposed", False))
        # Files of earlier versions hold no dtype for most layers.
        dtype = getattr(torch, description.config.get("dtype", "float32"))
        self.register_buffer("weight_like", torch.empty(0, dtype=dtype, device=self.weight_scale.device), persistent=False)
        activation = description.config.get("activation")
        if activation is not None:
            self.static = activation["static"]
            self.per_token = activation["granularity"] in ("last", "sample")
            self.symmetric = activation["symmetric"]
            self.quant_min, self.quant_max = activation["quant_min"], activation["quant_max"]

    # Of layers whose buffer `codes` holds the codes in the weight's shape; those that pack them say how to get them back.
    @torch.jit.unused
    def weight_shape(self) -> list[int]:
        return list(self.codes.shape)

    @torch.jit.unused
    def codes_tensor(self) -> Tensor:
        return self.codes

    @torch.jit.unused
    def description(self) -> Description:
        """Config and canonical tensors, as files hold them."""
        tensors = {name: getattr(self, name, None) for name in _OTHER_TENSORS}
        tensors["codes"] = self.codes_tensor()
        tensors["weight_scale"], tensors["weight_zero_point"] = self.canonical_scales()
        return Description(_from_text(self.config), {name: tensor for name, tensor in tensors.items() if tensor is not None})

    @torch.jit.unused
    def canonical_scales(self) -> tuple[Tensor, Tensor | None]:
        """Scale and zero point with an entry a block, or without dimensions for the whole weight."""
        scale, shape = self.weight_scale, self.weight_shape()
        if not self.scale_blocks:
            scale = scale.reshape(-1)[:1].reshape(())
        elif scale.dim() != len(shape):
            scale = scale.reshape([1 if b == -1 else -(-n // b) for n, b in zip(shape, self.scale_blocks)])
        return scale, self.weight_zero_point

    @torch.jit.unused
    def integer_weights(self) -> IntegerWeights:
        """Codes, scale, zero point and block size of the weight."""
        weights = IntegerWeights(self.codes_tensor(), *self.canonical_scales(), list(self.scale_blocks))
        return weights.turned() if self.transposed else weights

    @torch.no_grad()
    @torch.jit.unused
    def weight_values(self) -> Tensor:
        """The float weight that the codes stand for, in the float layer's shape and dtype."""
        codes, scale, zero_point, block_size = self.integer_weights()
        return torch.ops.torchqat.dequantize(codes, scale, zero_point, block_size, torch.float32).to(self.weight_like.dtype)

    @torch.jit.unused
    def constant_weight(self) -> Tensor:
        """For torch.compile: a deployed weight does not change, and a graph that reads only its dtype drops it."""
        return self.weight_values()

    # What torch.compiler.assume_constant_result does, which would import the compiler (0.8 s) for everybody.
    constant_weight._dynamo_marked_constant = True

    @property
    def weight(self) -> Tensor:
        """Stands for the float weight: dtype, device and shape cost nothing, values are dequantised where they are used."""
        if torch.compiler.is_dynamo_compiling():
            return self.constant_weight()
        shape = self.weight_shape()
        return WeightView(self, shape[::-1] if self.transposed else shape, self.weight_like.dtype, self.weight_like.device)

    @torch.jit.ignore
    def _apply(self, fn, recurse=True):
        return apply_keeping_dtype(self, super()._apply, fn, ("weight_scale", "input_scale", "output_scale", "scale_panels"), recurse)

    def extra_repr(self) -> str:
        config = _from_text(self.config)
        return f"{list(self.weight_shape())}, bits={config['bits']}, block_size={config['block_size']}"


def _as_text(config: dict) -> str:
    import json

    return json.dumps(config)


def _from_text(text: str) -> dict:
    import json

    return json.loads(text)


def container_bits(bits: int) -> int:
    return next(b for b in CONTAINER_BITS if b >= bits)


def row_scale(scale: Tensor, rows: int) -> Tensor:
    """[rows] from a scale per tensor or per row."""
    return scale.reshape(-1).expand(rows).contiguous()
