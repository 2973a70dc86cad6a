"""What `Family.shards` promises: networks that are called whole, in which all trained weights are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from gentool import families
from gentool.errors import UserError
from gentool.training import sharding
from tests.conformance.test_families import CASES, batch_of, make

pytestmark = pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")
SHARDED = [name for name, (family, _) in CASES.items() if families.FAMILIES.get(family).shards]


@pytest.fixture(scope="module")
def mesh() -> Iterator[DeviceMesh]:
    """One process: nothing is cut, but weights are handed out and taken back as with many."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("case", SHARDED)
def test_sharded_networks_give_the_same_gradients(
    case: str, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every block by itself, so that a weight that is read without a call of its block is not there."""
    monkeypatch.setattr(sharding, "BLOCK", 1)
    whole, cut = make(case).train(), make(case).train()
    sharding.shard(cut, cut.compiled_parts(), mesh)
    assert all(isinstance(weight, DTensor) for weight in cut.parameters() if weight.requires_grad)
    batch = batch_of(whole, list(range(8)))
    torch.testing.assert_close(cut.try_step(batch), whole.try_step(batch))
    found = dict(cut.named_parameters())
    for name, weight in whole.named_parameters():
        gradient = found[name].grad
        assert isinstance(gradient, DTensor), name
        assert weight.grad is not None
        torch.testing.assert_close(gradient.full_tensor(), weight.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_are_sharded_too(mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "BLOCK", 1)
    whole, cut = make("edm edm").train(), make("edm edm").train()
    for part in cut.compiled_parts():
        part.compile()
    sharding.shard(cut, cut.compiled_parts(), mesh)
    batch = batch_of(whole, list(range(8)))
    torch.testing.assert_close(cut.try_step(batch), whole.try_step(batch), rtol=1e-5, atol=1e-6)
    found = dict(cut.named_parameters())
    for name, weight in whole.named_parameters():
        gradient = found[name].grad
        assert isinstance(gradient, DTensor), name
        torch.testing.assert_close(gradient.full_tensor(), weight.grad, rtol=1e-4, atol=1e-5)


def test_blocks_are_inner_ones_first_and_every_weight_is_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "BLOCK", 1500)
    network = make("edm u-net, augmented").compiled_parts()[0]
    found = sharding.blocks(network)
    assert list(found)[-1] is network
    assert len(found) > 4
    cut = [id(weight) for weights in found.values() for weight in weights]
    assert sorted(cut) == sorted(map(id, network.parameters()))
    for block, weights in list(found.items())[:-1]:
        assert sum(weight.numel() for weight in weights) >= 1500
        assert set(weights) <= set(block.parameters())


def test_a_weight_outside_the_networks_is_refused(mesh: DeviceMesh) -> None:
    """Its gradient would be that of one process's share of the batch alone."""
    module = make("edm edm")
    with pytest.raises(UserError, match="are in no network that is sharded"):
        sharding.shard(module, [], mesh)
