"""A-ViT: a vision transformer trained to let its tokens halt (arXiv 2112.07658), and the plain one, DeiT's way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gentool.data import Batch, DataSet, DataSpec, to_model
from gentool.errors import UserError
from gentool.families.a_vit import augment, study
from gentool.families.a_vit.config import AVitRecipe
from gentool.families.a_vit.distil import check_teacher, distilled_loss, imitation
from gentool.families.a_vit.halting import distribution_loss
from gentool.families.a_vit.model import AdaptiveViT
from gentool.families.a_vit.randaugment import rand_augmented
from gentool.families.a_vit.start import load_start
from gentool.metrics.classifier import Judge
from gentool.networks.vit import Heads
from gentool.training.augment import shifted
from gentool.training.classifying import ClassifyingModule
from gentool.training.findings import Findings
from gentool.training.fitting import model_batches
from gentool.training.module import Examples
from gentool.training.optimizers import build_optimizer

LEAST = 8
"""Pictures of a batch, below which its mean scores say too little to be compared with their target."""
CHECKED = 200
"""The step after which it is said that nothing halts, or everything."""


class AVitModule(ClassifyingModule):
    """Cross-entropy of the class token's mean state, and of a gated model the ponder and the distribution loss."""

    no_samples = "an a-vit draws no samples: it classifies; judge it by gentool evaluate RUN"
    recipe: AVitRecipe
    model: AdaptiveViT

    def __init__(self, recipe: AVitRecipe, spec: DataSpec) -> None:
        super().__init__(recipe, spec)
        channels, *sides = spec.shape
        crop = recipe.model.crop
        if crop is not None and crop.size > min(sides):
            raise UserError(
                f"{crop.size} is larger than the pictures, {sides[0]}x{sides[1]}", "model.crop.size"
            )
        side = tuple(sides) if crop is None else (crop.size, crop.size)
        self.model = AdaptiveViT(recipe.model, (channels, *side), spec.classes)
        self._teacher: Judge | None = None
        self.skipped = 0
        self._watched: dict[str, Tensor] = {}

    # Before training

    def fit_to_data(self, dataset: DataSet) -> None:
        if self.recipe.model.distillation is not None:
            self._open_teacher()  # refused before any work, where it cannot teach
        start, halting = self.recipe.model.start, self.recipe.model.halting
        center = None
        if start is not None:
            notices, center = load_start(start, self.model)
            for line in notices:
                self.say(line)
        elif halting is not None:
            self.say(
                "warning: model.start is not given: tokens learn to halt from random weights; A-ViT is fine-tuned "
                "from a plain transformer, a run with model.halting=null"
            )
        gate = self.model.gate
        if gate is None or halting is None or halting.gate_center is not None:
            return
        if center is None:
            self.model.place_gate(self.pictures(next(model_batches(dataset))[:512]))
        else:
            gate.center.fill_(center)
        self.say(f"model.halting.gate_center is {float(gate.center):.4g}")

    def pictures(self, x: Tensor) -> Tensor:
        """What the network reads of pictures (B, C, H, W) when it is not trained."""
        crop = self.recipe.model.crop
        return x if crop is None else augment.middle(x, crop.size)

    def teacher(self) -> Judge:
        """The teacher, on the module's device and frozen; opened at its first use, past `nn.Module`'s registry.

        Raises:
            UserError: it is no classifier of these pictures.
        """
        if self._teacher is None:
            self._teacher = self._open_teacher()
        return self._teacher

    def _open_teacher(self) -> Judge:
        distillation = self.recipe.model.distillation
        assert distillation is not None
        assert self.open_run is not None
        opened = self.open_run(distillation.teacher).to(self.device).eval().requires_grad_(False)
        check_teacher(opened, distillation.teacher, self.spec)
        return opened.judge()

    # Training

    def examples(self, batch: Batch) -> Examples:
        """Pictures after augmentation, and targets (B, classes) that sum to 1."""
        config, model = self.recipe.model.augment, self.recipe.model
        x, label = to_model(batch.x), batch.label
        if config.repeats > 1:
            rows = torch.arange(len(x), device=x.device) % -(-len(x) // config.repeats)
            x, label = x[rows], label[rows]
        count = len(x)
        if model.crop is not None:
            x = augment.cropped(x, self._uniform(count, 4), model.crop)
        if config.flip:
            x = self.mirrored(x)
        if config.shift:
            by = self._uniform(count, 2) * (2 * config.shift + 1)
            x = shifted(x, by.long() - config.shift)
        if config.jitter:
            x = augment.jittered(x, self._uniform(count, 4), config.jitter)
        if (rand := config.rand) is not None:
            strength = (rand.magnitude + rand.std * self._normal(count, rand.count)) / 10
            x = rand_augmented(x, self._uniform(count, rand.count, 3), strength)
        if config.erase:
            x = augment.erased(x, self._uniform(count, 5), self._normal(*x.shape), config.erase)
        target = F.one_hot(label, self.classes).to(x.dtype)
        if config.mixup or config.cutmix:
            key = int(torch.randint(2**62, (), generator=self.host_rng))
            x, target = augment.mixed(x, target, config, np.random.default_rng(key))
        smoothing = model.label_smoothing
        return {"x": x, "target": (1 - smoothing) * target + smoothing / self.classes}

    def _uniform(self, count: int, *shape: int) -> Tensor:
        return self.global_draw(
            count, lambda n: torch.rand(n, *shape, generator=self.rng, device=self.device)
        )

    def _normal(self, count: int, *shape: int) -> Tensor:
        return self.global_draw(
            count, lambda n: torch.randn(n, *shape, generator=self.rng, device=self.device)
        )

    def batch_loss(self, examples: Examples) -> Tensor:
        """Task, ponder and distribution loss of a batch (section 3.3), 0-d; the last is left out of few pictures."""
        x = examples["x"]
        halting, gate = self.recipe.model.halting, self.model.gate
        if halting is None or gate is None:
            return self.task_loss(self.model.states(x), examples)
        trace = self.model.trace(x)
        loss = self.task_loss(trace.mean, examples)
        halts = self.model.halts
        ponder = trace.ponder[:, halts].mean()
        loss = loss + halting.ponder_weight * ponder
        self._watched = {
            "ponder": ponder.detach(),
            "mean_depth": trace.depth[:, halts].double().mean(),
            "class_depth": trace.depth[:, 0].double().mean(),
        }
        if len(x) >= LEAST:
            distribution = distribution_loss(trace.scores, gate.target)
            loss = loss + halting.distribution_weight * distribution
            self._watched["distribution"] = distribution.detach()
        else:
            self.skipped += 1
            self._watched["prior_skipped"] = torch.tensor(float(self.skipped))
        return loss

    def task_loss(self, states: Tensor, examples: Examples) -> Tensor:
        """Cross-entropy of the readers' states (B, readers, d), with a teacher's part where there is one.

        The class token learns the labels, the distillation token what the teacher says; without one the class token
        learns both.
        """
        distillation, network = self.recipe.model.distillation, self.model.network
        features = network.read(states)
        said = (
            network.output.each(features) if isinstance(network.output, Heads) else [network.output(features)]
        )
        task = F.cross_entropy(said[0], examples["target"])
        if distillation is None:
            return task
        with torch.no_grad():
            known = self.teacher().logits(examples["x"])
        return distilled_loss(task, imitation(said[-1], known, distillation), distillation)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log_dict(self._watched, batch_size=1)
        return loss

    def end_step(self, batch_size: int) -> None:
        super().end_step(batch_size)
        if self.step == CHECKED and "mean_depth" in self._watched:
            self._say_whether_tokens_halt(float(self._watched["mean_depth"]))

    def _say_whether_tokens_halt(self, depth: float) -> None:
        blocks = self.recipe.model.network.depth
        if depth > blocks - 0.005:
            self.say(
                f"warning: mean depth {depth:.2f} of {blocks} after {CHECKED} steps, nothing halts: lower "
                "model.halting.gate_center"
            )
        elif depth < 1.005:
            self.say(
                f"warning: mean depth {depth:.2f} of {blocks} after {CHECKED} steps, everything halts in the first "
                "block: raise model.halting.gate_center, or lower model.halting.ponder_weight"
            )

    def configure_optimizers(self) -> Any:
        """Without weight decay on biases, norms and the learned tokens, as DeiT."""
        matrices = [p for p in self.parameters() if p.ndim in (2, 4)]
        rest = [p for p in self.parameters() if p.ndim not in (2, 4)]
        config = self.recipe.trainer
        clipped = config.precision == "bf16-mixed" and config.clip_norm is not None
        fused = config.precision != "16-mixed" and not clipped
        optimizer = build_optimizer(self.recipe.optimizer, matrices, fused=fused)
        optimizer.add_param_group({"params": rest, "weight_decay": 0.0})
        return optimizer

    def compiled_parts(self) -> list[nn.Module]:
        return list(self.model.network.blocks)

    # Use

    def evaluate_model(
        self, held_out: DataSet, *, seed: int = 0, report: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """Accuracy, cross-entropy in nats, and what halting saves; see `study.figures`. Nothing in it is random."""
        return study.figures(self, held_out, report)

    def study_model(self, held_out: DataSet, *, seed: int = 0) -> Findings:
        return study.findings(self, held_out)

    def judge(self) -> Judge:
        return Judge(lambda x: self.model.features(self.pictures(x)), self.model.network.output, self.device)
