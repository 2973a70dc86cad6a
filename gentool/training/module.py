"""The Lightning module under every family.

A training step is a pure function of (weights, optimiser state, step number): data order, noise and dropout are keyed
by the step, so that a resumed run ends with the weights of an uninterrupted one, bit for bit on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from gentool.noise import mix
from gentool.recipes.schema import Recipe
from gentool.training.contract import Contract, Examples
from gentool.training.ema import Ema
from gentool.training.microbatch import mean_in_parts
from gentool.training.optimizers import LrSchedule, build_optimizer
from gentool.training.sharding import shard
from gentool.training.watching import Say, unsaid

if TYPE_CHECKING:
    from gentool.data import Batch, DataSpec
    from gentool.training.private.step import PrivateStep, SecretStep


class GenModule(Contract):
    """Base of every family's module: the training around what a family writes.

    Attributes:
        draws: of the loss's randomness for each example (`averages_draws`); above 1 in private training alone.
        private: the step of private training, while it is trained so.
        step: optimiser steps done, over all resumptions.
        base: the frozen model that this one is distilled from, where its family has one (`Family.distils`): it moves
            along to another device or precision, and is never trained, saved or averaged with the module's own weights.
        open_run: the model of another run that the recipe names beside `base`, by its path; set by whoever builds the
            module.
        rng: this training batch's generator on the module's device, the same on every rank: families draw for the
            global batch and keep their own rows.
        host_rng: this training batch's generator on the CPU, each rank its own.
        say: where a line for the user goes.
    """

    base: GenModule | None = None
    open_run: Callable[[str], GenModule] | None = None

    def __init__(self, recipe: Recipe, spec: DataSpec) -> None:
        super().__init__()
        self.recipe = recipe
        self.spec = spec
        self.step = 0
        self.classes = 0
        self.rng = torch.Generator()
        self.host_rng = torch.Generator()
        self.ema: Ema | None = None
        self.draws = 1 if recipe.privacy is None else recipe.privacy.noise_multiplicity
        self.private: SecretStep | None = None
        self.automatic_optimization = recipe.privacy is None
        self.say: Say = unsaid
        self._first_micro = 0
        self._parts = 1
        self._examples: Examples = {}

    def per_example_loss(self, batch: Batch) -> Tensor:
        """(B,) losses of a batch."""
        return self.losses(self.examples(batch))

    @property
    def world(self) -> int:
        """Processes that share a batch and its draws; in private training each has a batch of its own."""
        return 1 if self._trainer is None or self.private is not None else self.trainer.world_size

    @property
    def images_per_step(self) -> int:
        """Examples of one optimiser step over all processes; on average, in private training."""
        if self.private is not None:
            return max(1, round(self.private.plan.expected_batch))
        return self.recipe.data.batch_size * self.recipe.trainer.accumulate

    def own_rows(self, rows: Tensor) -> Tensor:
        """This rank's share of rows drawn for the global batch, which is split by interleaving (data/order.py)."""
        return rows if self.world == 1 else rows[self.global_rank :: self.world]

    def global_draw(self, count: int, draw: Callable[[int], Tensor]) -> Tensor:
        """`draw(n)` for the global batch of n = count x world, cut to this rank: ranks together see what one
        process would have seen."""
        return self.own_rows(draw(count * self.world))

    def mirrored(self, x0: Tensor) -> Tensor:
        """Pictures (B, C, H, W), each turned left to right with probability 1/2."""
        u = self.global_draw(len(x0), lambda n: torch.rand(n, generator=self.rng, device=self.device))
        return torch.where((u < 0.5).view(-1, 1, 1, 1), x0.flip(3), x0)

    def dropped_labels(self, label: Tensor, share: float) -> Tensor | None:
        """(B,) labels, each replaced by the null label with probability `share`; None for an unconditional model."""
        if self.classes == 0:
            return None
        drop = self.global_draw(len(label), lambda n: torch.rand(n, generator=self.rng, device=self.device))
        return torch.where(drop < share, self.classes, label)

    def adopt(self, base: GenModule) -> None:
        """Takes `base`, frozen and in eval mode: past `nn.Module`'s registry, so that no state dict holds it."""
        self.__dict__["base"] = base.eval().requires_grad_(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self.base is not None:
            self.base._apply(fn, recurse)
            self.base.to(self.device)  # so that it knows where it is; `to` would have told it
        return super()._apply(fn, recurse)

    def try_examples(self, batch: Batch) -> Examples:
        """The examples of a batch without a Trainer."""
        self._seed(0)
        return self.examples(batch)

    def try_step(self, batch: Batch) -> Tensor:
        """One forward and backward pass without a Trainer: for dry runs and the conformance tests."""
        loss = self.batch_loss(self.try_examples(batch))
        loss.backward()
        return loss.detach()

    # What Lightning calls

    def prepare_training(self) -> None:
        """Builds the EMA; called after weights are initialised or restored."""
        if self.recipe.ema is not None and self.ema is None:
            self.ema = Ema(self.model, self.recipe.ema)

    def configure_model(self) -> None:
        """Cuts weights and average into shards, where the strategy is `Sharded`: no other has a mesh of devices."""
        if self.device_mesh is not None:
            shard(self, self.compiled_parts(), self.device_mesh["data_parallel"])
            if self.ema is not None:
                self.ema.shard(self.model)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.private is not None:
            return self._private_step(cast("PrivateStep", self.private), batch)
        self._examples = self.examples(batch)
        return self._fitting_loss()

    def _fitting_loss(self) -> Tensor:
        """The batch's loss, worked off in as many parts as the device's memory asks for."""
        while True:
            try:
                return self._mean_loss()
            except torch.OutOfMemoryError as error:
                reason = error
            self._split_batch(reason)  # once the frames of the failed pass, and what they hold, are gone

    def _mean_loss(self) -> Tensor:
        if self._parts == 1:
            return self.batch_loss(self._examples)
        return mean_in_parts(
            self.losses, self._examples, [p for p in self.parameters() if p.requires_grad], self._parts
        )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's backward pass; out of memory, the step is worked off again in parts."""
        config = self.recipe.trainer
        if not self.automatic_optimization:  # a step of its own, whose losses are not means over examples
            super().backward(loss, *args, **kwargs)
            return
        try:
            super().backward(loss, *args, **kwargs)
            return
        except torch.OutOfMemoryError as error:
            # other processes have their hooks' share of this pass already, earlier batches theirs of the gradient,
            # and a scaler its factor in the loss
            if self.world > 1 or config.accumulate > 1 or config.precision == "16-mixed":
                raise
            reason = error
        self.zero_grad()
        self._split_batch(reason)
        super().backward(self._fitting_loss())

    def _split_batch(self, reason: torch.OutOfMemoryError) -> None:
        rows = len(next(iter(self._examples.values())))
        # shards are gathered by all devices together, and have their gradients from a backward pass alone
        fixed = self.device_mesh is not None or not self.in_parts
        if not self.recipe.trainer.auto_microbatch or fixed or self._parts >= rows:
            raise reason
        self._parts = min(2 * self._parts, rows)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.say(
            f"warning: a batch of {rows} does not fit the device's memory: worked off in {self._parts} parts from now "
            "on, with the same gradient"
        )

    def _private_step(self, private: PrivateStep, batch: Batch) -> Tensor:
        """An optimiser step on a noisy gradient; the batch may be empty. What is logged stays in the run folder."""
        taken = private.take(self.examples(batch) if len(batch.x) else {}, self.step)
        for parameter, gradient in private.engine.spread(taken.gradient):
            parameter.grad = gradient
        optimizer = cast(LightningOptimizer, self.optimizers())
        optimizer.step()
        optimizer.zero_grad()
        self.log_dict({"clipped": taken.clipped, "skipped": private.skipped}, batch_size=1)
        return taken.loss

    def on_train_start(self) -> None:
        self._first_micro = self.step * self.recipe.trainer.accumulate
        if self.ema is not None:
            self.ema.to(self.device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._seed(self._first_micro + batch_idx)
        for optimizer, schedule in zip(self.trainer.optimizers, self.lr_schedules(), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = schedule(self.step)

    def _seed(self, micro: int) -> None:
        """Keys all randomness of training batch `micro`; dropout takes torch's global generators.

        Private training keys it by a secret, each process its own: were the draws known, they would shift from
        record to record as one joins the batch, and one record could move the sum by more than the clipping norm.
        """
        seed = self.recipe.seed
        if self.private is not None:
            seed = self.private.secrets.key("draws", micro, self.global_rank)
        if self.rng.device != self.device:
            self.rng = torch.Generator(self.device)
        self.rng.manual_seed(mix(seed, "train", micro))
        self.host_rng.manual_seed(mix(seed, "host", micro, self.global_rank))
        layers = mix(seed, "layers", micro, self.global_rank)
        # torch.manual_seed would format a stack trace for every kind of accelerator that is not in use, each step
        torch.default_generator.manual_seed(layers)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(layers)

    def end_step(self, batch_size: int) -> None:
        """One optimiser step is done: count it and let the EMA follow."""
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, self.step, batch_size)

    def configure_optimizers(self) -> Any:
        # a gradient scaler and clipping want to unscale between the backward pass and the step
        config = self.recipe.trainer
        # Lightning's plug-in of either mixed precision refuses to clip the gradients of a fused optimiser
        clipped = config.precision == "bf16-mixed" and config.clip_norm is not None
        fused = config.precision != "16-mixed" and not clipped
        return build_optimizer(self.recipe.optimizer, self.parameters(), fused=fused)

    def lr_schedules(self) -> list[LrSchedule]:
        """One for each optimiser, in the order of `configure_optimizers`."""
        return [LrSchedule(self.recipe.optimizer, self.recipe.trainer.max_steps)]
