"""Latents led to a formula, once or edit by edit, with what was not asked for held where it was."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gentool.families.lace.energy import Operators, term_log_prob
from gentool.families.lace.formula import Node, terms
from gentool.families.lace.module import LaceModule
from gentool.families.lace.samplers import SAMPLERS, Found, Settings, rejection
from gentool.noise import Noise


@dataclass(frozen=True)
class Anchors:
    """What an edit is held to (the published weights): the latents it starts from, z and w, by `near`, and what the
    classifiers of all other attributes said of them, by `logits`."""

    near: float = 0.04
    logits: float = 0.01


@dataclass(frozen=True)
class Target:
    """The log density that latents are led by: z (B, d) -> (B,), up to a constant.

    Attributes:
        node: the formula.
        anchor: (B, d) latents before the edit; None: nothing is held.
        temperature: divides the logits of discrete attributes, before they are normalised.
    """

    module: LaceModule
    node: Node
    operators: Operators
    anchors: Anchors
    anchor: Tensor | None = None
    temperature: float = 1.0

    def __call__(self, z: Tensor) -> Tensor:
        w = self.module.generator.map(z)
        heads = self.module.heads_of(z, w)
        value = self.operators.log_prob(self.node, term_log_prob(heads, self.temperature))
        return value if self.anchor is None else value - self._held(z, w, heads, self.anchor)

    def _held(self, z: Tensor, w: Tensor, heads: dict[str, Tensor], anchor: Tensor) -> Tensor:
        before = self.module.generator.map(anchor)
        said = self.module.heads_of(anchor, before)
        apart = (z - anchor).square().sum(1) + (w - before).square().sum(1)
        edited = {term.name for term in terms(self.node)}
        others = [(heads[name] - said[name]).square().sum(1) for name in heads if name not in edited]
        return self.anchors.near * apart + self.anchors.logits * sum(others, z.new_zeros(len(z)))


def lead(target: Target, sampler: str, z: Tensor, noise: Noise, how: Settings) -> Found:
    """Latents z (B, d) led by the sampler of this name (`samplers.NAMES`).

    Raises:
        UserError: rejection of what is no density.
    """
    if sampler == "rejection":
        return rejection(target, z, noise, target.operators.bound(target.node))
    return SAMPLERS[sampler](target, z, noise, how)
