"""The promise: prepared and converted models agree, bit for bit in integer schemes, and nothing of float weights is left."""

import copy
import pickle

import pytest
import torch
from models import GROUPED, INTEGER, SCHEMES, WEIGHT_ONLY, conv_net, images, trained
from torch import nn

import torchqat
from torchqat import QConfig
from torchqat.nn import quantized


def assert_same(scheme, a, b):
    if scheme in INTEGER:
        assert torch.equal(a, b)
    else:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_trained_is_what_ships(scheme):
    prepared = trained(SCHEMES[scheme]).eval()
    converted = torchqat.convert(prepared)
    for n in (1, 5):
        x = images(n, seed=9)
        with torch.no_grad():
            assert_same(scheme, prepared(x), converted(x))


@pytest.mark.parametrize("scheme", INTEGER)
def test_the_frozen_training_forward_is_the_deployed_one(scheme):
    prepared = trained(SCHEMES[scheme])
    torchqat.freeze_observers(torchqat.freeze_batch_norm(prepared)).train()
    assert torch.equal(prepared(images(seed=9)), torchqat.convert(prepared)(images(seed=9)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_float_weight_and_no_quantiser_is_left(scheme):
    prepared = trained(SCHEMES[scheme], steps=1)
    converted = torchqat.convert(prepared)
    names = {type(m).__name__ for m in converted.modules()}
    assert not names & {"FakeQuantize", "RangeObserver", "BatchNorm2d", "Linear2d"}
    weights = {tuple(p.shape) for p in prepared.parameters() if p.dim() > 1 and p.requires_grad and p.numel() > 8}
    assert not [k for k, v in converted.state_dict().items() if v.is_floating_point() and tuple(v.shape) in weights]
    assert not list(converted.parameters())
    assert not converted.training


@pytest.mark.parametrize("scheme", SCHEMES)
def test_integer_weights_agree_before_and_after(scheme):
    prepared = trained(SCHEMES[scheme]).eval()
    converted = torchqat.convert(prepared)
    for name in ("0", "3.second", "6", "8"):
        before = torchqat.integer_weights(prepared.get_submodule(name))
        after = torchqat.integer_weights(converted.get_submodule(name))
        assert torch.equal(before.codes, after.codes) and before.codes.dtype == after.codes.dtype
        assert before.scale.shape == after.scale.shape and torch.equal(before.scale.float(), after.scale.float())
        assert before.block_size == after.block_size
        low, high = SCHEMES[scheme].weight.quant_range("weight")
        assert before.codes.min() >= low and before.codes.max() <= high
        weight, _ = prepared.get_submodule(name).effective_weight()
        values = torch.ops.torchqat.dequantize(*after[:3], after.block_size, torch.float32)
        assert (values - weight).abs().max() <= weight.abs().max()


@pytest.mark.parametrize("scheme", ["int8", "lsq", "int4_int8", "int4_weight_only", "affine_uint4", "int6_blocks"])
def test_copies_pickle_and_state_dict(scheme):
    prepared = trained(SCHEMES[scheme]).eval()
    converted = torchqat.convert(prepared)
    x = images(seed=9)
    expected = converted(x)
    other = torchqat.convert(trained(SCHEMES[scheme], steps=1))
    other.load_state_dict(converted.state_dict())
    for same in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted)), other):
        assert torch.equal(same(x), expected)
    fresh = torchqat.prepare_qat(conv_net(), SCHEMES[scheme]).eval()
    fresh.load_state_dict(prepared.state_dict())
    for same in (copy.deepcopy(prepared), pickle.loads(pickle.dumps(prepared)), fresh):
        assert torch.equal(same(x), prepared(x))


