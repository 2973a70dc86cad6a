"""gentool train --dry-run: what a run would be and cost; writes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from gentool import families, networks
from gentool.data import Batch, DataSpec, open_set
from gentool.privacy.mechanisms import Phase
from gentool.privacy.plan import Plan, plan
from gentool.privacy.randomness import Secrets
from gentool.recipes.resolve import Resolved, resolve
from gentool.recipes.schema import Recipe
from gentool.tasks.model.base import ledger_to_inherit, named
from gentool.tasks.model.build import build_module
from gentool.tasks.model.load import best_device
from gentool.tasks.training.loop import quiet_lightning
from gentool.training.module import GenModule
from gentool.training.private.setup import build_engine, check, physical_batch
from gentool.training.private.step import OwnStep, PrivateStep
from gentool.training.probe import random_batch
from gentool.training.sharding import blocks

BUDGET = 20.0
"""Seconds that the timed steps may take; the batch is cut until one step fits."""


@dataclass(frozen=True)
class DryRun:
    """`measured_batch` is the batch that was timed; rates and memory are scaled from it to the share of a device.

    Attributes:
        processes: nodes x devices, over which the recipe's batch is shared.
        memory_bytes: on each device.
        steps_per_second: of computing alone.
        communication_bytes: what each process sends, and receives, a step.
        plan: of a private training. before: what was released ahead of it, by the run that it starts from.
    """

    resolved: Resolved
    family: str
    parameters: networks.Summary
    steps_per_second: float
    memory_bytes: int
    measured_batch: int
    device: str
    plan: Plan | None
    processes: int = 1
    communication_bytes: int = 0
    before: tuple[Phase, ...] = ()

    @property
    def epsilon(self) -> float | None:
        """What a private run will have spent when it is done; None where nothing is private."""
        if self.plan is None or self.plan.not_private():
            return None
        return self.plan.epsilon(self.before)

    def values(self) -> list[tuple[str, str, str]]:
        """(dotted key, value, origin) of every leaf of the resolved recipe."""
        tree = self.resolved.recipe.model_dump(mode="json")
        return [(key, json.dumps(_at(tree, key)), origin) for key, origin in self.resolved.origins.items()]


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def dry_run(source: str, overrides: Sequence[str] = ()) -> DryRun:
    """Builds the model, runs a few real steps on random data of the set's shape, and measures.

    Memory is weights, gradients, optimiser and EMA, and the activations that a step keeps for its backward pass.
    """
    resolved = resolve(source, overrides, families.recipe_schema)
    quiet_lightning()
    spec = data_spec(resolved.recipe)
    module = build_module(resolved.recipe, spec)
    device = best_device()
    module.to(device).train()
    module.prepare_training()
    parameters = networks.summary(_parts(module))
    found, before = privacy_plan(resolved.recipe)
    processes = world_size(resolved.recipe)
    batch = resolved.recipe.data.batch_size / processes
    if found is None or module.own_private_step:
        if found is not None:
            module.private = OwnStep(found, Secrets())
        module.assume_data()
        size, rate, kept = measure(module, partial(one_step, module), spec, device)
        activations = kept * batch / size
    else:
        check(module)
        module.fit_privately()
        step, each = private_step(module, found)
        size, rate, _ = measure(module, partial(one_private_step, module, step), spec, device)
        batch = found.expected_batch / processes
        activations = each * min(batch, step.physical_batch)
    return DryRun(
        resolved,
        resolved.recipe.family,
        parameters,
        rate * size / batch,
        fixed_bytes(module, processes) + int(activations),
        size,
        str(device),
        found,
        processes,
        communication_bytes(module, processes),
        before,
    )


def world_size(recipe: Recipe) -> int:
    """Processes that train together, as far as the recipe tells: `devices: auto` is taken for one."""
    config = recipe.trainer
    return config.nodes * (1 if config.devices == "auto" else config.devices)


def communication_bytes(module: GenModule, processes: int) -> int:
    """What each process sends, and receives, a step: (n - 1)/n of all that is gathered or reduced in rings.

    Whole weights: an all-reduce of the gradient, which is two such passes. Shards, for each batch of a step: a block
    is gathered for the forward pass and again for the backward one, the rest of a network once, and the gradient is
    reduced once.
    Source: Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms, theorem 1: no algorithm sends less.
    """
    moved = 2 * _bytes(p for p in module.parameters() if p.requires_grad)
    if module.recipe.trainer.strategy == "fsdp":
        cuts = [block_bytes(network) for network in module.compiled_parts()]
        moved = sum(3 * sum(inner) + 2 * rest for inner, rest in cuts) * module.recipe.trainer.accumulate
    return moved * (processes - 1) // processes


def block_bytes(network: nn.Module) -> tuple[list[int], int]:
    """Bytes of the blocks inside that are gathered one by one, largest first, and of the rest of the network."""
    *inner, rest = (_bytes(weights) for weights in blocks(network).values())
    return sorted(inner, reverse=True), rest


def _bytes(weights: Iterable[nn.Parameter]) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)


def privacy_plan(recipe: Recipe) -> tuple[Plan | None, tuple[Phase, ...]]:
    """The plan of the recipe's `privacy:` block, if it has one, for a run that starts, and what counts before it."""
    if recipe.privacy is None:
        return None, ()
    records = recipe.data.public_records()
    size, steps = recipe.data.batch_size, recipe.trainer.max_steps
    base = named(cast(Any, recipe).base) if families.FAMILIES.get(recipe.family).distils else None
    spent = None if base is None else ledger_to_inherit(base, recipe.privacy)
    before = () if spent is None else spent.phases()
    return plan(recipe.privacy, size, steps, records, before, private_step=recipe.private_step), before


