"""Embedding tables of 8, 4, 3 or 2 bits; rows are turned into floats as they are looked up."""

import torch
from torch import Tensor

from torchqat.nn.quantized._layer import Description, QuantizedLayer, container_bits, describe


class _Table(QuantizedLayer):
    def __init__(self, description: Description):
        super().__init__(description)
        codes = description.tensors["codes"]
        self.num_embeddings, self.embedding_dim = codes.shape
        block = description.config["block_size"] or [-1, -1]
        self.group_size = block[1]
        self.output_dtype = getattr(torch, description.config["dtype"])
        self.rows_shared = block[0] != 1
        if self.rows_shared:
            self.weight_scale = self._by_row(self.weight_scale, block[0])
            if self.weight_zero_point is not None:
                self.weight_zero_point = self._by_row(self.weight_zero_point, block[0])
        self.register_buffer(
            "packed_weight", torch.ops.torchqat.embedding_pack(codes, container_bits(description.config["bits"]))
        )

    @torch.jit.unused
    def _by_row(self, scale: Tensor, block: int) -> Tensor:
        rows = self.num_embeddings if block == -1 else block
        scale = scale.reshape(1, 1) if scale.dim() == 0 else scale
        return scale.repeat_interleave(rows, 0)[: self.num_embeddings].contiguous()

    @torch.jit.unused
    def weight_shape(self) -> list[int]:
        return [self.num_embeddings, self.embedding_dim]

    @torch.jit.unused
    def codes_tensor(self) -> Tensor:
        return torch.ops.torchqat.embedding_unpack(self.packed_weight)


class Embedding(_Table):
    """`y = (q - z) * s` of each row looked up. Made by torchqat.convert.

    Shape: input (integer indices) [*]; output [*, embedding_dim].
    """

    @classmethod
    def describe(cls, layer) -> Description:
        return describe(layer, "Embedding")

    def forward(self, input: Tensor) -> Tensor:
        return torch.ops.torchqat.embedding_int(
            input,
            self.packed_weight,
            self.weight_scale,
            self.weight_zero_point,
            self.embedding_dim,
            self.group_size,
            self.output_dtype,
        )


class EmbeddingBag(_Table):
    """Sums, means or maxima of such rows.

    Shape: as torch.nn.EmbeddingBag.
    """

    def __init__(self, description: Description):
        super().__init__(description)
        self.mode = description.config["mode"]
        self.include_last_offset = description.config["include_last_offset"]
        self.padding_idx = description.config["padding_idx"]

    @classmethod
    def describe(cls, layer) -> Description:
        return describe(
            layer,
            "EmbeddingBag",
            mode=layer.mode,
            include_last_offset=layer.include_last_offset,
            padding_idx=-1 if layer.padding_idx is None else layer.padding_idx,
        )

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        return torch.ops.torchqat.embedding_bag_int(
            input,
            self.packed_weight,
            self.weight_scale,
            self.weight_zero_point,
            self.embedding_dim,
            self.group_size,
            self.output_dtype,
            offsets=offsets,
            per_sample_weights=per_sample_weights,
            mode=self.mode,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
        )