def test_scales_keep_their_dtype():
    converted = torchqat.convert(trained(QConfig.int8()))
    before = converted[0].weight_scale.clone()
    converted.to(torch.bfloat16)
    assert torch.equal(converted[0].weight_scale, before)
    assert converted(images().bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("scheme", ["int8", "int4", "int8_dynamic"])
def test_bfloat16_models(scheme):
    prepared = trained(SCHEMES[scheme], model=conv_net().bfloat16(), batch=lambda **k: images(**k).bfloat16()).eval()
    x = images(seed=9).bfloat16()
    assert torch.equal(prepared(x), torchqat.convert(prepared)(x))


@pytest.mark.parametrize("scheme", ["int8", "int8_dynamic"])
def test_autocast(scheme):
    prepared = trained(SCHEMES[scheme]).eval()
    converted = torchqat.convert(prepared)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = prepared(images()), converted(images())
    assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("dims", [1, 3])
def test_convolutions_in_other_dimensions(dims):
    conv, bn = {1: (nn.Conv1d, nn.BatchNorm1d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dims]
    make = lambda: nn.Sequential(conv(2, 4, 3, padding=1), bn(4), nn.ReLU(), conv(4, 2, 2, groups=2, dilation=2))
    batch = lambda seed=0: torch.randn(2, 2, *[6] * dims, generator=torch.Generator().manual_seed(seed))
    prepared = trained(QConfig.int8(), make=make, batch=batch).eval()
    assert torch.equal(prepared(batch()), torchqat.convert(prepared)(batch()))
    one = batch()[0]
    assert torch.equal(prepared(one), torchqat.convert(prepared)(one))


@pytest.mark.parametrize(
    "config", [QConfig.int8_weight_only(), QConfig.int4_weight_only(3), WEIGHT_ONLY["int3_per_tensor"]]
)
def test_embeddings(config):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(11, 6, padding_idx=0), nn.Linear(6, 11, bias=False)
            self.bag = nn.EmbeddingBag(11, 6, mode="mean")
            self.head.weight = self.table.weight

        def forward(self, x):
            return self.head(self.table(x)), self.bag(x)

    prepared = torchqat.prepare_qat(Tied(), config)
    x = torch.tensor([[1, 0, 7], [10, 10, 3]])
    logits, bags = prepared(x)
    (logits.sum() + bags.sum()).backward()
    assert prepared.table.weight.grad is prepared.head.weight.grad is not None
    converted = torchqat.convert(prepared)
    assert type(converted.table) is quantized.Embedding and type(converted.bag) is quantized.EmbeddingBag
    assert torch.equal(prepared.table(x), converted.table(x))
    torch.testing.assert_close(prepared(x), converted(x))


def test_static_activation_without_data():
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(RuntimeError, match="convert: module '0': a static activation has seen no data"):
        torchqat.convert(prepared)
    with pytest.raises(RuntimeError, match="no data has been observed"):
        prepared.eval()(torch.ones(1, 3))


def test_weights_come_from_the_moment_of_converting():
    prepared = torchqat.prepare_qat(nn.Sequential(nn.Linear(3, 2)), QConfig.int8_dynamic())
    with torch.no_grad():
        prepared[0].weight.fill_(2.0)
    assert torchqat.integer_weights(torchqat.convert(prepared)[0]).codes.unique().tolist() == [127]


def test_shared_modules_stay_shared_and_hooks_stay():
    layer = nn.Linear(3, 3)
    prepared = torchqat.prepare_qat(nn.Sequential(layer, nn.ReLU(), layer), QConfig.int8_dynamic())
    calls = []
    prepared[0].register_forward_hook(lambda *a: calls.append(1))
    converted = torchqat.convert(prepared)
    assert converted[0] is converted[2]
    converted(torch.ones(1, 3))
    assert len(calls) == 2


def test_inplace():
    prepared = trained(QConfig.int8())
    expected = torchqat.convert(prepared)(images())
    assert torchqat.convert(prepared, inplace=True) is prepared
    assert torch.equal(prepared(images()), expected)


def test_frozen_batch_norm_factor_of_zero():
    prepared = trained(QConfig.int8())
    with torch.no_grad():
        prepared[0].bn.weight[0] = 0.0
        prepared[0].bn.weight[1] = -1.0
    prepared.train()(images()).sum().backward()
    assert all(p.grad.isfinite().all() for p in prepared.parameters())
    prepared.eval()
    assert torch.equal(prepared(images()), torchqat.convert(prepared)(images()))


def test_batch_norm_training_matches_float_batch_norm():
    torch.manual_seed(0)
    model = conv_net()
    prepared = torchqat.prepare_qat(model)
    torchqat.set_fake_quant(prepared, False)
    for _ in range(2):
        torch.testing.assert_close(prepared(images()), model(images()))
    torch.testing.assert_close(prepared[0].bn.running_var, model[1].running_var)
    torch.testing.assert_close(prepared.eval()(images()), model.eval()(images()), rtol=1e-4, atol=1e-5)


def test_errors():
    with pytest.raises(TypeError, match="convert: model must be a torch.nn.Module"):
        torchqat.convert("model")
    with pytest.raises(ValueError, match="convert: model has no QAT layer"):
        torchqat.convert(nn.Linear(2, 2))
    prepared = torchqat.set_fake_quant(
        torchqat.prepare_qat(nn.Sequential(nn.Linear(2, 2)), QConfig.int8_dynamic()), False
    )
    with pytest.raises(ValueError, match="module '0': quantisation is switched off"):
        torchqat.convert(prepared)
    with pytest.raises(TypeError, match="integer_weights: module must be a prepared or converted layer, got ReLU"):
        torchqat.integer_weights(nn.ReLU())


def test_transformer_layers_do_not_slip_past_the_quantised_layers():
    make = lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    batch = lambda seed=0: torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(seed))
    prepared = trained(QConfig.int8(), make=make, batch=batch).eval()
    with torch.inference_mode():
        y = prepared(batch())
        assert torch.equal(y, torchqat.convert(prepared)(batch()))
    assert not torch.equal(y, torchqat.set_fake_quant(prepared, False)(batch()))


@pytest.mark.parametrize("scheme", GROUPED)
def test_grouped_linear_is_exact(scheme):
    make = lambda: nn.Sequential(nn.Linear(13, 9), nn.ReLU(), nn.Linear(9, 4))
    batch = lambda seed=0, n=6: torch.randn(n, 2, 13, generator=torch.Generator().manual_seed(seed))
    prepared = trained(GROUPED[scheme], make=make, batch=batch).eval()
    assert torch.equal(prepared(batch()), torchqat.convert(prepared)(batch()))
