"""What families share whose generator and discriminator train each other by turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from gentool.data import DataSpec
from gentool.networks.discriminator import group_size
from gentool.recipes.schema import Optimizer
from gentool.training.adversarial_config import AdversarialRecipe
from gentool.training.module import GenModule
from gentool.training.optimizers import LrSchedule, build_optimizer


class AdversarialModule(GenModule):
    """Two networks, `model` (the generator: the average follows it, and samples need no more) and `discriminator`.

    A family writes `training_step`, in which each update is an `update`, and `try_step`.
    """

    takes_turns = True
    recipe: AdversarialRecipe
    discriminator: nn.Module

    def __init__(self, recipe: AdversarialRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        self.automatic_optimization = False

    def optimizer_settings(self) -> tuple[Optimizer, Optimizer]:
        """The generator's and the discriminator's, as they are used."""
        return self.recipe.optimizer, self.recipe.discriminator_optimizer

    def configure_optimizers(self) -> Any:
        networks = (self.model, self.discriminator)
        return [build_optimizer(c, n.parameters()) for c, n in zip(self.optimizer_settings(), networks)]

    def lr_schedules(self) -> list[LrSchedule]:
        return [LrSchedule(config, self.recipe.trainer.max_steps) for config in self.optimizer_settings()]

    def both_optimizers(self) -> tuple[LightningOptimizer, LightningOptimizer]:
        """The generator's and the discriminator's."""
        generators, discriminators = cast(list[LightningOptimizer], self.optimizers())
        return generators, discriminators

    def update(self, optimizer: LightningOptimizer, loss: Tensor) -> None:
        """One step of one network down a loss."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        if (clip := self.recipe.trainer.clip_norm) is not None:
            self.clip_gradients(optimizer.optimizer, gradient_clip_val=clip, gradient_clip_algorithm="norm")
        optimizer.step()

    def logs_now(self) -> bool:
        """Whether figures of this step are wanted."""
        config = self.recipe.trainer
        return (self.step + 1) % config.log_every == 0 or self.step + 1 == config.max_steps

    def drawn(self, law: Any, count: int, *shape: int) -> Tensor:
        """(count, *shape) draws of `torch.rand` or `torch.randn` for this rank's share of the batch."""
        return self.global_draw(count, lambda n: law(n, *shape, generator=self.rng, device=self.device))

    def warn_of_groups(self, group: int) -> None:
        """Says so if the groups of the minibatch standard deviation do not fit the batch."""
        batch = self.recipe.data.batch_size
        if (size := group_size(batch, group)) != group:
            self.say(
                f"warning: model.discriminator.group: {group} does not divide a batch of {batch}; groups of {size}"
            )


def gradient_squares(logits: Tensor, x: Tensor) -> Tensor:
    """(B,) squared norms of each logit's gradient in x (B, ...), themselves differentiable (R1, 1801.04406)."""
    (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within it the network's weights gather no gradient; gradients still pass through it."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
