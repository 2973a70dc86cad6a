"""What happens at a step boundary, in this order: count, check, log, save, stop.

Signals only set a flag (`signals.py`); everything that touches the disk happens here, between two steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gentool.data import Batch
from gentool.errors import GentoolError
from gentool.training.metricslog import MetricsLog
from gentool.training.module import GenModule
from gentool.training.sharding import all_finite
from gentool.training.signals import StopFlag

OnStep = Callable[[int, int, dict[str, float]], None]
"""(step, max_steps, newest metrics): progress, called after every step on rank 0."""


NAMED = 16
"""Examples of a batch that an error names."""


class NonFiniteError(GentoolError):
    """The loss was NaN or infinite."""


class StepEnd(Callback):
    """Everything that follows an optimiser step."""

    def __init__(
        self,
        *,
        log: MetricsLog | None,
        save: Callable[[Trainer, GenModule], None],
        stop: StopFlag,
        on_step: OnStep | None,
        restore: Callable[[Trainer], None] | None,
        last_step: int,
    ) -> None:
        """`last_step`: where this training ends, `trainer.max_steps` or a private run's budget."""
        self.last_step = last_step
        self.log_rows, self.save, self.stop, self.on_step, self.restore = log, save, stop, on_step, restore
        self._losses: list[Tensor] = []
        self._examples: list[Tensor] = []
        self._sum, self._seen = 0.0, 0
        self._metrics: dict[str, float] = {}
        self._clock = time.perf_counter()
        self._clock_step = 0
        self._saved_at = 0
        self._lr = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, GenModule)
        self.stop.install()  # after Lightning's own handlers, so that ours are the ones that run
        if self.restore is not None:
            self.restore(trainer)
        self._saved_at = self._clock_step = pl_module.step
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = pl_module
        assert isinstance(module, GenModule)
        config = module.recipe.trainer
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self._losses.append(loss.detach())
        # which records a private step took is its secret
        named = isinstance(batch, Batch) and module.recipe.privacy is None
        self._examples.append(batch.index if named else torch.empty(0))
        if (batch_idx + 1) % config.accumulate:
            return
        module.end_step(module.images_per_step)
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]
        step, last = module.step, module.step >= self.last_step
        stopping = self.stop.agreed(trainer)
        log_now = step % config.log_every == 0 or last
        save_now = step % config.checkpoint_every == 0 or last or stopping
        # On a CPU looking at the loss is free; on a GPU it would stop the queue, and over several processes it
        # would wait for the others: there it is done when a row or a checkpoint is due, before either is written.
        if log_now or save_now or (module.device.type == "cpu" and trainer.world_size == 1):
            self._check_losses(trainer, module)
        if log_now:
            self._write_row(trainer, module)
        if trainer.is_global_zero and self.on_step is not None:
            self.on_step(step, config.max_steps, self._metrics)
        if save_now:
            self._check_weights(trainer, module)
            self.save(trainer, module)
            self._saved_at = step
        if stopping:
            trainer.should_stop = True

    def _check_losses(self, trainer: Trainer, module: GenModule) -> None:
        losses, examples = torch.stack(self._losses).float(), self._examples
        self._losses, self._examples = [], []
        if trainer.world_size > 1:  # the global batch's losses, so that every rank judges alike
            losses = cast(Tensor, trainer.strategy.reduce(losses, reduce_op="mean"))
        self._sum += float(losses.sum())
        self._seen += len(losses)
        if bool(torch.isfinite(losses).all()):
            return
        accumulate = module.recipe.trainer.accumulate
        bad = int((~torch.isfinite(losses)).nonzero()[0])
        micro = module.step * accumulate - len(losses) + bad
        raise NonFiniteError(
            f"the loss became {float(losses[bad])} in step {micro // accumulate + 1} "
            f"(training batch {micro}{_listed(examples[bad])}, learning rate {self._lr:g}); {self._advice(module)}"
        )

    def _check_weights(self, trainer: Trainer, module: GenModule) -> None:
        """A gradient that overflows under a finite loss shows in the weights, which must not be saved."""
        weights = dict(module.named_parameters())
        bad = (~all_finite(list(weights.values()))).float()
        if trainer.world_size > 1:  # a shard's fault is everyone's, or the others would wait for it for ever
            bad = cast(Tensor, trainer.strategy.reduce(bad, reduce_op="max"))
        for name in itertools.compress(weights, bad.tolist()):
            raise NonFiniteError(
                f"the loss is finite, but the weights {name} are NaN or infinite after step "
                f"{module.step} (learning rate {self._lr:g}); {self._advice(module)}"
            )

    def _advice(self, module: GenModule) -> str:
        change = module.remedies
        if self._saved_at == 0:
            return f"there is no checkpoint yet: {change}, and start again"
        return (
            f"the checkpoint of step {self._saved_at} is good: {change}, "
            "and go on with --resume auto --allow-change"
        )

    def _write_row(self, trainer: Trainer, module: GenModule) -> None:
        now = time.perf_counter()
        steps = max(1, module.step - self._clock_step)
        self._metrics = {
            "step": module.step,
            "loss": self._sum / max(1, self._seen),
            "lr": self._lr,
            "images_per_second": steps * module.images_per_step / max(1e-9, now - self._clock),
            **{k: float(v) for k, v in trainer.callback_metrics.items() if k != "loss"},
        }
        self._sum, self._seen, self._clock, self._clock_step = 0.0, 0, now, module.step
        if trainer.is_global_zero and self.log_rows is not None:
            self.log_rows.write(self._metrics)

    def state(self) -> dict[str, float]:
        """The running mean since the last row, so that a resumed run writes the rows of an uninterrupted one."""
        return {"sum": self._sum, "seen": self._seen}

    def load_state(self, state: dict[str, float]) -> None:
        self._sum, self._seen = float(state["sum"]), int(state["seen"])


def _listed(examples: Tensor) -> str:
    """For people: the rows (B,) of a batch in the training split, the first few."""
    rows = examples.tolist()
    if not rows:
        return ""
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return f" of the examples {', '.join(map(str, rows[:NAMED]))}{more}"
