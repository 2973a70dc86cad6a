"""gentool train --dry-run: what a run would be and cost; writes nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gentool import families, networks
from gentool.data import Batch, DataSpec, open_set
from gentool.privacy.plan import Plan, plan
from gentool.recipes.resolve import Resolved, resolve
from gentool.recipes.schema import Recipe
from gentool.tasks.train import build_module, quiet_lightning
from gentool.training.module import GenModule

BUDGET = 20.0
"""Seconds that the timed steps may take; the batch is cut until one step fits."""


@dataclass(frozen=True)
class DryRun:
    """`measured_batch` is the batch that was timed; rates and memory are scaled from it to the recipe's own.

    `plan` is that of a private training.
    """

    resolved: Resolved
    family: str
    parameters: networks.Summary
    steps_per_second: float
    memory_bytes: int
    measured_batch: int
    device: str
    plan: Plan | None

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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module.to(device).train()
    module.prepare_training()
    module.assume_data()
    parameters = networks.summary(_parts(module))
    size, rate, kept = measure(module, spec, device)
    batch = resolved.recipe.data.batch_size
    return DryRun(
        resolved,
        resolved.recipe.family,
        parameters,
        rate * size / batch,
        fixed_bytes(module) + kept * batch // size,
        size,
        str(device),
        privacy_plan(resolved.recipe),
    )


def privacy_plan(recipe: Recipe) -> Plan | None:
    """The plan of the recipe's `privacy:` block, if it has one, for a run that starts."""
    if recipe.privacy is None:
        return None
    records = recipe.data.public_records()
    return plan(recipe.privacy, recipe.data.batch_size, recipe.trainer.max_steps, records)


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


def random_batch(spec: DataSpec, size: int, device: torch.device) -> Batch:
    """Data of the right shape and type, and nothing else."""
    generator = torch.Generator().manual_seed(0)
    if spec.kind == "image":
        x = torch.randint(0, 256, (size, *spec.shape), generator=generator, dtype=torch.uint8)
    else:
        x = torch.randn(size, *spec.shape, generator=generator)
    labels = torch.randint(0, max(1, spec.classes), (size,), generator=generator)
    return Batch(x.to(device), labels.to(device), torch.arange(size, device=device))


def measure(module: GenModule, spec: DataSpec, device: torch.device) -> tuple[int, float, int]:
    """(batch timed, steps per second at it, activation bytes it keeps)."""
    started = time.perf_counter()
    size = 1
    rate, kept = one_step(module, random_batch(spec, size, device))
    while size < module.recipe.data.batch_size and time.perf_counter() - started + 4 / rate < BUDGET:
        size = min(2 * size, module.recipe.data.batch_size)
        rate, kept = one_step(module, random_batch(spec, size, device))
    again, _ = one_step(module, random_batch(spec, size, device))
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


def fixed_bytes(module: GenModule) -> int:
    """Weights, gradients, two Adam moments and the EMA, in float32; of a frozen base its weights alone."""
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    adam = 0 if module.recipe.optimizer.name == "sgd" else 2
    ema = 0 if module.ema is None else sum(p.numel() * 4 for p in module.model.parameters())
    frozen = 0 if module.base is None else sum(p.numel() * p.element_size() for p in module.base.parameters())
    return weights * (2 + adam) + ema + frozen
