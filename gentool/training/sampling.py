"""What a sampling task asks of a family's module, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gentool.diffusion.gradients.rollout import Replay
from gentool.diffusion.guidance.classifier import LogProb
from gentool.errors import UserError
from gentool.noise import Noise
from gentool.recipes.schema import Sample
from gentool.training.one_shot import ignored


@dataclass(frozen=True)
class Guide:
    """A classifier of noisy states x = x0 + sigma eps that samples are steered by, and where it may be asked.

    Attributes:
        log_prob: (x (B, ...), sigma (B,), label (B,)) -> (B,) log p(label | x, sigma).
        shape: of one sample.
        class_names: of its classes, in the order of their labels.
        sigma_min, sigma_max: the noise levels it knows.
    """

    log_prob: LogProb
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    sigma_min: float
    sigma_max: float

    @property
    def classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class SampleRequest:
    """One batch of samples.

    Attributes:
        indices: the global index of each sample; with the seed it fixes its noise.
        labels: (B,) int64 class labels (the guide's where the model itself is unconditional), or None.
        settings: the `sample:` block: solver, steps, grid, guidance ...
        guide: the classifier of the guidance rule `classifier`.
        on_step: called with (steps done, steps in all), for progress.
        start: (B, ...) standard normal values to start from in place of the seed's, with gradients; heeded by
            `drawing.draw`.
        replay: how `drawing.draw` takes gradients back through the solver's steps.
    """

    seed: int
    indices: Sequence[int]
    labels: Tensor | None
    settings: Sample
    guide: Guide | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_step: Callable[[int, int], None] | None = None
    start: Tensor | None = None
    replay: Replay | None = None

    def noise(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Noise:
        return Noise(self.seed, self.indices, shape, self.device, dtype)


@dataclass(frozen=True)
class Drawn:
    """Samples `x` (B, ...) in model space, network calls per sample, and what made them."""

    x: Tensor
    nfe: float
    manifest: Mapping[str, Any]


def check_one_shot(settings: Sample, guide: Guide | None, own: frozenset[str]) -> None:
    """Refuses what a generator without steps would ignore.

    Args:
        own: keys of the `sample:` block that are its family's own.

    Raises:
        UserError: a solver, steps, guidance, a classifier ...
    """
    if guide is not None:
        raise UserError("--classifier: a one-shot generator has no steps to guide")
    if (fault := ignored(settings, own)) is not None:
        raise UserError(fault[1], f"sample.{fault[0]}")
