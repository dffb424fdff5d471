"""save and load: round trips of every scheme, sizes, tied tensors, atomic writing, and every refused file."""

import json
import os
import struct

import pytest
import torch
from models import SCHEMES, conv_net, images, trained
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec
from torchqat.checkpoint import read_description


@pytest.mark.parametrize("scheme", SCHEMES)
def test_round_trip(scheme, tmp_path):
    converted = torchqat.convert(trained(SCHEMES[scheme]))
    torchqat.save(converted, tmp_path / "model")
    float_model = conv_net()
    loaded = torchqat.load(tmp_path / "model", float_model)
    assert torch.equal(loaded(images()), converted(images()))
    assert loaded.state_dict().keys() == converted.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), converted.state_dict().values()))
    assert type(float_model[1]) is nn.BatchNorm2d and type(float_model[0]) is nn.Conv2d


@pytest.mark.parametrize("dtype", ["binary", "ternary", "int2", "int3", "int5", "uint4"])
@pytest.mark.parametrize("activation", [None, QuantSpec("uint8", symmetric=False, observer="dynamic")])
def test_every_width_comes_back(dtype, activation, tmp_path):
    config = QConfig(QuantSpec(dtype, "channel", symmetric=not dtype.startswith("u")), activation)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(20, 7))
    converted = torchqat.convert(torchqat.prepare_qat(model, config))
    torchqat.save(converted, tmp_path / "model")
    loaded = torchqat.load(tmp_path / "model", model)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(loaded(x), converted(x))
    assert len(set(torchqat.integer_weights(loaded[0]).codes.unique().tolist())) > 1


def mlp(width=256):
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


@pytest.mark.parametrize(
    "config, limit",
    [
        (QConfig.int8_dynamic(), 0.27),
        (QConfig.int8_weight_only(), 0.27),
        (QConfig.int4_weight_only(), 0.16),
        (QConfig.int2_weight_only(), 0.09),
    ],
)
def test_sizes(config, limit, tmp_path):
    model = mlp()
    torchqat.save(torchqat.convert(torchqat.prepare_qat(model, config)), tmp_path / "model")
    floats = sum(p.numel() * 4 for p in model.parameters())
    assert (tmp_path / "model").stat().st_size <= limit * floats


def test_a_model_on_meta_is_enough(tmp_path):
    converted = torchqat.convert(torchqat.prepare_qat(nn.Sequential(mlp(8), nn.LayerNorm(8)), QConfig.int8_dynamic()))
    torchqat.save(converted, tmp_path / "model")
    with torch.device("meta"):
        structure = nn.Sequential(mlp(8), nn.LayerNorm(8))
    loaded = torchqat.load(tmp_path / "model", structure)
    x = torch.randn(3, 8)
    assert torch.equal(loaded(x), converted(x)) and structure[1].weight.is_meta


def test_tied_tensors_are_stored_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(64, 32), nn.Linear(32, 64, bias=False)
            self.head.weight = self.table.weight
            self.again = self.head

        def forward(self, x):
            return self.again(self.head(self.table(x)) @ self.table.weight_like())

    prepared = torchqat.prepare_qat(Tied(), QConfig.int8_weight_only())
    torchqat.save(torchqat.convert(prepared), tmp_path / "model")
    described = read_description(tmp_path / "model")
    assert described["aliases"]["head.codes"] == "table.codes"
    assert described["shared_modules"] == {"again": "head"}
    assert "head.codes" not in described["tensors"]
    loaded = torchqat.load(tmp_path / "model", Tied())
    assert loaded.again is loaded.head
    codes = [torchqat.integer_weights(m).codes for m in (loaded.table, loaded.head)]
    assert torch.equal(*codes)


@pytest.fixture
def saved(tmp_path):
    converted = torchqat.convert(
        torchqat.prepare_qat(nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)), QConfig.int8_dynamic())
    )
    torchqat.save(converted, tmp_path / "model")
    return tmp_path / "model"


def structure():
    return nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4))


