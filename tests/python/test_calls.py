"""Example inputs and batches as a tuple of arguments, a mapping of keywords or one tensor, wherever torchqat calls a model."""

from collections import UserDict

import pytest
import torch
import torchqat
from torch import nn
from torchqat import QConfig


class TwoInputs(nn.Module):
    """Has a layer that is never called and a BatchNorm that only running the model shows to follow its convolution."""

    def __init__(self):
        super().__init__()
        self.norm, self.conv, self.unused = nn.BatchNorm2d(4), nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, image, scale=None):
        y = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        return {"logits": self.fc(y if scale is None else y * scale)}


IMAGE, SCALE = torch.randn(2, 3, 5, 5), torch.rand(2, 4)
WAYS = {
    "tensor": IMAGE,
    "tuple": (IMAGE, SCALE),
    "list": [IMAGE, SCALE],
    "dict": {"image": IMAGE, "scale": SCALE},
    "mapping": UserDict(image=IMAGE, scale=SCALE),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_give_inputs(way):
    torch.manual_seed(0)
    inputs = WAYS[way]
    prepared = torchqat.prepare_qat(TwoInputs(), QConfig.int8(), example_inputs=inputs)
    assert type(prepared.unused) is nn.Linear  # the run did not call it
    assert isinstance(prepared.norm, nn.Identity)
    torchqat.calibrate(prepared, [inputs])
    prepared.eval()
    converted = torchqat.convert(prepared, example_inputs=inputs)
    report = torchqat.verify(prepared, converted, [inputs])
    assert report.output.equal
    assert torch.equal(prepared(IMAGE, SCALE)["logits"], converted(IMAGE, SCALE)["logits"])


def test_what_the_model_raises_says_who_called_it():
    model = nn.Sequential(nn.Linear(8, 4))
    prepared = torchqat.prepare_qat(model, QConfig.int8_dynamic())
    with pytest.raises(RuntimeError) as raised:
        torchqat.prepare_qat(model, QConfig.int8(), example_inputs=torch.randn(2, 3))
    assert raised.value.__notes__ == ["prepare_qat: raised by the model, which was run on example_inputs"]
    with pytest.raises(ValueError, match="shape") as raised:
        torchqat.convert(prepared, example_inputs=torch.randn(2, 3))
    assert raised.value.__notes__ == ["convert: raised by the model, which was run on example_inputs"]


def test_post_training_takes_them_too():
    inputs = WAYS["mapping"]
    model = torchqat.quantize_ptq(TwoInputs().eval(), QConfig.int8(), [inputs], example_inputs=inputs)
    assert model(**inputs)["logits"].shape == (2, 2)


def test_a_converted_model_asks_for_no_gradient():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    prepared = torchqat.prepare_qat(model, QConfig.int8_dynamic())
    converted = torchqat.convert(prepared)
    assert not any(p.requires_grad for p in converted.parameters())
    assert all(p.requires_grad for p in prepared.parameters())
    x = torch.randn(2, 8)
    assert torch.equal(torch.compile(converted, backend="aot_eager")(x), converted(x))
