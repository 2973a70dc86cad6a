"""Whether a recipe's `privacy:` block can be kept, told before training and at the key that is in the way. No torch."""

from __future__ import annotations

from gentool.errors import UserError
from gentool.privacy.plan import plan
from gentool.recipes.schema import Misfit, Recipe

STRATEGIES = ("auto", "ddp")


def check_privacy(recipe: Recipe) -> Recipe:
    """The recipe itself.

    Raises:
        Misfit: another key does not go with `privacy:`, or no noise reaches its target.
    """
    if recipe.privacy is None:
        return recipe
    if recipe.privacy.pretrained is not None and "base" not in type(recipe).model_fields:
        raise Misfit(
            "privacy.pretrained",
            f"says what the run that training starts from was trained on, and {recipe.family} starts from none",
        )
    if recipe.trainer.accumulate != 1:
        raise Misfit(
            "trainer.accumulate",
            "private training takes one Poisson batch a step: a record could be in several accumulated ones; "
            "leave it at 1, raise data.batch_size, and bound the memory by privacy.physical_batch",
        )
    if recipe.trainer.clip_norm is not None:
        raise Misfit(
            "trainer.clip_norm",
            "private training clips each record's gradient (privacy.max_grad_norm); leave out that of their sum",
        )
    if recipe.trainer.precision.startswith("16"):
        raise Misfit(
            "trainer.precision",
            "private training takes 32-true, 64-true or bf16-mixed: float16 needs its losses scaled, and "
            "records that overflow would be left out",
        )
    if recipe.trainer.compile and recipe.privacy.engine != "vmap":
        raise Misfit(
            "trainer.compile",
            "private training compiles with privacy.engine: vmap alone; say that too, or leave it out",
        )
    if recipe.trainer.strategy not in STRATEGIES:
        raise Misfit(
            "trainer.strategy",
            f"private training takes {', '.join(STRATEGIES)}: a record's norm needs all weights in one place",
        )
    # The built-in accountant: what it finds within reach is so for a tighter one too.
    privacy = recipe.privacy.model_copy(update={"accountant": "rdp"})
    known = recipe.data.public_records()
    try:
        plan(
            privacy, recipe.data.batch_size, recipe.trainer.max_steps, known, private_step=recipe.private_step
        )
    except UserError as error:
        if error.where == "privacy.epsilon" and recipe.privacy.accountant != "rdp":
            return recipe
        raise Misfit(error.where or "privacy", error.message) from None
    return recipe