def rewritten(path, change):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def test_a_failed_save_keeps_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    model = torchqat.load(saved, structure())

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    for broken in ("os.fsync", "torchqat.checkpoint.save_file", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, full_disk)
            with pytest.raises(OSError, match="No space left"):
                torchqat.save(model, saved)
        assert saved.read_bytes() == before and os.listdir(saved.parent) == ["model"]


def test_a_missing_folder_and_a_folder_for_a_file_are_named(saved):
    model = torchqat.load(saved, structure())
    with pytest.raises(FileNotFoundError, match="torchqat.save: no such directory: .*nowhere$"):
        torchqat.save(model, saved.parent / "nowhere" / "model")
    with pytest.raises(IsADirectoryError, match="torchqat.save: path must be a file's"):
        torchqat.save(model, saved.parent)


def test_the_file_has_ordinary_permissions(saved):
    mask = os.umask(0)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_files_are_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        torchqat.load(saved, structure())


def test_pickles_are_refused_and_not_run(saved, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save(Bomb(), saved)
    with pytest.raises(ValueError, match="truncated or no safetensors file"):
        torchqat.load(saved, structure())
    assert not (tmp_path / "exploded").exists()


def test_foreign_and_newer_files_are_refused(saved):
    rewritten(saved, lambda h: h["__metadata__"].update(format_version="2"))
    with pytest.raises(ValueError, match="format version 2, this torchqat reads up to 1"):
        torchqat.load(saved, structure())
    rewritten(saved, lambda h: h["__metadata__"].update(format="pt"))
    with pytest.raises(ValueError, match="was not written by torchqat.save"):
        torchqat.load(saved, structure())
    rewritten(saved, lambda h: h["__metadata__"].update(format="torchqat", format_version="1", torchqat="{"))
    with pytest.raises(ValueError, match="description in .* is damaged"):
        torchqat.load(saved, structure())


def edit_description(path, change):
    def edit(header):
        description = json.loads(header["__metadata__"]["torchqat"])
        change(description)
        header["__metadata__"]["torchqat"] = json.dumps(description)

    rewritten(path, edit)


def test_damaged_descriptions_are_refused(saved):
    original = saved.read_bytes()
    for change, words in [
        (lambda d: d["modules"]["0"].update(layer="Quantum"), "unknown kind of layer, 'Quantum'"),
        (
            lambda d: d["modules"]["0"].update(weight_shape=[4, 9]),
            r"Linear with weight \[4, 9\], float_model has a Linear with weight",
        ),
        (lambda d: d["modules"]["0"].update(file_bits=4), "module '0' in .* is damaged"),
        (lambda d: d["modules"].update({"7": d["modules"].pop("0")}), "has a module '7' that float_model lacks"),
        (lambda d: d["aliases"].update({"1.bias": "gone"}), "lacks tensor '1.bias'"),
    ]:
        saved.write_bytes(original)
        edit_description(saved, change)
        with pytest.raises(ValueError, match=words):
            torchqat.load(saved, structure())


def test_models_that_do_not_fit_are_refused(saved):
    for model, words in [
        (nn.Sequential(nn.Linear(8, 5), nn.LayerNorm(5)), "float_model has a Linear with weight"),
        (nn.Sequential(nn.ReLU(), nn.LayerNorm(4)), "float_model has a ReLU with weight none"),
        (nn.Sequential(nn.Linear(8, 4)), "has 1.bias, 1.weight, which float_model lacks"),
        (
            nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.LayerNorm(4)),
            "lacks 2.bias, 2.weight, which float_model has",
        ),
        (nn.Sequential(nn.Linear(8, 4), nn.LayerNorm((2, 4))), r"1.bias has shape \[4\]|1.weight has shape \[4\]"),
    ]:
        with pytest.raises(ValueError, match=words):
            torchqat.load(saved, model)


def test_other_errors(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        torchqat.load(tmp_path / "nothing", structure())
    with pytest.raises(TypeError, match="float_model must be a torch.nn.Module"):
        torchqat.load(saved, None)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        torchqat.save({}, tmp_path / "x")
    with pytest.raises(ValueError, match="has QAT layers; convert it first"):
        torchqat.save(torchqat.prepare_qat(structure()), tmp_path / "x")
    with pytest.raises(ValueError, match="no quantised layer"):
        torchqat.save(structure(), tmp_path / "x")
