"""Embedding tables with quantised rows, for training."""

import torch.nn.functional as F
from torch import Tensor, nn

from torchqat.config import QConfig
from torchqat.nn.qat._layer import QatLayer


class Embedding(QatLayer, nn.Embedding):
    """Rows of the quantised table. An activation spec has no meaning here (the input is indices) and is left out.

    Only the rows looked up are quantised, which gives the same values as quantising the table.

    Shape: input (integer indices) [*]; output [*, embedding_dim].

    Example:
        >>> import torch, torchqat
        >>> layer = torchqat.nn.qat.Embedding.from_float(torch.nn.Embedding(10, 4), torchqat.QConfig.int8_weight_only())
        >>> layer(torch.tensor([1, 2])).shape
        torch.Size([2, 4])
    """

    quantizes_whole_weight = False

    def configure(self, qconfig: QConfig) -> None:
        if qconfig.weight is None:
            raise ValueError("nn.qat.Embedding: weight must be a QuantSpec")
        if self.max_norm is not None:
            raise ValueError("nn.qat.Embedding: max_norm, which changes rows as they are looked up, must be None; override with None")
        if qconfig.weight.is_float:
            raise ValueError(f"nn.qat.Embedding: weight dtype must be an integer format, got {qconfig.weight.dtype}")
        super().configure(QConfig(weight=qconfig.weight))
        self.by_row = qconfig.weight.estimator == "ste" and qconfig.weight.parsed_granularity.kind in (
            "channel",
            "group",
        )

    def effective_weight(self) -> tuple[Tensor, Tensor | None]:
        return self.shaped_weight(), None

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight if self.by_row else self.weight_fake_quant(self.weight)
        rows = F.embedding(
            input, weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse
        )
        if self.by_row:
            return self.weight_fake_quant(rows.reshape(-1, self.embedding_dim)).reshape(rows.shape)
        return rows


class EmbeddingBag(QatLayer, nn.EmbeddingBag):
    """Sums, means or maxima of rows of the quantised table.

    Shape: as torch.nn.EmbeddingBag.
    """

    def configure(self, qconfig: QConfig) -> None:
        if qconfig.weight is None:
            raise ValueError("nn.qat.EmbeddingBag: weight must be a QuantSpec")
        if self.max_norm is not None:
            raise ValueError("nn.qat.EmbeddingBag: max_norm, which changes rows as they are looked up, must be None; override with None")
        if qconfig.weight.is_float:
            raise ValueError(f"nn.qat.EmbeddingBag: weight dtype must be an integer format, got {qconfig.weight.dtype}")
        super().configure(QConfig(weight=qconfig.weight))

    def effective_weight(self) -> tuple[Tensor, Tensor | None]:
        return self.shaped_weight(), None

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        return F.embedding_bag(
            input,
            self.weight_fake_quant(self.weight),
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )
