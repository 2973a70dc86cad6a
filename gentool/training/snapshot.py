"""All that a resumed run needs, as one checkpoint: weights, optimiser, EMA, step. No generator state: see module.py."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

from gentool.errors import CorruptError, UserError
from gentool.training.module import GenModule

FORMAT = 1


def take(trainer: Trainer, module: GenModule) -> dict[str, Any]:
    """Every rank calls this (sharded strategies gather); rank 0 writes the result."""
    strategy = trainer.strategy
    return {
        "format": FORMAT,
        "step": module.step,
        "module": strategy.lightning_module_state_dict(),
        "optimizers": [strategy.optimizer_state(optimizer) for optimizer in trainer.optimizers],
        "precision": trainer.precision_plugin.state_dict(),
        "ema": None if module.ema is None else module.ema.state_dict(),
    }


def restore_weights(module: GenModule, state: dict[str, Any]) -> None:
    """Before `Trainer.fit`: weights, EMA and the step.

    Raises:
        UserError: the checkpoint is of another model.
    """
    if state.get("format") != FORMAT:
        raise CorruptError(f"checkpoint format {state.get('format')!r}; this gentool reads {FORMAT}")
    try:
        module.load_state_dict(state["module"])
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"the checkpoint is of another model than the recipe: {first}") from None
    module.step = int(state["step"])
    module.prepare_training()
    if (module.ema is None) != (state["ema"] is None):
        raise UserError("the checkpoint and the recipe disagree about ema")
    if module.ema is not None:
        module.ema.load_state_dict(state["ema"])


def restore_optimizers(trainer: Trainer, state: dict[str, Any]) -> None:
    """Once the strategy has set the optimisers up; their settings stay the recipe's, which may have changed."""
    settings = [
        [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        for optimizer in trainer.optimizers
    ]
    trainer.strategy.load_optimizer_state_dict({"optimizer_states": state["optimizers"]})
    for optimizer, groups in zip(trainer.optimizers, settings, strict=True):
        for group, kept in zip(optimizer.param_groups, groups, strict=True):
            group.update(kept)
    trainer.precision_plugin.load_state_dict(state["precision"])
