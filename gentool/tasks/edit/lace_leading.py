"""Latents led by formulas one after the other, and the pictures of each edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gentool.errors import UserError, did_you_mean
from gentool.families.lace.control import Anchors, Before, Target, lead
from gentool.families.lace.energy import Operators
from gentool.families.lace.formula import Node, terms
from gentool.families.lace.module import LaceModule
from gentool.families.lace.samplers import NAMES, Settings
from gentool.noise import Noise

LAYERS = "--layers"


@dataclass(frozen=True)
class How:
    """The sampler and its constants, as the user says them.

    Attributes:
        temperature, code_temperature: as of `energy.discrete`.
        anchors: None: the published weights where there are several formulas, nothing held where there is one.
        together: whether edit k is led by all formulas up to the k-th, or by the k-th alone.
        reweight: see `weighted`.
        layers: of an attribute, those whose w its edits change in the picture; absent: all.
        truncation: of the generator; None: that of the labelled latents.
    """

    sampler: str = "ode"
    settings: Settings = field(default_factory=Settings)
    operators: Operators = field(default_factory=Operators)
    temperature: float = 1.0
    code_temperature: bool = False
    anchors: Anchors | None = None
    together: bool = True
    reweight: bool = False
    layers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    truncation: float | None = None

    def __post_init__(self) -> None:
        if self.sampler not in NAMES:
            raise UserError(f"unknown sampler {self.sampler!r} (there are: {', '.join(NAMES)})", "--sampler")


@torch.no_grad()
def rendered(module: LaceModule, z: Tensor, label: Tensor | None) -> Tensor:
    """The pictures (N, C, H, W) of latents z (N, d)."""
    return _pictures(module, module.generator.map(z, label))


def _pictures(module: LaceModule, w: Tensor) -> Tensor:
    """(N, C, H, W) of w, (N, d) or one a layer."""
    return torch.cat([module.generator.pictures(part) for part in w.split(256)])


def moved_layers(module: LaceModule, nodes: Sequence[Node], how: How) -> list[set[int] | None]:
    """Of each edit, the layers whose w it changes in the picture: those of all attributes that lead it; None: all.

    Raises:
        UserError: layers that the generator does not have, or of an attribute for which they make no difference.
    """
    known, count = module.attributes(), module.generator.layers
    for name, layers in how.layers.items():
        if name not in known:
            raise UserError(
                f"no attribute {name!r}{did_you_mean(name, list(known))} (there are: {', '.join(known)})",
                LAYERS,
            )
        if count == 1:
            raise UserError("this generator has no layers that could take a w each", LAYERS)
        if max(layers) >= count:
            raise UserError(f"{name}: the generator's layers are 0 to {count - 1}, not {max(layers)}", LAYERS)
    found: list[set[int] | None] = []
    idle = set(how.layers)
    for k in range(len(nodes)):
        names = {term.name for node in led_by(nodes, k, how) for term in terms(node)}
        if names <= how.layers.keys():
            idle -= names
            found.append({i for name in names for i in how.layers[name]})
        else:
            found.append(None)
    if idle:
        raise UserError(
            f"{min(idle)}: no formula asks for it, or only beside attributes that change all layers: name theirs too",
            LAYERS,
        )
    return found


def led_by(nodes: Sequence[Node], k: int, how: How) -> Sequence[Node]:
    """The formulas that lead edit k."""
    return nodes[: k + 1] if how.together else nodes[k : k + 1]


def weighted(module: LaceModule, nodes: Sequence[Node], reweight: bool) -> list[tuple[float, Node]]:
    """Formulas that lead an edit, its own last, and the weights of their log densities.

    1, or as by the published code's `reweight`: 0.1 of those before the last, and 10 of the last where it asks for
    numbers alone.
    """
    if not reweight:
        return [(1.0, node) for node in nodes]
    numbers = all(not module.classes_of[term.name] for term in terms(nodes[-1]))
    return [*((0.1, node) for node in nodes[:-1]), (10.0 if numbers else 1.0, nodes[-1])]


@torch.no_grad()
def rendered_edits(
    module: LaceModule, latents: Sequence[Tensor], label: Tensor | None, moved: Sequence[set[int] | None]
) -> list[Tensor]:
    """The pictures (N, C, H, W) before and after every edit, whose layers it does not move keep the w they had.

    Args:
        latents: z (N, d) before and after every edit.
        moved: as of `moved_layers`.
    """
    if all(layers is None for layers in moved):
        return [rendered(module, z, label) for z in latents]
    generator = module.generator
    ws = generator.map(latents[0], label)[:, None].repeat(1, generator.layers, 1)
    found = [ws]
    for z, layers in zip(latents[1:], moved):
        ws = ws.clone()
        ws[:, sorted(range(generator.layers) if layers is None else layers)] = generator.map(z, label)[
            :, None
        ]
        found.append(ws)
    return [_pictures(module, each) for each in found]


def led(
    module: LaceModule,
    nodes: Sequence[Node],
    rows: range,
    seed: int,
    how: How,
    cycle: Sequence[int] | None = None,
) -> tuple[list[Tensor], Tensor, float]:
    """Latents (B, d) before, and after each edit; which failed (B,): they stay where they began; gradients a sample.

    Edit k is led by all formulas up to the k-th together (`How.together`), and held to the latents before it.

    Args:
        cycle: as of `LaceModule.held_labels`.
    """
    z, label = module.latents(seed, rows), module.held_labels(rows, cycle)
    anchors = how.anchors or (Anchors() if len(nodes) > 1 else Anchors(0, 0))
    held = anchors.near > 0 or anchors.logits > 0
    stages, failed, nfe = [z], torch.zeros(len(z), dtype=torch.bool, device=z.device), 0.0
    for k in range(len(nodes)):
        before = Before.of(module, z, label) if held else None
        parts = weighted(module, led_by(nodes, k, how), how.reweight)
        target = Target(
            module, parts, how.operators, anchors, label, before, how.temperature, how.code_temperature
        )
        noise = Noise(seed, rows, (module.generator.latent,), z.device)
        found = lead(target, how.sampler, z, noise, how.settings)
        failed, nfe = failed | found.failed, nfe + found.nfe
        z = torch.where(found.failed[:, None], z, found.z)
        stages.append(z)
    return [torch.where(failed[:, None], stages[0], stage) for stage in stages], failed, nfe
