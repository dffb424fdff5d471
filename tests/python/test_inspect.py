"""`python -m torchqat inspect`: saved, scripted, foreign, damaged and importable models, read back against what was made."""

import json
import warnings

import pytest
import torch
from torch import nn

import torchqat
from torchqat import cli
from torchqat.inspect import as_text, inspect_target, of_model


def small_net():
    """Importable as test_inspect:small_net."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))


@pytest.fixture
def converted():
    narrow = torchqat.QConfig(torchqat.QuantSpec("int4", "channel"), torchqat.QConfig.int8().activation)
    prepared = torchqat.prepare_qat(small_net(), torchqat.QConfig.int8(), overrides={"4": narrow})
    prepared.train()
    prepared(torch.randn(4, 3, 8, 8))
    return torchqat.convert(prepared.eval())


def test_saved_model_lists_every_tensor_scheme_and_size(converted, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    torchqat.save(converted, path)
    assert cli.main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    tensors = {entry["name"]: entry for entry in found["tensors"]}
    assert found["bytes"] == path.stat().st_size
    assert tensors["0.codes"]["scheme"] == "int8 per channel, uint8 activations per tensor, static"
    assert tensors["4.codes"]["scheme"] == "int4 per channel, uint8 activations per tensor, static"
    assert tensors["4.codes"]["shape"] == [10, 288] and tensors["4.codes"]["stored_bytes"] == 10 * 288 // 2
    assert tensors["0.codes"]["stored_bytes"] == 8 * 3 * 9
    assert found["weight_elements"] == found["quantized_weight_elements"] == 10 * 288 + 8 * 3 * 9


def test_saved_model_as_text_names_layers_and_coverage(converted, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    torchqat.save(converted, path)
    assert cli.main(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert "torchqat model, format version 1" in text
    assert f"size: {path.stat().st_size:,} bytes" in text
    assert "coverage: 100.0% of 3,096 weights" in text
    assert "1 layer(s): int4 per channel" in text


def test_a_layer_left_in_float_lowers_the_coverage(tmp_path):
    prepared = torchqat.prepare_qat(small_net(), torchqat.QConfig.int8_dynamic(), overrides={"0": None})
    torchqat.save(torchqat.convert(prepared), tmp_path / "half.safetensors")
    inventory = inspect_target(str(tmp_path / "half.safetensors"))
    assert inventory.coverage() == (2880, 2880 + 216)


def test_foreign_safetensors_file(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(4, 6), "steps": torch.zeros(3, dtype=torch.int64)}, tmp_path / "other.safetensors")
    inventory = inspect_target(str(tmp_path / "other.safetensors"))
    assert "not written by torchqat.save" in inventory.title
    assert {(e.name, e.stored_bytes) for e in inventory.entries} == {("weight", 96), ("steps", 24)}
    assert inventory.coverage() == (0, 24)


def test_torchscript_file_names_the_integer_kernels(converted, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)")
        for name, script in (
            ("plain", torch.jit.script(converted)),
            ("frozen", torch.jit.freeze(torch.jit.script(converted))),
        ):
            script.save(str(tmp_path / f"{name}.pt"))
    for name in ("plain", "frozen"):
        inventory = inspect_target(str(tmp_path / f"{name}.pt"))
        assert any("torchqat::conv_int8" in note for note in inventory.notes), inventory.notes
        packed = {e.shape for e in inventory.entries if e.scheme == "packed integer weight"}
        assert packed == {(8, 3, 3, 3), (10, 288)} and inventory.coverage() == (3096, 3096)


def test_state_dict_file_and_a_pickle_that_is_none(tmp_path):
    torch.save(small_net().state_dict(), tmp_path / "float.pt")
    inventory = inspect_target(str(tmp_path / "float.pt"))
    assert inventory.coverage() == (0, 3096)
    torch.save(small_net(), tmp_path / "pickled.pt")
    with pytest.raises(ValueError, match="neither TorchScript nor a state_dict"):
        inspect_target(str(tmp_path / "pickled.pt"))


def test_importable_model_float_prepared_and_converted(converted, monkeypatch):
    monkeypatch.syspath_prepend(str(__import__("pathlib").Path(__file__).parent))
    inventory = inspect_target("test_inspect:small_net")
    assert inventory.coverage() == (0, 3096)
    assert inventory.total_bytes == sum(t.numel() * t.element_size() for t in small_net().state_dict().values())
    prepared = of_model(torchqat.prepare_qat(small_net()), "prepared")
    assert {e.scheme for e in prepared.entries if e.weight} == {"trains for int8"}
    assert of_model(converted, "converted").coverage() == (3096, 3096)
    text = as_text(of_model(converted, "converted"))
    assert "4.weight" in text and "the same in both models" in text


@pytest.mark.parametrize(
    "target, message",
    [
        ("no/such/file.safetensors", "target must be a file or package.module:name, got 'no/such/file.safetensors'"),
        ("torchqat_no_such_package:model", "No module named 'torchqat_no_such_package'"),
        ("torch:no_such_name", "module torch has no 'no_such_name'"),
        ("math:pi", "math:pi must be an nn.Module or make one, got float"),
    ],
)
def test_errors_name_the_target(target, message, capsys):
    assert cli.main(["inspect", target]) == 2
    assert capsys.readouterr().err == f"torchqat inspect: {message}\n"


def test_truncated_file(converted, tmp_path, capsys):
    path = tmp_path / "model.safetensors"
    torchqat.save(converted, path)
    path.write_bytes(path.read_bytes()[:-7])
    assert cli.main(["inspect", str(path)]) == 2
    assert "is truncated or no safetensors file" in capsys.readouterr().err
