"""Transformer encoders that call every layer in eval mode too: torch's own have fused paths that read float weights behind the
layers' backs, and TorchScript compiles those even where they are never taken.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.transformer import _detect_is_causal_mask, _get_seq_len


def _to_add(mask: Tensor | None, padding: Tensor | None, src: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Both masks as torch wants them: what is added to the scores, in src's type."""
    added = F._canonical_mask(
        mask=padding,
        mask_name="src_key_padding_mask",
        other_type=F._none_or_dtype(mask),
        other_name="src_mask",
        target_type=src.dtype,
    )
    return (
        F._canonical_mask(
            mask=mask, mask_name="src_mask", other_type=None, other_name="", target_type=src.dtype, check_other=False
        ),
        added,
    )


class TransformerEncoderLayer(nn.TransformerEncoderLayer):
    """torch.nn.TransformerEncoderLayer, layer by layer. Shape and arguments as there."""

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        mask, padding = _to_add(src_mask, src_key_padding_mask, src)
        if self.norm_first:
            x = src + self._sa_block(self.norm1(src), mask, padding, is_causal=is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(src + self._sa_block(src, mask, padding, is_causal=is_causal))
        return self.norm2(x + self._ff_block(x))


class TransformerEncoder(nn.TransformerEncoder):
    """torch.nn.TransformerEncoder without nested tensors. Shape and arguments as there."""

    # torch's names norm here, of which TorchScript warns where there is one.
    __constants__: list[str] = []

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        mask, padding = _to_add(mask, src_key_padding_mask, src)
        length: int | None = None
        if mask is not None and is_causal is None:
            length = _get_seq_len(src, self.layers[0].self_attn.batch_first)
        causal = _detect_is_causal_mask(mask, is_causal, length)
        for layer in self.layers:
            src = layer(src, src_mask=mask, is_causal=causal, src_key_padding_mask=padding)
        if self.norm is not None:
            src = self.norm(src)
        return src


_PLAIN = {nn.TransformerEncoderLayer: TransformerEncoderLayer, nn.TransformerEncoder: TransformerEncoder}


def leave_fused_paths(model: nn.Module, layers: tuple) -> None:
    """Transformer encoders that hold one of the given kinds of layer call every layer from here on."""
    for module in model.modules():
        if isinstance(module, tuple(_PLAIN)) and any(isinstance(m, layers) for m in module.modules()):
            if type(module) in _PLAIN:
                module.__class__ = _PLAIN[type(module)]
            # Of a subclass, what keeps its fused path from being taken.
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False
            else:
                module.activation_relu_or_gelu = 0  # "not one that can be fused"
