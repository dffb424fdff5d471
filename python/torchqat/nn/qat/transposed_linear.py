"""Linear whose float layer keeps the weight as [in_features, out_features], as Hugging Face's Conv1D (GPT-2) does."""

import torch
from torch import Tensor

from torchqat.config import QConfig
from torchqat.nn.qat._layer import IntegerWeights
from torchqat.nn.qat.linear import LinearLayer


class TransposedLinear(LinearLayer):
    """`y = x_q @ w_q + b` on quantised values, with the weight left as [in_features, out_features].

    It computes as nn.qat.Linear does on the transposed weight; "channel" scales lie along axis 1, groups along axis 0. Made from
    any module with the interface of `transformers.pytorch_utils.Conv1D`: see `is_transposed_linear`.

    Shape: input [..., in_features]; output [..., out_features].
    """

    weight_turned = True

    def configure(self, qconfig: QConfig) -> None:
        self.in_features, self.out_features = self.weight.shape
        super().configure(qconfig)

    def matrix(self) -> Tensor:
        return self.weight.t()

    def initial_weight(self) -> Tensor:
        return self.weight.detach().t()

    def shaped_weight(self) -> Tensor:
        if self.weight_fake_quant is not None:
            return self.weight_fake_quant.shaped(self.matrix())
        return self.matrix()

    @torch.jit.unused
    def integer_weights(self) -> IntegerWeights:
        """Codes, scale, zero point and block size of the current weight, all [in_features, out_features]."""
        return self.kernel_weights().turned()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def is_transposed_linear(module) -> bool:
    """Whether this is a Conv1D of Hugging Face: a class of that name, weight [nx, nf], bias [nf] and the attribute nf."""
    if type(module).__name__ != "Conv1D":
        return False
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    return (
        isinstance(weight, Tensor)
        and weight.dim() == 2
        and weight.size(1) == getattr(module, "nf", None)
        and isinstance(bias, Tensor)
        and bias.shape == weight.shape[1:]
    )
