"""Recipe of a generator and a discriminator that train each other."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from gentool.recipes.schema import Misfit, Optimizer, Recipe


class AdversarialRecipe(Recipe):
    optimizer: Optimizer = Optimizer()
    """The generator's optimiser."""
    discriminator_optimizer: Optimizer = Optimizer()
    """The discriminator's optimiser."""

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        """What two networks that take turns cannot do, told before training."""
        if self.privacy is not None:
            raise Misfit(
                "privacy",
                "private training needs a loss that is a mean over examples; here a generator and a discriminator "
                "train each other",
            )
        trainer = self.trainer
        if trainer.accumulate != 1:
            raise Misfit(
                "trainer.accumulate",
                f"{trainer.accumulate}: the two networks take turns within a batch, so that batches cannot be put "
                "together; raise data.batch_size",
            )
        if trainer.precision == "16-mixed":
            raise Misfit(
                "trainer.precision",
                "the gradient penalty's second derivatives leave float16's range; use bf16-mixed or 32-true",
            )
        if trainer.strategy == "fsdp":
            raise Misfit("trainer.strategy", "the gradient penalty needs whole weights; use ddp")
        return self
