"""The losses of both stages as functions of networks and examples, their start, their rates, and what is watched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gentool.errors import UserError
from gentool.families.lion.autoencoder import Autoencoder
from gentool.families.lion.config import Guided
from gentool.families.lion.generation import beside
from gentool.families.lion.priors import Priors
from gentool.points.distances import chamfer, emd
from gentool.points.neighbours import distances
from gentool.recipes.schema import Optimizer
from gentool.runs.folder import RunFolder
from gentool.runs.weights import load_weights
from gentool.training.module import Examples
from gentool.training.optimizers import LrSchedule


def autoencoder_losses(autoencoder: Autoencoder, examples: Examples, guided: Guided | None) -> Tensor:
    """(B,) reconstruction error and the weighted divergences of both latents.

    The error is the sum over points and axes of |x' - x|, point by point (a Laplace likelihood of unit scale). From a
    degraded input there is no such correspondence: it is the number of points times Chamfer and earth mover's
    distance.
    """
    x = examples["x"]
    encoded = autoencoder.encode(examples.get("input", x), examples["style_noise"], examples["point_noise"])
    made = autoencoder.decode(encoded.style, encoded.points)
    if guided is None:
        error = (made - x).abs().flatten(1).sum(1)
    else:
        error = chamfer(made.mT, x.mT)
        if guided.emd_weight:
            error = error + guided.emd_weight * emd(made.mT, x.mT)
        error = error * x.shape[2]
    return error + examples["kl_weight"] * encoded.kl()


def prior_losses(autoencoder: Autoencoder, priors: Priors, examples: Examples) -> Tensor:
    """(B,) sums of both priors' mean squared errors, on latents drawn by the frozen autoencoder."""
    with torch.no_grad(), evaluating(autoencoder):
        encoded = autoencoder.encode(examples["x"], examples["style_noise"], examples["point_noise"])
    level, condition = examples["level"], examples.get("condition")
    of_style = priors.losses(priors.style, encoded.style, level, examples["style_eps"], condition)
    told = beside(encoded.style, condition)
    return of_style + priors.losses(priors.points, encoded.points, level, examples["point_eps"], told)


@torch.no_grad()
def watched(autoencoder: Autoencoder, examples: Examples) -> tuple[dict[str, float], float]:
    """How the autoencoder does, for the log, and what to hold its reconstructions against: the mean squared distance of
    the clouds' points to their neighbours, both ways."""
    x = examples["x"]
    with evaluating(autoencoder):
        encoded = autoencoder.encode(
            examples.get("input", x), examples["style_noise"], examples["point_noise"]
        )
        made = autoencoder.decode(encoded.style, encoded.points)
    nearest = distances(x.mT, x.mT).topk(min(2, x.shape[2]), largest=False).values[..., -1]
    figures = {
        "reconstruction_cd": chamfer(made.mT, x.mT).mean(),
        "kl": encoded.kl().mean(),
        "style_kl": encoded.style_law.kl().mean(),
        "points_std": encoded.points_law.log_std[:, :3].exp().mean(),
        "style_std": encoded.style_law.log_std.exp().mean(),
        "style_mean": encoded.style_law.mean.abs().mean(),
    }
    return {key: float(value) for key, value in figures.items()}, 2 * float(nearest.square().mean())


class StagedRate(LrSchedule):
    """The learning rate of either stage, each with its own warm-up and schedule over its own steps."""

    def __init__(self, first: Optimizer, second: Optimizer, border: int, max_steps: int) -> None:
        super().__init__(first, border)
        self.later = LrSchedule(second, max_steps - border)

    def __call__(self, step: int) -> float:
        return super().__call__(step) if step < self.max_steps else self.later(step - self.max_steps)


@contextmanager
def evaluating(autoencoder: Autoencoder) -> Iterator[None]:
    """Within it the autoencoder drops nothing out."""
    before = autoencoder.training
    autoencoder.eval()
    try:
        yield
    finally:
        autoencoder.train(before)


def load_start(networks: nn.Module, guided: Guided, family: str) -> None:
    """Loads the weights of the trained run that `model.guided.start` names.

    Raises:
        UserError: no run of this family and of these networks lies there.
    """
    run = RunFolder.open(guided.start)
    tensors, metadata = load_weights(run.require_weights())
    if metadata.get("family") != family:
        raise UserError(
            f"{guided.start} is a run of the family {metadata.get('family')}", "model.guided.start"
        )
    try:
        networks.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{guided.start} has other networks than this recipe: {first}", "model.guided.start"
        ) from None
