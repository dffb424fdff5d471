"""Several processes train one prepared model: shared statistics, sharded parameters, and checkpoints of both."""

import functools

import pytest
import torch
import torch.distributed as dist
from processes import in_processes
from torch import nn

import torchqat
from torchqat import QConfig, QuantSpec
from torchqat.distributed import sync_observers

WORLD = 2


def activation(observer="ema", estimator="ste"):
    return QConfig(
        weight=QuantSpec("int8", granularity="channel"),
        activation=QuantSpec("uint8", symmetric=False, observer=observer, estimator=estimator),
    )


SCHEMES = {
    "ema": activation(),
    "minmax": activation("minmax"),
    "mse": activation("mse"),
    "lsq": activation("minmax", "lsq"),
    "lsq+": activation("minmax", "lsq+"),
}


def net(scheme, watched=False):
    torch.manual_seed(0)
    model = torchqat.prepare_qat(
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), SCHEMES[scheme]
    ).train()
    if watched:
        model(batch(99))
    return model


def batch(seed, rows=12):
    # Ranks see ranges of their own.
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)) * 4.0 ** (seed % 2)


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def _synced(rank, world):
    """Of each scheme: the state before and after, from a rank's own batches (rank 1 alone sees data in "late")."""
    found = {}
    for scheme in SCHEMES:
        model = net(scheme)
        for step in range(2):
            model(batch(10 * step + rank))
        before = state_of(model)
        sync_observers(model)
        once = state_of(model)
        sync_observers(model)
        found[scheme] = before, once, state_of(model), model.eval()(batch(5)).detach()
    late = net("mse")
    if rank == 1:
        late(batch(1))
    sync_observers(late)
    found["late"] = late.eval()(batch(5)).detach()
    return found


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    return in_processes(_synced, tmp_path_factory.mktemp("group"), WORLD)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ranks_have_the_same_statistics(scheme, synced):
    (_, first, again, y), (_, second, _, z) = (rank[scheme] for rank in synced)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert torch.equal(value, again[name]), name  # nothing is left to share
    assert torch.equal(y, z)


def test_extremes_and_means(synced):
    name = "0.activation_fake_quant.observer."
    for scheme, low, high in (("minmax", torch.min, torch.max), ("ema", *[lambda a, b: (a + b) / 2] * 2)):
        (a, shared, _, _), (b, _, _, _) = (rank[scheme] for rank in synced)
        assert a[f"{name}min_val"] != b[f"{name}min_val"]
        torch.testing.assert_close(shared[f"{name}min_val"], low(a[f"{name}min_val"], b[f"{name}min_val"]))
        torch.testing.assert_close(shared[f"{name}max_val"], high(a[f"{name}max_val"], b[f"{name}max_val"]))


