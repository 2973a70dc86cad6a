"""Whether a recipe's weights can be sharded, told before training and at the key that is in the way. No torch."""

from __future__ import annotations

from gentool.recipes.schema import Misfit, Recipe


def check_sharding(recipe: Recipe, shards: bool) -> Recipe:
    """The recipe itself; `shards` is what its family says (`Family.shards`).

    Raises:
        Misfit: it asks for `trainer.strategy: fsdp`, and the family or another key does not go with it.
    """
    config = recipe.trainer
    if config.strategy != "fsdp":
        return recipe
    if not shards:
        raise Misfit(
            "trainer.strategy",
            f"the family {recipe.family} keeps all weights on each device: its networks are not made to be cut; "
            "use ddp",
        )
    if config.precision not in ("32-true", "bf16-mixed"):
        raise Misfit(
            "trainer.precision", f"fsdp takes 32-true or bf16-mixed, not {config.precision}; or use ddp"
        )
    return recipe
