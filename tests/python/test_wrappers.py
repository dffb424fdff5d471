"""Models in the wrappers of torch: refused where they would train wrongly, and taken off where they are of no more use."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import torchqat
from torchqat import QConfig


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def distributed(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS = {
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "OptimizedModule": lambda model: torch.compile(model, backend="aot_eager"),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_prepare_refuses_and_convert_takes_off(name, distributed, tmp_path):
    wrap = WRAPPERS[name]
    with pytest.raises(ValueError, match=f"model is wrapped in {name}; prepare what is inside"):
        torchqat.prepare_qat(wrap(net()))
    prepared = torchqat.prepare_qat(net())
    model = wrap(prepared)
    x = torch.randn(16, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    model.eval()
    converted = torchqat.convert(model, example_inputs=x)
    assert isinstance(converted, nn.Sequential) and converted[0].output_scale is not None
    assert torch.equal(converted(x), prepared(x))
    assert torchqat.verify(model, wrap(converted) if name == "OptimizedModule" else converted, [x]).equal
    torchqat.save(converted, tmp_path / "m")
    assert torch.equal(torchqat.load(tmp_path / "m", net())(x), converted(x))
    onnxruntime = pytest.importorskip("onnxruntime")
    torchqat.export_onnx(model, x, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(os.fspath(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], converted(x).numpy(), atol=0.05)


def test_converted_models_are_named_as_such():
    converted = torchqat.convert(torchqat.prepare_qat(net(), QConfig.int8_dynamic()))
    with pytest.raises(ValueError, match="prepare_qat: model is converted; prepare the float model"):
        torchqat.prepare_qat(converted)
    with pytest.raises(ValueError, match="convert: model is converted already"):
        torchqat.convert(converted)


def test_labels_in_a_batch_are_explained():
    prepared = torchqat.prepare_qat(net(), QConfig.int8_dynamic())
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 6), torch.arange(4)), batch_size=2)
    with pytest.raises(TypeError) as caught:
        torchqat.verify(prepared, torchqat.convert(prepared), loader)
    assert "with the 2 entries of a batch" in caught.value.__notes__[0]
    with pytest.raises(TypeError) as caught:
        torchqat.quantize_ptq(net(), QConfig.int8(), loader)
    assert "leave them out" in caught.value.__notes__[0]


def test_converted_under_autocast_computes_so():
    prepared = torchqat.prepare_qat(net())
    x = torch.randn(16, 6)
    prepared(x)
    prepared.eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        with pytest.warns(UserWarning, match="the model computes in torch.bfloat16; it is converted without integer edges"):
            converted = torchqat.convert(prepared, example_inputs=x)
        assert torch.equal(converted(x), prepared(x))