def test_a_histogram_is_that_of_all_batches(synced):
    """Twice the mean is what one process counts, to the rounding up of odd bins."""
    (a, shared, _, _), (b, _, _, _) = (rank["mse"] for rank in synced)
    name = "0.activation_fake_quant.observer."
    alone = net("mse")
    for rank in range(WORLD):
        for step in range(2):
            alone(batch(10 * step + rank))
    counted = alone.state_dict()[f"{name}histogram"]
    assert a[f"{name}bound"] != b[f"{name}bound"] and shared[f"{name}bound"] == alone.state_dict()[f"{name}bound"]
    assert torch.equal(shared[f"{name}histogram"], (counted + 1) // 2)


def test_learned_activations_start_where_the_first_rank_did(synced):
    for scheme in ("lsq", "lsq+"):
        (a, shared, _, _), (b, _, _, _) = (rank[scheme] for rank in synced)
        name = "2.activation_fake_quant.base_scale"
        assert a[name] != b[name] and shared[name] == a[name]


def test_a_rank_without_data_takes_the_others(synced):
    assert torch.equal(synced[0]["late"], synced[1]["late"]) and synced[0]["late"].isfinite().all()


def _trained(rank, world, folder):
    """One step at a time under DDP and FSDP2, statistics shared after each; and a checkpoint written and read by both."""
    from torch.distributed.checkpoint import load, save
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
    from torch.distributed.fsdp import fully_shard

    whole = StateDictOptions(full_state_dict=True)
    mesh = dist.init_device_mesh("cpu", (world,))

    def sharded(scheme):
        model = net(scheme, watched=True)
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
        return model

    ways = {
        "ddp": lambda scheme: nn.parallel.DistributedDataParallel(net(scheme, watched=True), broadcast_buffers=False),
        "fsdp": sharded,
    }
    found = {}
    for scheme in ("ema", "lsq", "lsq+"):
        for way, wrap in ways.items():
            model = wrap(scheme)
            optimizer = torch.optim.SGD(model.parameters(), 0.02)
            for step in range(2):
                optimizer.zero_grad()
                model(batch(10 * step + rank)).square().mean().backward()
                optimizer.step()
                sync_observers(model)
            state = get_model_state_dict(model, options=whole)
            found[scheme, way] = {key.removeprefix("module."): value for key, value in state.items()}, model.eval()(batch(5)).detach()
        # Sharded files, read into shards and into a model of one process.
        own = get_model_state_dict(model)
        save(own, checkpoint_id=f"{folder}/{scheme}", no_dist=False)
        again = sharded(scheme)
        target = get_model_state_dict(again)
        load(target, checkpoint_id=f"{folder}/{scheme}")
        set_model_state_dict(again, target)
        found[scheme, "read"] = again.eval()(batch(5)).detach()
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return in_processes(functools.partial(_trained, folder=str(folder)), folder, WORLD)


@pytest.mark.parametrize("scheme", ["ema", "lsq", "lsq+"])
def test_ranks_train_one_model(scheme, trained):
    """Under DDP and FSDP2 alike; what ships is what every rank evaluates."""
    (ddp, y), (second, z) = (rank[scheme, "ddp"] for rank in trained)
    assert torch.equal(y, z)
    for name, value in ddp.items():
        assert torch.equal(value, second[name]), name
    sharded, w = trained[0][scheme, "fsdp"]
    assert torch.equal(w, trained[1][scheme, "fsdp"][1])
    for name, value in ddp.items():
        torch.testing.assert_close(sharded[name], value, rtol=1e-5, atol=1e-6)
    for state, output in ((ddp, y), (sharded, w)):
        model = net(scheme)
        model.load_state_dict(state)
        assert torch.equal(model.eval()(batch(5)), output)
        assert torch.equal(torchqat.convert(model)(batch(5)), output)
    assert torch.equal(trained[0][scheme, "read"], w) and torch.equal(trained[1][scheme, "read"], w)


def test_errors():
    with pytest.raises(RuntimeError, match="sync_observers: torch.distributed is not initialised"):
        sync_observers(net("ema"))


def test_no_model_is_prepared(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="sync_observers: model has no FakeQuantize"):
            sync_observers(nn.Linear(2, 2))
        dynamic = torchqat.prepare_qat(nn.Sequential(nn.Linear(2, 2)), QConfig.int8_dynamic())
        assert sync_observers(dynamic) is dynamic
    finally:
        dist.destroy_process_group()


def test_learned_scalars_of_earlier_checkpoints_load():
    """They were scalars, and a zero point lay in its parameter as a whole."""
    model = net("lsq+", watched=True)
    state = state_of(model)
    assert state["0.activation_fake_quant.zero_point"].shape == (1,)
    old = {key: value.reshape(()) if "log_scale" in key or "zero_point" in key else value for key, value in state.items()}
    for layer in ("0", "2"):
        prefix = f"{layer}.activation_fake_quant."
        old[f"{prefix}zero_point"] = old[f"{prefix}zero_point"] + old.pop(f"{prefix}base_zero_point")
    assert any(value.item() != 0 for key, value in old.items() if key.endswith(".zero_point"))
    again = net("lsq+")
    again.load_state_dict(old)
    assert torch.equal(again.eval()(batch(1)), model.eval()(batch(1)))


def _started_inside(rank, world):
    """Learned values that start in the first forward of a sharded model; both ranks see the same batches."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = dist.init_device_mesh("cpu", (world,))
    found = {}
    for scheme in ("lsq", "lsq+"):
        for way in ("plain", "fsdp", "bf16"):
            model = net(scheme)
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16) if way == "bf16" else MixedPrecisionPolicy()
            for layer in (model[0], model[2], model) if way != "plain" else ():
                fully_shard(layer, mesh=mesh, mp_policy=policy)
            optimizer = torch.optim.SGD(model.parameters(), 0.02)
            for step in range(3):
                optimizer.zero_grad()
                model(batch(7 + 2 * step) + 1.5).float().square().mean().backward()
                optimizer.step()
            found[scheme, way] = model.eval()(batch(5)).detach().float()
    return found


def test_learned_values_may_start_inside_a_sharded_forward(tmp_path):
    for found in in_processes(_started_inside, tmp_path, WORLD):
        for scheme in ("lsq", "lsq+"):
            plain = found[scheme, "plain"]
            torch.testing.assert_close(found[scheme, "fsdp"], plain, rtol=1e-5, atol=1e-5)
            assert (found[scheme, "bf16"] - plain).abs().max() < 0.1 * plain.abs().max()
