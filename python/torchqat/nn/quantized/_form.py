"""What every deployed integer form of an operation without weights shares."""

import torch
from torch import nn

from torchqat.nn.quantized._layer import NO_DATA, Description, _as_text, _from_text, describe_activation
from torchqat.observers import apply_keeping_dtype

_OUTPUT = ("output_scale", "output_zero_point")


class QuantizedForm(nn.Module):
    """Base of the deployed forms: made from a description without weights, as the deployed layers are.

    Buffers: `input_scale_<i>`, `input_zero_point_<i>` of every quantised input, and `output_scale`, `output_zero_point` where the
    result is the next layer's codes.
    """

    def __init__(self, description: Description):
        super().__init__()
        self.config = _as_text(description.config)
        self.place = (str(description.config["place"][0]), int(description.config["place"][1]))
        self.input_count = max(1, len(description.config["inputs"]))
        self.names = sorted(description.tensors)
        for name in (*self.names, *_OUTPUT):
            if not hasattr(self, name):
                self.register_buffer(name, description.tensors.get(name))
        output = description.config.get("output", {"relu": False, "quant_min": 0, "quant_max": 255})
        self.output_relu, self.output_quant_min, self.output_quant_max = output["relu"], output["quant_min"], output["quant_max"]

    @classmethod
    def describe(cls, form) -> Description:
        """The description of what a QAT form computes in eval mode."""
        config = {"layer": cls.__name__, "place": list(form.place), "inputs": [], **form.arguments()}
        tensors = form.tensors()
        for i, quantizer in enumerate(form.quantizers()):
            if not quantizer.has_data():
                raise RuntimeError(NO_DATA)
            config["inputs"].append(describe_activation(quantizer))
            scale, zero_point = quantizer.eval_qparams()
            tensors[f"input_scale_{i}"], tensors[f"input_zero_point_{i}"] = scale.clone(), zero_point.clone()
        return Description(config, tensors)

    @torch.jit.unused
    def description(self) -> Description:
        """Config and tensors, as files hold them."""
        return Description(_from_text(self.config), {name: getattr(self, name) for name in self.names})

    @torch.jit.ignore
    def _apply(self, fn, recurse=True):
        scales = tuple(n for n, t in self._buffers.items() if t is not None and t.is_floating_point())
        return apply_keeping_dtype(self, super()._apply, fn, scales, recurse)
