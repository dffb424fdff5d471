"""Convolution with its BatchNorm folded into the weight while training, so that the deployed weight is the trained one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchqat.config import QConfig
from torchqat.nn.qat._layer import adopt
from torchqat.nn.qat.conv import _Conv
from torchqat.nn.qat.relu import ceiling_of
from torchqat.observers import in_recomputation

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class _ConvBn(_Conv):
    """Quantises `weight * f` with `f = gamma / sqrt(running_var + eps)`.

    While BatchNorm learns its statistics, the output is `BatchNorm(conv / f + bias)` with the batch's own statistics (and f a
    constant). Where each output channel has scales of its own, quantising `weight` gives the same codes and `/ f` is left
    out. In eval mode, or once BatchNorm is frozen, the bias is `beta + (bias - mean) * f` and what is computed is what is
    deployed.

    A live BatchNorm and the ReLU that was absorbed, if any, run in one op that keeps the convolution's result only; the
    BatchNorm module itself is called where it has hooks, is of a class of its own or averages cumulatively, and outside the
    CPU. Activation checkpointing does not move the running statistics a second time.
    """

    quantizes_whole_weight = False

    @classmethod
    def from_float(cls, conv: nn.Module, bn: nn.Module, qconfig: QConfig):
        """conv and bn keep their parameters and buffers; bn becomes the submodule `bn`.

        Raises:
            ValueError: when bn does not fit conv or keeps no running statistics.
        """
        if bn.num_features != conv.out_channels:
            raise ValueError(f"{cls.__name__}: bn must have {conv.out_channels} features, got {bn.num_features}")
        if bn.running_var is None:
            raise ValueError(f"{cls.__name__}: bn must track running statistics to be folded")
        new = adopt(cls, conv)
        new.bn = bn
        new.bn_frozen = False
        new.absorbed = None
        new.absorbs_relu = False
        new.ceiling = None
        new.bn_plain = new._bn_is_plain()
        new.configure(qconfig)
        return new

    @torch.jit.unused
    def absorb(self, relu: nn.Module) -> None:
        """From now on clip what this layer returns while `relu` is in training mode (where it passes its input on)."""
        # In a tuple, so that it is no submodule here.
        self.absorbed = (relu,)
        self.absorbs_relu = True
        self.ceiling = ceiling_of(relu)

    def clipped(self, y: Tensor) -> Tensor:
        return torch.relu(y) if self.ceiling is None else F.relu6(y)

    @torch.jit.unused
    def _clips(self) -> bool:
        return self.absorbed is not None and self.absorbed[0].training

    @torch.jit.unused
    def _bn_is_plain(self) -> bool:
        bn = self.bn
        hooks = (bn._forward_hooks, bn._forward_pre_hooks, bn._backward_hooks, bn._backward_pre_hooks)
        return type(bn) in _PLAIN and bn.momentum is not None and bn.running_mean is not None and not any(map(len, hooks))

    def batch_norm(self, y: Tensor) -> Tensor:
        """BatchNorm by the batch's statistics, moving the running ones; and the absorbed ReLU."""
        if torch.jit.is_scripting():
            plain, relu, repeated = self.bn_plain, self.absorbs_relu and self.training, False
        else:
            plain, relu, repeated = self._bn_is_plain(), self._clips(), in_recomputation()
        usual = y.dim() == self.spatial_dims + 2 and y.dtype != torch.float64 and y.device.type == "cpu" and y.numel() > 0
        if not (plain and usual):
            y = self.bn(y)
            return self.clipped(y) if relu else y
        out, mean, var = torch.ops.torchqat.batch_norm_relu(y, self.bn.weight, self.bn.bias, self.bn.eps, relu, self.ceiling)
        running_mean, running_var, batches = self.bn.running_mean, self.bn.running_var, self.bn.num_batches_tracked
        momentum = self.bn.momentum
        if not repeated and running_mean is not None and running_var is not None and momentum is not None:
            if batches is not None:
                batches.add_(1)
            torch.ops.torchqat.batch_norm_update_(
                running_mean, running_var, mean, var, y.numel() // max(y.size(1), 1), momentum
            )
        return out

    @torch.jit.ignore
    def _load_from_state_dict(self, state_dict, prefix, *args):
        if self.weight_fake_quant is not None and self.weight_fake_quant.learned:
            # First, because scales may start from the folded weight.
            own = {key.removeprefix(f"{prefix}bn."): value for key, value in state_dict.items() if key.startswith(f"{prefix}bn.")}
            self.bn.load_state_dict(own, strict=False)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def configure(self, qconfig: QConfig) -> None:
        kind = "tensor" if qconfig.weight is None else qconfig.weight.parsed_granularity.kind
        # Rounding a scale to 16 bits does not commute with folding.
        estimator = "ste" if qconfig.weight is None else qconfig.weight.estimator
        self.scales_follow_channels = (
            kind in ("channel", "group") and qconfig.weight.scale_dtype == "float32" and estimator != "tqt"
        )
        # A power of two times a factor is none: TQT learns the folded weight's scale. DoReFa's weight is squashed before BatchNorm.
        self.learned_follows_channels = estimator == "dorefa" or (
            kind in ("channel", "group") and estimator not in ("ste", "tqt")
        )
        self.channel_shape = [-1] + [1] * (self.weight.dim() - 1)
        super().configure(qconfig)

    def initial_weight(self) -> Tensor:
        with torch.no_grad():
            return self.weight.detach() if self.learned_follows_channels else self.effective_weight()[0].detach()

    def fold_factor(self) -> Tensor:
        running_var, gamma = self.bn.running_var, self.bn.weight
        assert running_var is not None
        if gamma is not None:
            return gamma / torch.sqrt(running_var + self.bn.eps)
        return 1.0 / torch.sqrt(running_var + self.bn.eps)

    def effective_weight(self) -> tuple[Tensor, Tensor]:
        factor = self.fold_factor()
        running_mean, bias, beta = self.bn.running_mean, self.bias, self.bn.bias
        assert running_mean is not None
        shift = (-running_mean if bias is None else bias - running_mean) * factor
        if beta is not None:
            shift = beta + shift
        return self.shaped_weight() * factor.reshape(self.channel_shape).to(self.weight.dtype), shift

    def folded_scale(self) -> Tensor | None:
        """Scale of the folded weight where scales are learned for the weight itself."""
        if self.weight_fake_quant is not None and self.learned_follows_channels:
            scale = self.weight_fake_quant.qparams(self.weight)[0]
            factor = self.fold_factor().abs().reshape(self.channel_shape).to(scale.dtype)
            return self.weight_fake_quant.stored(scale * factor)
        return None

    def weight_qparams(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale, zero_point = self.weight_fake_quant.qparams(weight)
        folded = self.folded_scale()
        return scale if folded is None else folded, zero_point

    def forward(self, input: Tensor) -> Tensor:
        if self.bn.training and not self.bn_frozen:
            if self.scales_follow_channels or self.learned_follows_channels:
                return self.batch_norm(self.quantized_conv(input, self.shaped_weight(), self.bias, None))
            factor = self.fold_factor().detach()
            factor = torch.where(factor == 0, torch.ones_like(factor), factor)
            weight = self.weight * factor.reshape(self.channel_shape).to(self.weight.dtype)
            y = self.quantized_conv(input, weight, None, None)
            channels = [1] * (y.dim() - self.spatial_dims - 1) + [-1] + [1] * self.spatial_dims
            y = y / factor.reshape(channels).to(y.dtype)
            bias = self.bias
            if bias is not None:
                y = y + bias.reshape(channels).to(y.dtype)
            return self.batch_norm(y)
        weight, bias = self.effective_weight()
        y = self.quantized_conv(input, weight, bias, self.folded_scale())
        if torch.jit.is_scripting():
            relu = self.absorbs_relu and self.training
        else:
            relu = self._clips()
        return self.clipped(y) if relu else y


class ConvBn1d(_ConvBn, nn.Conv1d):
    """Conv1d and BatchNorm1d. See ConvBn2d."""


class ConvBn2d(_ConvBn, nn.Conv2d):
    """Conv2d and BatchNorm2d as one quantised layer.

    Shape: input [N, C, H, W]; output [N, out_channels, H', W'].

    Source: Jacob et al. 2018, section 3.2, with the correction of Krishnamoorthi, "Quantizing deep convolutional networks for
    efficient inference", 2018: batch statistics normalise the output, running statistics scale the weight.

    Example:
        >>> import torch, torchqat
        >>> conv, bn = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8)
        >>> layer = torchqat.nn.qat.ConvBn2d.from_float(conv, bn, torchqat.QConfig.int8())
        >>> layer(torch.randn(2, 3, 8, 8)).shape
        torch.Size([2, 8, 6, 6])
    """


class ConvBn3d(_ConvBn, nn.Conv3d):
    """Conv3d and BatchNorm3d. See ConvBn2d."""
