"""3-D weights that a module of one's own multiplies in its forward (mixtures of experts), kept as codes.

A weight is turned into floats when the forward reads it, for as long as that forward takes: one module's weights are in float at a time.
"""

import torch
from torch import Tensor

from torchqat.nn.bare_weight import BareForm
from torchqat.nn.quantized._layer import Description, QuantizedLayer, container_bits, describe
from torchqat.nn.quantized.float_grid import OnFloatGrid, describe_float, element_values


class BareWeight(BareForm, QuantizedLayer):
    """`(q - z) * s` of integer codes. Made by torchqat.convert.

    Shape: the output is the weight's, [experts, out, in] or [experts, in, out].
    """

    def __init__(self, description: Description):
        super().__init__(description)
        codes, config = description.tensors["codes"], description.config
        self.shape, self.summed_axis = list(codes.shape), config["summed_axis"]
        self.output_dtype = getattr(torch, config["dtype"])
        block = config["block_size"] or [-1, -1, -1]
        self.rows_per_scale, self.group_size = block[3 - self.summed_axis], block[self.summed_axis]
        # Lying as a table of the experts' output channels, which are looked up all at once.
        packed = torch.ops.torchqat.embedding_pack(self.as_matrix(codes).contiguous(), container_bits(config["bits"]))
        self.register_buffer("packed_weight", packed)

    @classmethod
    def describe(cls, layer) -> Description:
        return describe(layer, "BareWeight", summed_axis=layer.summed_axis)

    @torch.jit.unused
    def weight_shape(self) -> list[int]:
        return self.shape

    @torch.jit.unused
    def codes_tensor(self) -> Tensor:
        return self.as_weight(torch.ops.torchqat.embedding_unpack(self.packed_weight), self.shape[0]).contiguous()

    def by_row(self, scale: Tensor) -> Tensor:
        """Scales or zero points [rows, groups] of the table."""
        if scale.dim() == 0:
            return scale.reshape(1, 1).repeat(self.shape[0] * self.shape[3 - self.summed_axis], 1)
        rows = self.as_matrix(scale).contiguous()
        return rows if self.rows_per_scale == 1 else rows.repeat_interleave(self.rows_per_scale, 0)

    def forward(self) -> Tensor:
        zero_point = self.weight_zero_point
        rows = self.shape[0] * self.shape[3 - self.summed_axis]
        matrix = torch.ops.torchqat.embedding_int(
            torch.arange(rows, device=self.packed_weight.device),
            self.packed_weight,
            self.by_row(self.weight_scale),
            None if zero_point is None else self.by_row(zero_point),
            self.shape[self.summed_axis],
            self.group_size,
            self.output_dtype,
        )
        return self.as_weight(matrix, self.shape[0])


class BareWeightFloatGrid(OnFloatGrid, BareForm, QuantizedLayer):
    """A weight on a float grid. Made by torchqat.convert.

    Shape: the output is the weight's, [experts, out, in] or [experts, in, out].
    """

    def __init__(self, description: Description):
        super().__init__(description)
        config = description.config
        self.block_size, self.summed_axis = list(config["block_size"]), config["summed_axis"]
        self.along, self.output_dtype = self.summed_axis, getattr(torch, config["dtype"])
        self.register_buffer("codes", description.tensors["codes"])
        self.register_buffer("values", element_values(config["element"]).to(self.codes.device), persistent=False)

    @classmethod
    def describe(cls, layer) -> Description:
        described = describe_float(layer, "BareWeightFloatGrid", summed_axis=layer.summed_axis)
        config, tensors, experts = described.config, described.tensors, layer.weight.size(0)
        tensors["codes"] = layer.as_weight(tensors["codes"], experts).contiguous()
        if config["block_size"]:
            # Of the weight with the blocked axis last, as for other layers.
            config["along"], config["block_size"] = layer.summed_axis, [1, *config["block_size"]]
            tensors["weight_scale"] = tensors["weight_scale"].reshape(experts, -1, tensors["weight_scale"].size(1))
        return described

    def forward(self) -> Tensor:
        return self.weight_in(self.output_dtype)
