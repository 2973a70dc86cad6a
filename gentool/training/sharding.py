"""Weights in shards: a device keeps its share of every tensor, and gathers a block's while it computes with it.

PyTorch's fully_shard (FSDP2) under Lightning's strategy for it. Between steps weights, gradients, moments and average
are DTensors cut along their first dimension; run folders hold whole tensors, so that any life of a run may have another
strategy.
Source: Rajbhandari et al. 2020, ZeRO (1910.02054), stage 3; Zhao et al. 2023, PyTorch FSDP (2304.11277).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from gentool.errors import UserError

BLOCK = 1_000_000
"""Weights from which on a block is gathered by itself: 4 MB, where a link's time begins to outweigh a call's."""


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for weights that `GenModule.configure_model` cuts, with states as every other has them.

    Its own reads and writes checkpoint files by itself, and loads no optimiser's state from elsewhere.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        state = optimizer.state_dict()
        return {**state, "state": {index: gathered(of) for index, of in state["state"].items()}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            cut = {
                index: {key: _moment(value, weights[index]) for key, value in of.items()}
                for index, of in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": cut})


def _moment(value: Any, weight: Tensor) -> Any:
    """A part of the optimiser's state of a weight, cut as the weight is where it is of its shape (counts are not)."""
    return placed(value, weight) if isinstance(value, Tensor) and value.shape == weight.shape else value


def blocks(network: nn.Module) -> dict[nn.Module, list[nn.Parameter]]:
    """What is gathered at once: blocks, inner ones first and the network last, with the weights no inner one has.

    A block is an element of a list, dictionary or sequence of modules, which is called, with `BLOCK` weights or more.
    """
    found: dict[nn.Module, list[nn.Parameter]] = {}
    taken: set[nn.Parameter] = set()

    def visit(module: nn.Module, called: bool) -> None:
        for child in module.children():
            lists = isinstance(module, nn.ModuleList | nn.ModuleDict | nn.Sequential)
            visit(child, lists and not isinstance(child, nn.ModuleList | nn.ModuleDict))
        rest = [weight for weight in module.parameters() if weight not in taken]
        if module is network or (called and sum(weight.numel() for weight in rest) >= BLOCK):
            found[module] = rest
            taken.update(rest)

    visit(network, False)
    return found


def shard(module: nn.Module, networks: Sequence[nn.Module], mesh: DeviceMesh) -> None:
    """Cuts the weights of `networks` over the devices of a mesh of one dimension.

    Args:
        module: what is trained. networks: its parts that a step calls, and that have all its trained weights.

    Raises:
        UserError: a trained weight lies outside: its gradient would be that of one device's share of the batch.
    """
    inside = {weight for network in networks for weight in network.parameters()}
    for name, weight in module.named_parameters():
        if weight.requires_grad and weight not in inside:
            raise UserError(
                f"fsdp: the weights {name} are in no network that is sharded; use ddp", "trainer.strategy"
            )
    for network in networks:
        for block in blocks(network):
            fully_shard(block, mesh=mesh)


def local(value: Tensor) -> Tensor:
    """This device's share; all of a tensor that is not cut. Changes in place reach `value`; takes no gradient."""
    return value.to_local() if isinstance(value, DTensor) else value


def placed(value: Tensor, like: Tensor) -> Tensor:
    """This device's share of a whole `value`, which every device has, cut as `like` is; else `value` itself."""
    if not isinstance(like, DTensor):
        return value
    # a copy: a view of the share would keep the whole in memory
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None).clone()


def gathered(state: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors of a state of which some are cut, on rank 0 and its CPU; nothing elsewhere. Every rank calls it.

    A state without shards is handed back as it is, on every rank.
    """
    if not any(isinstance(value, DTensor) for value in state.values()):
        return dict(state)
    first, found = dist.get_rank() == 0, {}
    for name, value in state.items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if first:
            found[name] = whole.cpu() if isinstance(value, DTensor) else value
    return found


def all_finite(weights: Sequence[Tensor]) -> Tensor:
    """(len(weights),) bool: whether this device's share of each is finite."""
    return torch.stack([torch.isfinite(local(weight.detach())).all() for weight in weights])
