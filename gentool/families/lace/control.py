"""Latents led to a formula, once or edit by edit, with what was not asked for held where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gentool.families.lace.energy import Operators, term_log_prob
from gentool.families.lace.formula import Node, terms
from gentool.families.lace.module import LaceModule
from gentool.families.lace.samplers import SAMPLERS, Found, Settings, ode, rejection
from gentool.noise import Noise


@dataclass(frozen=True)
class Anchors:
    """What an edit is held to (the published weights): the latents it starts from, z and w, by `near`, and what the
    classifiers of all other attributes said of them, by `logits`.

    An attribute that reads the same as an edited one (a number, and two classes of it) is not another.
    """

    near: float = 0.04
    logits: float = 0.01


@dataclass(frozen=True)
class Before:
    """Where an edit starts: z (B, d), w (B, width), and what the classifiers say of them, by attribute."""

    z: Tensor
    w: Tensor
    heads: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, module: LaceModule, z: Tensor, label: Tensor | None) -> Before:
        w = module.generator.map(z, label)
        return cls(z, w, module.heads(z, w, label))

    def at(self, rows: Tensor) -> Before:
        return Before(self.z[rows], self.w[rows], {name: head[rows] for name, head in self.heads.items()})


@dataclass(frozen=True)
class Target:
    """The log density that latents are led by: z (B, d) -> (B,), up to a constant.

    Attributes:
        parts: formulas, all of which are asked for, and the weights of their log densities.
        label: (B,) classes of a conditional generator, which stay as they are; None where it has none.
        before: what the latents are held to; None: nothing.
        temperature, code_temperature: as of `energy.discrete`.
    """

    module: LaceModule
    parts: Sequence[tuple[float, Node]]
    operators: Operators
    anchors: Anchors
    label: Tensor | None = None
    before: Before | None = None
    temperature: float = 1.0
    code_temperature: bool = False

    def __call__(self, z: Tensor) -> Tensor:
        w = self.module.generator.map(z, self.label)
        heads = self.module.heads(z, w, self.label)
        leaf = term_log_prob(heads, self.temperature, code=self.code_temperature)
        value = sum(
            (weight * self.operators.log_prob(node, leaf) for weight, node in self.parts), z.new_zeros(len(z))
        )
        return value if self.before is None else value - self._held(z, w, heads, self.before)

    def at(self, rows: Tensor) -> Target:
        """The same of some of the latents."""
        label = None if self.label is None else self.label[rows]
        return replace(self, label=label, before=None if self.before is None else self.before.at(rows))

    @property
    def bound(self) -> float:
        """The highest value there is; what is held only lowers it.

        Raises:
            UserError: it is no density.
        """
        return sum(weight * self.operators.bound(node) for weight, node in self.parts)

    def _held(self, z: Tensor, w: Tensor, heads: dict[str, Tensor], before: Before) -> Tensor:
        apart = (z - before.z).square().sum(1) + (w - before.w).square().sum(1)
        asked = {term.name for _, node in self.parts for term in terms(node)}
        edited = {name for each in asked for name in self.module.alike(each)}
        others = [(heads[name] - before.heads[name]).square().sum(1) for name in heads if name not in edited]
        return self.anchors.near * apart + self.anchors.logits * sum(others, z.new_zeros(len(z)))


def onward(target: Target, drawn: Found, z: Tensor, noise: Noise, how: Settings) -> Found:
    """The ODE from draws of the posterior: near a mode each, as often as the posterior has it.

    From samples of the prior (equation 7) it climbs to whatever mode is nearest, where a formula of several attributes
    may be true by halves.
    """
    lost = drawn.failed[:, None]
    found = ode(target, torch.where(lost, z, drawn.z), noise, how)
    return Found(found.z.masked_fill(lost, torch.nan), found.failed | drawn.failed, drawn.nfe + found.nfe)


def lead(target: Target, sampler: str, z: Tensor, noise: Noise, how: Settings) -> Found:
    """Latents z (B, d) led by the sampler of this name (`samplers.NAMES`).

    Raises:
        UserError: rejection of what is no density.
    """
    if sampler.startswith("rejection"):
        drawn = rejection(lambda z, rows: target.at(rows)(z), z, noise, target.bound)
        return drawn if sampler == "rejection" else onward(target, drawn, z, noise, how)
    return SAMPLERS[sampler](target, z, noise, how)
