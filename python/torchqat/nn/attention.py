"""MultiheadAttention with its projections as layers of their own, so that they can be quantised like any Linear."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchqat.nn.qat._layer import adopt
from torchqat.nn.qat.linear import Linear
from torchqat.nn.split import linear_of


class MultiheadAttention(nn.MultiheadAttention):
    """torch.nn.MultiheadAttention that calls its projections as modules.

    Projections are `in_proj` (query, key and value stacked, [3 * embed_dim, embed_dim]) or, when key or value have sizes of their
    own, `q_proj`, `k_proj` and `v_proj`; then `out_proj`. Scores, softmax and the weighted sum stay float. Self-attention is one
    product for all three; where query, key and value differ, each tensor goes through the whole of `in_proj`.

    Shape and arguments as torch.nn.MultiheadAttention. State dicts of it can be loaded.

    Source: Vaswani et al., "Attention Is All You Need", 2017.
    """

    @classmethod
    def split(cls, module: nn.MultiheadAttention) -> "MultiheadAttention":
        """The same attention, float, with the module's own Parameter objects, hooks and mode."""
        new = adopt(cls, module)
        if module.in_proj_weight is not None:
            new.in_proj = linear_of(module.in_proj_weight, module.in_proj_bias, module.training)
            new.q_proj = new.k_proj = new.v_proj = None
            new._parameters["in_proj_weight"] = new._parameters["in_proj_bias"] = None
        else:
            new.in_proj = None
            for name in ("q_proj", "k_proj", "v_proj"):
                setattr(new, name, linear_of(new._parameters[f"{name}_weight"], None, module.training))
                new._parameters[f"{name}_weight"] = None
        new.out_proj = linear_of(module.out_proj.weight, module.out_proj.bias, module.training)
        return new

    @classmethod
    def from_float(cls, module: nn.MultiheadAttention, qconfig) -> "MultiheadAttention":
        """`split` with every projection prepared for QAT."""
        new = cls.split(module)
        for name in ("in_proj", "q_proj", "k_proj", "v_proj", "out_proj"):
            if getattr(new, name) is not None:
                setattr(new, name, Linear.from_float(getattr(new, name), qconfig))
        return new

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if is_causal and attn_mask is None:
            raise RuntimeError("MultiheadAttention: attn_mask must be given with is_causal, which is only a hint about it")
        batched = query.dim() == 3
        q, k, v = self.project(query, key, value)
        if not batched:
            q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        bias_k, bias_v = self.bias_k, self.bias_v
        more = 0
        if bias_k is not None and bias_v is not None:
            k = torch.cat([k, bias_k.to(k.dtype).expand(k.size(0), 1, -1)], 1)
            v = torch.cat([v, bias_v.to(v.dtype).expand(v.size(0), 1, -1)], 1)
            more += 1
        if self.add_zero_attn:
            k, v = F.pad(k, [0, 0, 0, 1]), F.pad(v, [0, 0, 0, 1])
            more += 1
        batch, length, heads = q.size(0), q.size(1), self.num_heads
        mask = self.scores_mask(q.dtype, batch, key_padding_mask, attn_mask, more)
        q = q.reshape(batch, length, heads, self.head_dim).transpose(1, 2)
        k = k.reshape(batch, k.size(1), heads, self.head_dim).transpose(1, 2)
        v = v.reshape(batch, v.size(1), heads, self.head_dim).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = torch.matmul(q * self.head_dim**-0.5, k.transpose(-2, -1))
            if mask is not None:
                scores = scores + mask
            shown = F.dropout(torch.softmax(scores, -1), dropout, dropout > 0.0)
            mixed = torch.matmul(shown, v)
            weights = shown.mean(1) if average_attn_weights else shown
            weights = weights if batched else weights.squeeze(0)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        mixed = mixed.transpose(1, 2).reshape(batch, length, self.embed_dim)
        if not batched:
            mixed = mixed.squeeze(0)
        elif not self.batch_first:
            mixed = mixed.transpose(0, 1)
        return self.out_proj(mixed), weights

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of all heads, [..., embed_dim] each."""
        width = self.embed_dim
        if self.in_proj is not None:
            if query is key and key is value:
                q, k, v = self.in_proj(query).split(width, -1)
                return q, k, v
            projected_key = self.in_proj(key)
            projected_value = projected_key if key is value else self.in_proj(value)
            return (
                self.in_proj(query)[..., :width],
                projected_key[..., width : 2 * width],
                projected_value[..., 2 * width :],
            )
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        bias = self.in_proj_bias
        if bias is not None:
            q, k, v = q + bias[:width], k + bias[width : 2 * width], v + bias[2 * width :]
        return q, k, v

    def scores_mask(
        self, dtype: torch.dtype, batch: int, key_padding_mask: Tensor | None, attn_mask: Tensor | None, more: int
    ) -> Tensor | None:
        """Both masks as one to add to the scores, [batch or 1, heads or 1, length or 1, keys + more]."""
        mask: Tensor | None = None
        if attn_mask is not None:
            mask = _additive(attn_mask, dtype)
            mask = mask.view(batch, self.num_heads, mask.size(-2), mask.size(-1)) if mask.dim() == 3 else mask[None, None]
        if key_padding_mask is not None:
            padding = _additive(key_padding_mask, dtype)[:, None, None, :]
            mask = padding if mask is None else mask + padding
        if mask is not None and more > 0:
            mask = F.pad(mask, [0, more])
        return mask

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # torch's names, of a checkpoint made before the projections were layers.
        for name in ("in_proj", "q_proj", "k_proj", "v_proj"):
            if getattr(self, name) is not None:
                for kind in ("weight", "bias"):
                    if prefix + f"{name}_{kind}" in state_dict:
                        state_dict[prefix + f"{name}.{kind}"] = state_dict.pop(prefix + f"{name}_{kind}")
        super()._load_from_state_dict(state_dict, prefix, *args)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