def _parts(module: nn.Module) -> nn.Module:
    """The first module inside with more than one part: what a count by module should list."""
    children = list(module.children())
    return _parts(children[0]) if len(children) == 1 else module


def data_spec(recipe: Recipe) -> DataSpec:
    """The examples' shape and classes: from the data where they are present, else what the set is known to hold."""
    expected: DataSpec | None = recipe.data.expected_spec()
    if expected is None or recipe.data.present():
        return open_set(recipe.data, "train").spec
    return expected


def private_step(module: GenModule, found: Plan) -> tuple[PrivateStep, float]:
    """The step of a private run that accounts for nothing, as nothing is released, and a record's bytes."""
    privacy = module.recipe.privacy
    assert privacy is not None
    engine = build_engine(module, privacy, lambda line: None)
    at_once, each = physical_batch(module, engine, privacy)
    return PrivateStep(found, Secrets(), privacy.secure_noise, engine=engine, physical_batch=at_once), each


def measure(
    module: GenModule, step: Callable[[Batch], tuple[float, int]], spec: DataSpec, device: torch.device
) -> tuple[int, float, int]:
    """(batch timed, steps per second at it, activation bytes it keeps)."""
    started = time.perf_counter()
    size = 1
    rate, kept = step(random_batch(spec, size, device))
    while size < module.recipe.data.batch_size and time.perf_counter() - started + 4 / rate < BUDGET:
        size = min(2 * size, module.recipe.data.batch_size)
        rate, kept = step(random_batch(spec, size, device))
    again, _ = step(random_batch(spec, size, device))
    return size, max(rate, again), kept


def one_step(module: GenModule, batch: Batch) -> tuple[float, int]:
    """One forward and backward pass and an optimiser step: (steps per second, bytes saved for the backward pass)."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    started = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module.try_step(batch)
    if module.device.type == "cuda":
        torch.cuda.synchronize()
    assert torch.isfinite(loss), "the untrained model's loss is not finite"
    rate = 1 / max(1e-9, time.perf_counter() - started)
    return rate, sum(size for pointer, size in kept.items() if pointer not in weights)


def one_private_step(module: GenModule, step: PrivateStep, batch: Batch) -> tuple[float, int]:
    """One private gradient of a batch, noise and all: (steps per second, 0: `private_step` measures the bytes)."""
    examples, started = module.try_examples(batch), time.perf_counter()
    step.take(examples, 0)
    if module.device.type == "cuda":
        torch.cuda.synchronize()
    return 1 / max(1e-9, time.perf_counter() - started), 0


def fixed_bytes(module: GenModule, processes: int) -> int:
    """Weights, gradients, two Adam moments and the EMA, in float32; of a frozen base its weights alone.

    Of shards one in `processes`, and weights and gradients of what is whole at a time: the rest of each network, and of
    its blocks the one that computes and the one that is gathered ahead.
    """
    adam = 0 if module.recipe.optimizer.name == "sgd" else 2
    ema = 0 if module.ema is None else sum(p.numel() * 4 for p in module.model.parameters())
    frozen = 0 if module.base is None else _bytes(module.base.parameters())
    kept = _bytes(module.parameters()) * (2 + adam) + ema
    if module.recipe.trainer.strategy == "fsdp" and processes > 1:
        cuts = [block_bytes(network) for network in module.compiled_parts()]
        kept = kept // processes + sum(2 * (sum(inner[:2]) + rest) for inner, rest in cuts)
    return kept + frozen
